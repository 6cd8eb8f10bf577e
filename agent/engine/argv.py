"""Command lines of docker and podman. Pure: a test is a table.

Both take the same arguments but where a function says otherwise. What a job brings never stands
where it could be read as a flag, and none of its secrets stands in a command line, which every
user of the host can read. Must not import anything that runs a process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass

from agent.core.assignment import ContainerSpec, NodeKey
from agent.core.marks import HOST
from agent.engine.parse import ImageCommand

VOLUME_LABEL = "muster.container"

_CPU_SHARES = range(2, 262_144 + 1)
"""What the kernel takes; one vCPU is 1024 (aws-batch-evidence: cpu of a task)."""

_LABEL = "--label="
# The shell's own words on an interrupted wait are nobody's.
_WAITING = """trap "exit 143" TERM
{ read -r _ < "$0"; } 2>/dev/null || { echo "muster: cannot read $0" >&2; exit 125; }
exec "$@"
"""

_MINIMUM_MEMORY_MIB = 6
"""Docker refuses less."""

# A file has one variable a line. Both engines agree on the rest of a line only when it has no
# control character, does not begin with a quote (some podman releases unquote), has no `#` (podman
# 4.7.0 ends it there) and is not huge (docker stops at 64 KiB).
_PLAIN_VALUE = re.compile(r"(?![\"'`])[^#\x00-\x1f\x7f\x85\u2028\u2029]{0,16384}")

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")

# What the CLI, what it starts, their libraries or the dynamic loader would themselves obey.
_OBEYED_NAME = re.compile(
    r"PATH|HOME|USER|TMPDIR|TZ|TZDIR|LANG|NOTIFY_SOCKET|NLSPATH|LOCPATH|HOSTALIASES|LOCALDOMAIN"
    r"|GETCONF_DIR|ENV|GODEBUG|GOTRACEBACK|GOMAXPROCS|GOGC|GOMEMLIMIT|(?i:.*_proxy)"
    r"|(LD|LC|GLIBC|MALLOC|GCONV|RES|RESOLV|BASH|PYTHON|PERL|GO|DOCKER|BUILDKIT|BUILDAH|CONTAINER"
    r"|CONTAINERS|PODMAN|CONMON|CNI|NETAVARK|XTABLES|IPTABLES|NFT|STORAGE|REGISTRY|XDG|SSL|SSH"
    r"|LISTEN|_CONTAINERS|DBUS|SYSTEMD|OTEL)(_.*)?"
)


@dataclass(frozen=True, slots=True)
class SplitEnvironment:
    """How a container's environment reaches the engine, and no secret a command line.

    `file` is for `--env-file`, one variable a line. What no line can hold stands in the command
    line, `arguments`, if it is no secret. A secret is given to the CLI in its own environment and
    its name with `--env NAME`: `inherited`. A job chooses such a name, though not the value, so
    names that would change what the CLI does are not passed at all: `refused`.
    """

    file: str
    arguments: tuple[str, ...]
    inherited: tuple[tuple[str, str], ...]
    refused: tuple[str, ...]


def split_environment(
    environment: Iterable[tuple[str, str]], secrets: Container[str]
) -> SplitEnvironment:
    """Sort variables by the way that is safe for each. `secrets` are names."""
    lines: list[str] = []
    arguments: list[str] = []
    inherited: list[tuple[str, str]] = []
    refused: list[str] = []
    for name, value in environment:
        if _PLAIN_VALUE.fullmatch(value) and _PLAIN_NAME.fullmatch(name):
            lines.append(f"{name}={value}\n")
        elif name not in secrets:
            arguments.append(f"{name}={value}")
        elif _PLAIN_NAME.fullmatch(name) and not _OBEYED_NAME.fullmatch(name):
            inherited.append((name, value))
        else:
            refused.append(name)
    return SplitEnvironment("".join(lines), tuple(arguments), tuple(inherited), tuple(refused))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Where docker and podman differ. `version` is the Go template of what `version` prints, `gpus`
    makes the flags of some GPUs of its ids, `decode_log` output of what the engine writes into a
    container's log file."""

    version: str
    run: tuple[str, ...]
    read_only: tuple[str, ...]
    remove: tuple[str, ...]
    gpus: Callable[[tuple[str, ...]], list[str]]
    decode_log: Callable[[bytes], tuple[bytes, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What of a host is the same for all its containers. `network` is `host` or the name of one
    of the engine's networks; `extra` are the operator's flags, which prevail over ours."""

    host_id: str
    private_ipv4: str
    network: str = "host"
    extra: tuple[str, ...] = ()


def run(
    key: NodeKey,
    spec: ContainerSpec,
    site: Site,
    dialect: Dialect,
    log_limit_bytes: int,
    env_file: str,
    environment: SplitEnvironment,
    image_command: ImageCommand | None = None,
) -> list[str]:
    """`run` of a detached container. `image_command` is needed for a specification with a
    gate: what waits there must know what to run in the end."""
    shares = min(max(1024 * spec.vcpus, _CPU_SHARES.start), _CPU_SHARES.stop - 1)
    labels = _labels(key, site.host_id) | (spec.marks.labels if spec.marks is not None else {})
    entrypoint, command = [], list(spec.command)
    if spec.gate and image_command is not None:
        entrypoint = ["--entrypoint=/bin/sh"]
        command = waiting(spec.gate, image_command.with_command(spec.command))
    return [
        *("run", "--detach", "--name", key.name, "--pull", "never"),
        *(f"{_LABEL}{name}={value}" for name, value in labels.items()),
        *_network(spec, site),
        f"--cpu-shares={shares}",
        *_memory(spec),
        *_rights(spec, dialect),
        *_file_systems(key, spec),
        *(dialect.gpus(spec.gpu_ids) if spec.gpu_ids else []),
        f"--env-file={env_file}",
        *(f"--env={pair}" for pair in environment.arguments),
        *(f"--env={name}" for name, _ in environment.inherited),
        *dialect.run,
        f"--log-opt=max-size={log_limit_bytes}",
        *site.extra,
        # A limit that a job asks for by name is no default for the operator's to replace.
        *(f"--ulimit={limit.name}={limit.soft}:{limit.hard}" for limit in spec.ulimits),
        *entrypoint,
        *("--", spec.image, *command),
    ]


def made_by(words: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Name and labels of the container that a `run` as above makes; of another, what it has."""
    flags = list(words[: words.index("--")] if "--" in words else words)
    at = flags.index("--name") + 1 if "--name" in flags else len(flags)
    found = (flag.removeprefix(_LABEL).partition("=") for flag in flags if flag.startswith(_LABEL))
    return "".join(flags[at : at + 1]), {name: value for name, _, value in found}


def hostname(address: str) -> str:
    """EC2's form, which is a name of nothing else."""
    return f"ip-{address.replace('.', '-')}"


def volume_name(key: NodeKey, volume: str) -> str:
    """A scratch volume's name; unique for ever, because the key is."""
    return f"{key.name}-{volume}"


def waiting(gate: str, command: Sequence[str]) -> list[str]:
    """The arguments of a shell that runs `command` once there is a line to read in `gate`, and
    that ends at SIGTERM until then, also as the first process of a container."""
    return ["-c", _WAITING, gate, *command]


def _labels(key: NodeKey, host_id: str) -> dict[str, str]:
    return {
        "muster.job": key.job_id,
        "muster.attempt": str(key.attempt),
        "muster.node": str(key.node_index),
        HOST: host_id,
    }


def _network(spec: ContainerSpec, site: Site) -> list[str]:
    """On a network of its own the engine makes the line in /etc/hosts; on the host's, where the
    host's own name may mean 127.0.1.1, we do (aws-batch-spec section 15)."""
    if site.network != "host":
        name = hostname(spec.address)
        return [f"--network={site.network}", f"--ip={spec.address}", f"--hostname={name}"]
    name = hostname(site.private_ipv4)
    return ["--network=host", f"--hostname={name}", f"--add-host={name}:{site.private_ipv4}"]


def _memory(spec: ContainerSpec) -> list[str]:
    """Swappiness means something only beside a swap limit."""
    memory_mib = max(spec.memory_mib, _MINIMUM_MEMORY_MIB)
    flags = [f"--memory={memory_mib}m"]
    if spec.max_swap_mib is not None:
        flags.append(f"--memory-swap={memory_mib + spec.max_swap_mib}m")
        if spec.swappiness is not None:
            flags.append(f"--memory-swappiness={spec.swappiness}")
    if spec.shared_memory_mib is not None:
        flags.append(f"--shm-size={spec.shared_memory_mib}m")
    return flags


def _rights(spec: ContainerSpec, dialect: Dialect) -> list[str]:
    return [
        *([f"--user={spec.user}"] if spec.user is not None else []),
        *(["--privileged"] if spec.privileged else []),
        *(dialect.read_only if spec.read_only_root else []),
        *(["--init"] if spec.init else []),
    ]


def _file_systems(key: NodeKey, spec: ContainerSpec) -> list[str]:
    flags = []
    for mount in spec.mounts:
        source = mount.source or volume_name(key, mount.volume)
        flags.append(f"--volume={source}:{mount.target}{':ro' if mount.read_only else ''}")
    for tmpfs in spec.tmpfs:
        # `defaults` asks for nothing, and podman does not know it.
        options = [f"size={tmpfs.size_mib}m", *(o for o in tmpfs.options if o != "defaults")]
        flags.append(f"--tmpfs={tmpfs.target}:{','.join(options)}")
    flags += [
        f"--device={device.host_path}:{device.container_path}:{device.permissions}"
        for device in spec.devices
    ]
    return flags


def pull(image: str, authfile: Sequence[str] = ()) -> list[str]:
    """Get the image from its registry."""
    return ["pull", "--quiet", *authfile, "--", image]


def inspect_image(image: str) -> list[str]:
    """Its configuration as JSON; fails when the image is not on this host."""
    return ["image", "inspect", "--format", "{{json .Config}}", "--", image]


def make_volume(key: NodeKey, volume: str, host_id: str) -> list[str]:
    """A scratch volume of a node; podman refuses one that is there."""
    labels = {**_labels(key, host_id), VOLUME_LABEL: key.name}
    flags = [f"--label={name}={value}" for name, value in labels.items()]
    return ["volume", "create", *flags, volume_name(key, volume)]


def list_volumes(key: NodeKey) -> list[str]:
    """Names of a node's scratch volumes, one a line."""
    return ["volume", "ls", "--quiet", "--filter", f"label={VOLUME_LABEL}={key.name}"]


def remove_volumes(names: Sequence[str]) -> list[str]:
    """Delete volumes that no container has."""
    return ["volume", "rm", "--force", *names]


def inspect_network(name: str) -> list[str]:
    """A JSON array with the network."""
    return ["network", "inspect", name]


def list_all_ids() -> list[str]:
    """Ids of all containers, whoever made them, one a line."""
    return ["ps", "--all", "--no-trunc", "--quiet"]


def inspect(names: Sequence[str]) -> list[str]:
    """A JSON array of all that is known of the containers."""
    return ["container", "inspect", "--", *names]


def start(key: NodeKey) -> list[str]:
    """Start a created container."""
    return ["start", key.name]


def wait(key: NodeKey) -> list[str]:
    """Print the exit code when the container has ended."""
    return ["wait", key.name]


def stop(key: NodeKey, grace_seconds: int) -> list[str]:
    """Stop signal, grace, SIGKILL."""
    return ["stop", "-t", str(grace_seconds), key.name]


def kill(key: NodeKey) -> list[str]:
    """SIGKILL."""
    return ["kill", key.name]


def remove(key: NodeKey, extra: Sequence[str]) -> list[str]:
    """Remove the container, killing it if need be, and its anonymous volumes."""
    return ["rm", "--force", "--volumes", *extra, key.name]


def list_ids(host_id: str) -> list[str]:
    """Ids of this host's containers, one a line."""
    return ["ps", "--all", "--no-trunc", "--quiet", "--filter", f"label={HOST}={host_id}"]


def has_local_registry(image: str) -> bool:
    """Whether the image is named as one made on this host (`localhost/name`): no registry is
    asked for it."""
    return image.startswith("localhost/")
