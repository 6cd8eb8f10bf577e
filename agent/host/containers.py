"""How a container shows in /proc, where everybody can read: its control group, its supervisor.

docker and podman name a container's group by its id, in one component of the path:

    <id>                    docker and crun with the driver cgroupfs
    docker-<id>.scope       docker with the driver systemd, rootless too
    libpod-<id>[.scope]     podman with cgroupfs and with systemd; the container's processes may be
                            one group below (`/container`)
    libpod-payload-<id>     podman with --cgroups=split
    crun-<id>[.scope]       crun where the engine names no group

`libpod-conmon-<id>.scope` is the supervisor's, which has yet to write down how its container ended.
Rootless podman without systemd makes no group at all; there the supervisor is what shows. Pure;
must not import an engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.host.ids import ContainerId, Malformed, container_id

_PREFIXES = ("", "docker-", "libpod-", "libpod-payload-", "crun-")

_SUPERVISORS = {b"conmon": b"-c", b"containerd-shim-runc-v2": b"-id", b"containerd-shim": b"-id"}
"""By program: which flag the container's id follows."""
SUPERVISOR_NAMES = ("conmon", "containerd-shim")
"""As the kernel has them, which keeps 15 characters. Anybody can take such a name, and such
arguments: whose the process is has to be asked as well."""


def has_group(group: bytes, container: ContainerId) -> bool:
    """Whether a process with these lines of /proc/PID/cgroup is in the container's group or below
    it, in any hierarchy."""
    names = {f"{prefix}{container}".encode() for prefix in _PREFIXES}
    return any(
        component.removesuffix(b".scope") in names
        for line in group.splitlines()
        for component in line.partition(b":")[2].partition(b":")[2].split(b"/")
    )


def supervises(arguments: Sequence[bytes], container: ContainerId) -> bool:
    """Whether this is the command line of the container's supervisor."""
    return _follows(arguments, _flag(arguments)) == container.encode()


def supervised(arguments: Sequence[bytes], name: str) -> ContainerId | None:
    """The id of the container called `name` that a conmon with this command line supervises; None
    for every other command line. No docker shim knows a name."""
    if _flag(arguments) != b"-c" or _follows(arguments, b"-n") != name.encode():
        return None
    try:
        return container_id(_follows(arguments, b"-c").decode(errors="replace"))
    except Malformed:
        return None


def _flag(arguments: Sequence[bytes]) -> bytes:
    program = arguments[0].rpartition(b"/")[2] if arguments else b""
    return _SUPERVISORS.get(program, b"")


def _follows(arguments: Sequence[bytes], flag: bytes) -> bytes:
    """The first argument after `flag`; empty without one."""
    for at, argument in enumerate(arguments[:-1]):
        if flag and argument == flag:
            return arguments[at + 1]
    return b""
