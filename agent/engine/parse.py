"""What docker and podman print, read. Pure: a test is a table of recorded output.

Must not import anything that runs a process.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.core.assignment import NodeKey
from agent.core.marks import HOST, Marks
from agent.engine.port import ErrorClass, Exit, Managed, Started
from agent.host import ids
from agent.host.ids import ContainerId

ORPHAN = "ContainerRuntimeError: the container's supervisor was killed; nobody saw how it ended"
LOST = (
    "ContainerRuntimeError: the engine lost its record of the container while it ran; nobody saw "
    "how it ended"
)
STARTED_AGAIN = (
    "ContainerRuntimeError: somebody started the container again past its agent; nobody saw how it "
    "ended before"
)
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"

_GONE = re.compile(
    # The client's own words, and so at the beginning: a job's may stand further on.
    r"^(docker: |error: )?"
    r"(cannot connect to the docker daemon|error during connect|failed to connect to .*docker"
    r"|unable to connect to podman|cannot connect to podman"
    r"|(got )?permission denied while trying to connect|request returned .* for api route"
    r"|dial unix .*(connection refused|no such file or directory|permission denied))",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWERED = "Error response from daemon"
_ABSENT = re.compile(
    r"no such container|no container with name or id|no such object", re.IGNORECASE
)
_TAKEN = re.compile(r"container name \S+ is already in use", re.IGNORECASE)
_PERMANENT = re.compile(
    # images
    r"no such image|image not known|manifest unknown|name unknown|repository does not exist"
    r"|not found: manifest|manifest for .* not found|requested access to the resource is denied"
    r"|access .*denied|unauthorized|authentication required|invalid reference format"
    r"|must be lowercase"
    r"|did not resolve to an alias|no matching manifest|no image found in .* for architecture"
    # users and commands
    r"|unable to find (user|group)|no matching entries in (passwd|group) file"
    r"|executable file not found|exec: .*(no such file or directory|permission denied)"
    r"|is a directory|exec format error|no command specified|no command or entrypoint"
    # flags made of the specification
    r"|invalid (argument|value|environment|user)|minimum memory limit",
    re.IGNORECASE,
)
_NEVER_STARTED = ("created", "configured", "initialized")
_ENDED = ("exited", "stopped", "dead", "removing")
_FRACTION = re.compile(r"\.(\d{6})\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What `inspect` says of a container of ours. `pid` is 0 when it does not run.

    `supervisor_pid` is podman's conmon; `log_path` is the file that the engine writes output to.
    """

    container_id: ContainerId
    key: NodeKey | None
    status: str
    pid: int
    supervisor_pid: int
    exit_code: int
    out_of_memory: bool
    error: str
    started_at_ms: int
    finished_at_ms: int
    log_path: str
    private_ipv4: str
    """Its own address; empty on the host's network."""
    marks: Marks | None = None
    host_id: str = ""
    """The host whose agent made it; empty for one that no agent has made."""

    def may_be_of(self, host_id: str) -> bool:
        """Whether no other host's agent has made it."""
        return self.host_id in ("", host_id)

    @property
    def managed(self) -> Managed | None:
        """What is told of it; None for a container that has no node's name."""
        if self.key is None:
            return None
        running = self.is_running or self.is_lost
        return Managed(key=self.key, started=self.started, running=running, marks=self.marks)

    @property
    def started(self) -> Started | None:
        """None for a container that never ran."""
        if self.status in _NEVER_STARTED and not self.is_lost:
            return None
        return Started(
            container_id=self.container_id,
            started_at_ms=self.started_at_ms,
            private_ipv4=self.private_ipv4 or None,
        )

    @property
    def is_lost(self) -> bool:
        """Whether the engine ran it and has forgotten how it runs or ended. Podman takes a cleaned
        runtime directory for a reboot: then 4.3 calls the container created, and newer releases
        call it exited with code 0, though it may run on. Its start is still there, and no end."""
        ran = self.started_at_ms > 0 and self.finished_at_ms == 0
        return ran and (self.status in _NEVER_STARTED or self.status == "exited")

    def began_again(self, began_at_ms: int) -> bool:
        """Whether it was started again since it came up then, by a clock that may have been set
        back meanwhile; 0 when that is not known."""
        return self.started_at_ms != began_at_ms and 0 not in (self.started_at_ms, began_at_ms)

    @property
    def has_ended(self) -> bool:
        """Whether it ran and does so no more."""
        return self.status in _ENDED and not self.is_lost

    @property
    def is_running(self) -> bool:
        """Whether it has processes; also while paused or stopping."""
        return self.status not in (*_ENDED, *_NEVER_STARTED)

    @property
    def end(self) -> Exit:
        """How it ended. A container that the kernel killed for its memory says so even when its
        own code is 0, since one of its processes was lost (aws-batch-evidence: OutOfMemoryError).
        """
        reason = self.error and f"ContainerRuntimeError: {self.error}"
        if self.exit_code < 0:
            reason = ORPHAN
        return Exit(
            exit_code=None if self.exit_code < 0 else self.exit_code,
            # Docker notes the start of a very short container after its end.
            stopped_at_ms=max(self.started_at_ms, self.finished_at_ms),
            reason=OUT_OF_MEMORY if self.out_of_memory else reason,
        )


