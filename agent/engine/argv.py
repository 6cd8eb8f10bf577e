"""Command lines of docker and podman. Pure: a test is a table.

Both take the same arguments but where a function says otherwise. What a job brings never stands
where it could be read as a flag, and none of its secrets stands in a command line, which every
user of the host can read. Must not import anything that runs a process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.core.assignment import ContainerSpec, NodeKey

HOST_LABEL = "muster.host"

_CPU_SHARES = range(2, 262_144 + 1)
"""What the kernel takes; one vCPU is 1024 (aws-batch-evidence: cpu of a task)."""

_MINIMUM_MEMORY_MIB = 6
"""Docker refuses less."""

# A file has one variable a line. Both engines agree on the rest of a line only when it has no
# control character, does not begin with a quote (some podman releases unquote) and is not huge
# (docker stops at 64 KiB).
_PLAIN_VALUE = re.compile(r"(?![\"'`])[^\x00-\x1f\x7f\x85\u2028\u2029]{0,16384}")

# What the CLI, its libraries or the dynamic loader would themselves obey.
_OBEYED_NAME = re.compile(
    r"PATH|HOME|USER|TMPDIR|TZ|LANG|NOTIFY_SOCKET|REGISTRY_.*|(?i:.*_proxy)"
    r"|(LD|LC|GLIBC|GO|DOCKER|BUILDKIT|BUILDAH|CONTAINER|CONTAINERS|PODMAN|STORAGE|XDG|SSL|SSH"
    r"|LISTEN|_CONTAINERS|DBUS|OTEL)(_.*)?|GODEBUG|GOTRACEBACK|GOMAXPROCS|GOGC|GOMEMLIMIT"
)


@dataclass(frozen=True, slots=True)
class SplitEnvironment:
    """How a container's environment reaches the engine without standing in the command line.

    `file` is for `--env-file`. `inherited` are variables whose value no line can hold: the CLI is
    given them in its own environment and told their names with `--env NAME`. `refused` are such
    names that would also change what the CLI does, so they can be passed in neither way.
    """

    file: str
    inherited: tuple[tuple[str, str], ...]
    refused: tuple[str, ...]


def split_environment(environment: Iterable[tuple[str, str]]) -> SplitEnvironment:
    """Sort variables by the way that is safe for each; the file is the rule, since a variable in
    it (PATH, DOCKER_HOST) cannot alter the CLI."""
    lines: list[str] = []
    inherited: list[tuple[str, str]] = []
    refused: list[str] = []
    for name, value in environment:
        if _PLAIN_VALUE.fullmatch(value) and not name.startswith("#"):
            lines.append(f"{name}={value}\n")
        elif _OBEYED_NAME.fullmatch(name):
            refused.append(name)
        else:
            inherited.append((name, value))
    return SplitEnvironment("".join(lines), tuple(inherited), tuple(refused))


def create(
    key: NodeKey,
    spec: ContainerSpec,
    host_id: str,
    env_file: str,
    inherited: Sequence[str],
    extra: Sequence[str],
) -> list[str]:
    """`create` of a detached container. `extra` are the engine's own and the operator's flags;
    they come last and so prevail over ours."""
    shares = min(max(1024 * spec.vcpus, _CPU_SHARES.start), _CPU_SHARES.stop - 1)
    labels = {
        "muster.job": key.job_id,
        "muster.attempt": str(key.attempt),
        "muster.node": str(key.node_index),
        HOST_LABEL: host_id,
    }
    return [
        *("create", "--name", key.name, "--pull", "never", "--network", "host"),
        *(f"--label={name}={value}" for name, value in labels.items()),
        f"--cpu-shares={shares}",
        f"--memory={max(spec.memory_mib, _MINIMUM_MEMORY_MIB)}m",
        *([f"--user={spec.user}"] if spec.user is not None else []),
        f"--env-file={env_file}",
        *(f"--env={name}" for name in inherited),
        *extra,
        *("--", spec.image, *spec.command),
    ]


def pull(image: str) -> list[str]:
    """Get the image from its registry."""
    return ["pull", "--quiet", "--", image]


def inspect_image(image: str) -> list[str]:
    """Fails when the image is not on this host."""
    return ["image", "inspect", "--format", "{{.Id}}", "--", image]


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


def follow_logs(key: NodeKey) -> list[str]:
    """All output from the start on, until the container has ended."""
    return ["logs", "--follow", key.name]


def list_ids(host_id: str) -> list[str]:
    """Ids of this host's containers, one a line."""
    return ["ps", "--all", "--no-trunc", "--quiet", "--filter", f"label={HOST_LABEL}={host_id}"]


def has_local_registry(image: str) -> bool:
    """Whether the image is named as one made on this host (`localhost/name`): no registry is
    asked for it."""
    return image.startswith("localhost/")
