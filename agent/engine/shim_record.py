"""What a shim has written down of its node, read again by an agent that knows nothing else of it.

A node's directory may be wiped, moved or copied while its shim lives. The shim writes where its
directory is now; where that is gone, a living shim's own variables say what was in it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.core.marks import Marks
from agent.engine import shim
from agent.engine.port import EngineError, ErrorClass
from agent.host import ids, processes
from agent.host.boot import boot_id
from agent.host.nodes import FoundShim
from agent.host.origin import Shim

MODE = 0o711
"""Of a node's directory: passable but not readable, so that a job of another user reaches its
scratch directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimRecord:
    """What started.json says, and exit.json of what is left.

    `directory` is where the shim began to write. `holds_lease` is False also of a shim of an older
    release, which SIGUSR2 would end; such a shim has no marks.
    """

    shim: Shim
    boot_id: str
    started_at_ms: int
    directory: Path
    holds_lease: bool
    marks: Marks | None

    @property
    def is_of_this_boot(self) -> bool:
        """Whether its pids mean anything."""
        return self.boot_id == boot_id()

    @property
    def is_alive(self) -> bool:
        """Whether the shim itself is there."""
        own_ticks = self.shim.start_ticks
        return self.is_of_this_boot and shim.start_ticks(self.shim.pid) == own_ticks

    @property
    def words_on_its_death(self) -> str:
        """For people, when it left no word of the end."""
        if not self.is_of_this_boot:
            return "ContainerRuntimeError: the host was restarted while the node ran"
        return (
            f"ContainerRuntimeError: the node's shim (pid {self.shim.pid}) was killed, and the node"
        )

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[int | None]:
        """A pidfd of the shim; None when it has ended."""
        try:
            pidfd = os.pidfd_open(self.shim.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # Asked after opening: the pidfd keeps the pid from being given to another process.
            yield pidfd if self.is_alive else None
        finally:
            os.close(pidfd)


def read(directory: Path) -> ShimRecord | None:
    """None before the command runs. EngineError for what no shim writes."""
    path = directory / shim.STARTED
    record, end = _read_json(path), _read_json(path.with_name(shim.EXIT))
    if record is None:
        return None
    try:
        return ShimRecord(
            shim=Shim(
                pid=ids.pid(record["shim_pid"]),
                start_ticks=record["shim_start_ticks"],
                session=ids.pid(record["command_pid"]),
                group=os.fsencode(record.get("cgroup", "")),
                # A shim of an older release ended with the last of them.
                ended_alone=end is not None and end.get("is_alone", True),
            ),
            boot_id=record["boot_id"],
            started_at_ms=record["started_at_ms"],
            directory=Path(record.get("directory", directory)),
            holds_lease=record.get("holds_lease", False),
            marks=Marks.read(record.get("marks", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _cannot_inspect(path, error) from error


def read_end(directory: Path, record: ShimRecord | None) -> dict[str, Any] | None:
    """What exit.json says; None when there is none. It is where the shim began, when the agent has
    a copy of that."""
    end = _read_json(directory / shim.EXIT)
    if end is None and record is not None and record.directory != directory:
        end = _read_json(record.directory / shim.EXIT)
    return end


def restore(directory: Path, found: FoundShim) -> None:
    """Write down again what the directory of a living shim has lost. OSError when that fails."""
    path = directory / shim.STARTED
    child = next(iter(processes.children(processes.everybody()).get(found.pid, ())), None)
    now = processes.process(found.pid)
    if path.exists() or now is None or child is None:
        return
    directory.mkdir(mode=MODE, parents=True, exist_ok=True)
    content = {
        "boot_id": boot_id(),
        "shim_pid": found.pid,
        "shim_start_ticks": now.start_ticks,
        "command_pid": child,
        "cgroup": os.fsdecode(processes.control_group(found.pid)),
        "started_at_ms": processes.started_at_ms(now),
        "directory": str(found.directory),
        "holds_lease": True,
        "marks": found.marks.labels,
    }
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(content), encoding="utf-8", errors="surrogateescape")
    temporary.chmod(0o600)
    temporary.rename(path)


def open_up(path: Path) -> None:
    """Give the agent back what a job of its own user can have taken: the permissions of a file in
    the node's directory."""
    for each, mode, needed in (
        (path.parent, MODE, os.R_OK | os.W_OK | os.X_OK),
        (path, 0o600, os.R_OK | os.W_OK),
    ):
        if not os.access(each, needed):
            each.chmod(mode)


def _read_json(path: Path) -> dict[str, Any] | None:
    """None when there is none. EngineError for what cannot be read."""
    try:
        open_up(path)
        content: dict[str, Any] = json.loads(path.read_bytes())
        return content
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _cannot_inspect(path, error) from error


def _cannot_inspect(path: Path, error: Exception) -> EngineError:
    reason = f"CannotInspectContainerError: {path}: {error}"
    return EngineError(ErrorClass.TRANSIENT, reason)
