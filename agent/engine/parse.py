"""What docker and podman print, read. Pure: a test is a table of recorded output.

Must not import anything that runs a process.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.core.assignment import NodeKey
from agent.engine.port import ErrorClass, Exit, Started

OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"

_GONE = re.compile(
    r"cannot connect to the docker daemon|is the docker daemon running|error during connect"
    r"|unable to connect to podman|cannot connect to podman|failed to connect to .*docker"
    r"|dial unix .*(connection refused|no such file or directory|permission denied)",
    re.IGNORECASE,
)
_ABSENT = re.compile(
    r"no such container|no container with name or id|no such object", re.IGNORECASE
)
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

    `supervisor_pid` and `log_path` are podman's: conmon, and the file that it writes.
    """

    container_id: str
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

    @property
    def started(self) -> Started | None:
        """None for a container that never ran."""
        if self.status in _NEVER_STARTED:
            return None
        return Started(container_id=self.container_id, started_at_ms=self.started_at_ms)

    @property
    def has_ended(self) -> bool:
        """Whether it ran and does so no more."""
        return self.status in _ENDED

    @property
    def is_running(self) -> bool:
        """Whether it has processes; also while paused or stopping."""
        return not self.has_ended and self.status not in _NEVER_STARTED

    @property
    def end(self) -> Exit:
        """How it ended. A container that the kernel killed for its memory says so even when its
        own code is 0, since one of its processes was lost (aws-batch-evidence: OutOfMemoryError).
        """
        reason = self.error and f"ContainerRuntimeError: {self.error}"
        return Exit(
            exit_code=self.exit_code,
            # Docker notes the start of a very short container after its end.
            stopped_at_ms=max(self.started_at_ms, self.finished_at_ms),
            reason=OUT_OF_MEMORY if self.out_of_memory else reason,
        )


def containers(inspected: str) -> list[Container]:
    """Read `container inspect`. ValueError for anything else."""
    try:
        return [_container(entry) for entry in json.loads(inspected)]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not what container inspect prints: {error!r}") from error


def error_class(stderr: str) -> ErrorClass:
    """What a failed command's words mean. What is not known may pass, so it is TRANSIENT."""
    if _GONE.search(stderr):
        return ErrorClass.ENGINE_GONE
    if _PERMANENT.search(stderr):
        return ErrorClass.PERMANENT
    return ErrorClass.TRANSIENT


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
    return Container(
        container_id=entry["Id"],
        key=NodeKey.parse(name),
        status=state["Status"],
        pid=state["Pid"],
        supervisor_pid=state.get("ConmonPid") or 0,
        exit_code=state["ExitCode"],
        out_of_memory=state["OOMKilled"],
        error=state.get("Error") or "",
        started_at_ms=_milliseconds(state["StartedAt"]),
        finished_at_ms=_milliseconds(state["FinishedAt"]),
        log_path=log.get("Path") or "",
    )


def _milliseconds(text: str) -> int:
    """Unix time of an RFC 3339 time; 0 for the year 1, which both engines use for never."""
    moment = datetime.fromisoformat(_FRACTION.sub(r".\1", text))
    return 0 if moment.year == 1 else int(moment.timestamp() * 1000)