def containers(inspected: str) -> list[Container]:
    """Read `container inspect`. ValueError for anything else, as an id of another form."""
    try:
        return [_container(entry) for entry in json.loads(inspected)]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not what container inspect prints: {error!r}") from error


@dataclass(frozen=True, slots=True)
class ImageCommand:
    """What an image runs by itself."""

    entrypoint: tuple[str, ...]
    command: tuple[str, ...]

    def with_command(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """The whole command line; `command` replaces the image's, ENTRYPOINT stays."""
        return (*self.entrypoint, *(command or self.command))


def image_command(config: str) -> ImageCommand:
    """Read the configuration in `image inspect`. ValueError for anything else."""
    read = json.loads(config)
    if not isinstance(read, dict):
        raise ValueError(f"not the configuration of an image: {config[:80]}")
    return ImageCommand(tuple(read.get("Entrypoint") or ()), tuple(read.get("Cmd") or ()))


def free_address(inspected: str, taken: Iterable[str]) -> str:
    """The first address of a network, as `network inspect` shows it, that is neither the
    gateway's nor `taken`. ValueError when there is none, or no IPv4 range at all."""
    try:
        (network,) = json.loads(inspected)
        docker = (network.get("IPAM") or {}).get("Config") or []
        ranges = [_docker_range(each) for each in docker]
        ranges += [_podman_range(each) for each in network.get("subnets") or []]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not what network inspect prints: {error!r}") from error
    used = set(taken)
    for subnet, first, last, gateway in ranges:
        if subnet.version != 4:
            continue
        never = {subnet.network_address, subnet.broadcast_address}
        for number in range(int(first), int(last) + 1):
            address = ipaddress.IPv4Address(number)
            if address not in never and str(address) not in used and str(address) != gateway:
                return str(address)
    raise ValueError("the network has no free IPv4 address; was it made with a subnet?")


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Range = tuple[_Network, _Address, _Address, str]


def _docker_range(config: dict[str, str]) -> _Range:
    subnet = ipaddress.ip_network(config["Subnet"])
    part = ipaddress.ip_network(config.get("IPRange") or config["Subnet"])
    gateway = config.get("Gateway") or str(subnet.network_address + 1)
    return subnet, part.network_address, part.broadcast_address, gateway


def _podman_range(config: dict[str, Any]) -> _Range:
    subnet = ipaddress.ip_network(config["subnet"])
    lease = config.get("lease_range") or {}
    first = ipaddress.ip_address(lease.get("start_ip") or subnet.network_address)
    last = ipaddress.ip_address(lease.get("end_ip") or subnet.broadcast_address)
    return subnet, first, last, config.get("gateway") or ""


def error_class(stderr: str) -> ErrorClass:
    """What a failed command's words mean. What is not known may pass, so it is TRANSIENT."""
    if _GONE.search(stderr) and _ANSWERED not in stderr:
        return ErrorClass.ENGINE_GONE
    if _PERMANENT.search(stderr):
        return ErrorClass.PERMANENT
    return ErrorClass.TRANSIENT


def without(secrets: Iterable[str], text: str) -> str:
    """The text with each line of each secret made unreadable."""
    lines = {line for secret in secrets for line in (secret, *secret.splitlines()) if line.strip()}
    for line in sorted(lines, key=len, reverse=True):
        text = text.replace(line, "***")
    return text


def says_taken(stderr: str) -> bool:
    """Whether the command failed because there is a container of that name."""
    return bool(_TAKEN.search(stderr))


def says_absent(stderr: str) -> bool:
    """Whether the command failed because there is no such container."""
    return bool(_ABSENT.search(stderr))


def message(stderr: str) -> str:
    """The words for a user: the last line that is an error, without the engine's preamble."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for line in reversed(lines):
        for preamble in ("Error response from daemon: ", "Error: ", "docker: "):
            if line.startswith(preamble) and "failed to start containers" not in line:
                return line.removeprefix(preamble)
    return lines[-1] if lines else "the engine gave no reason"


def json_file_output(log: bytes) -> tuple[bytes, int]:
    """(output, bytes read) of a log that docker writes: an object a line, with a piece of output
    that need not be a line. A line that a killed daemon left half written is passed over, and a
    last one without its end is left for the next call."""
    length = log.rfind(b"\n") + 1
    parts: list[bytes] = []
    lines = log[:length].split(b"\n")[:-1]
    try:
        # At once, which is several times as fast as line by line.
        entries = json.loads(b"[" + b",".join(lines) + b"]")
        return "".join([entry["log"] for entry in entries]).encode(errors="surrogatepass"), length
    except (ValueError, KeyError, TypeError):
        pass  # some line is broken
    for line in lines:
        try:
            parts.append(json.loads(line)["log"].encode(errors="surrogatepass"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return b"".join(parts), length


def k8s_file_output(log: bytes) -> tuple[bytes, int]:
    """(output, bytes read) of a log that conmon writes: `TIME stdout|stderr F|P TEXT` a line, F
    for a text that ended a line. A last line without its end is left for the next call."""
    length = log.rfind(b"\n") + 1
    parts: list[bytes] = []
    for line in log[:length].split(b"\n")[:-1]:
        fields = line.split(b" ", 3)
        if len(fields) == 4:
            parts.append(fields[3])
            if fields[2] == b"F":
                parts.append(b"\n")
    return b"".join(parts), length


def _container(entry: dict[str, Any]) -> Container:
    state = entry["State"]
    # Docker's names begin with a slash.
    name = entry["Name"].removeprefix("/")
    log = (entry.get("HostConfig") or {}).get("LogConfig") or {}
    networks = (entry.get("NetworkSettings") or {}).get("Networks") or {}
    labels = (entry.get("Config") or {}).get("Labels") or {}
    return Container(
        container_id=ids.container_id(entry["Id"]),
        key=NodeKey.parse(name),
        status=state["Status"],
        pid=_pid(state["Pid"]),
        supervisor_pid=_pid(state.get("ConmonPid") or 0),
        exit_code=state["ExitCode"],
        out_of_memory=state["OOMKilled"],
        error=state.get("Error") or "",
        started_at_ms=_milliseconds(state["StartedAt"]),
        finished_at_ms=_milliseconds(state["FinishedAt"]),
        log_path=entry.get("LogPath") or log.get("Path") or "",
        private_ipv4=next(filter(None, (each["IPAddress"] for each in networks.values())), ""),
        marks=Marks.read(labels),
        host_id=labels.get(HOST, ""),
    )


def _pid(given: object) -> int:
    """0 is the engines' word for none."""
    return 0 if given == 0 else ids.pid(given)


def _milliseconds(text: str) -> int:
    """Unix time of an RFC 3339 time; 0 for the year 1, which both engines use for never."""
    moment = datetime.fromisoformat(_FRACTION.sub(r".\1", text))
    return 0 if moment.year == 1 else int(moment.timestamp() * 1000)
