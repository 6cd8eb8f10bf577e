"""The copying of one container's output from its engine's log to its spool.

The log is read as the engine writes it, through its rotations, so that neither it nor the spool
grows without bounds. Where a log file begins in the spool is written down before it is read, so an
agent's restart loses and repeats nothing. Must not import a certain engine.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent import spool
from agent.host.inotify import DirectoryWatch

Decode = Callable[[bytes], tuple[bytes, int]]
"""(output, bytes read) of the beginning of a log; an unfinished line at its end is left."""

_DRAIN_SECONDS = 30.0
"""How long the engine's log may stand still, not at its end, after the end of its container."""
_MOST_FILES = 4
"""Of a log, that may wait to be read: a job may write faster than anybody reads, and a file that
was rotated away takes room for as long as it is open."""

_READ_BYTES = 256 * 1024
_RECORD = "engine-log"
_LOST = b"\nmuster: output may be missing here: the engine's log went round before it was read\n"


@dataclass(slots=True)
class _LogFile:
    """One file of a log, open. `base` is the spool's offset at its first byte of output, None
    until there is some."""

    fd: int
    base: int | None = None
    is_written_down: bool = False
    is_after_loss: bool = False
    position: int = 0
    output_bytes: int = 0


class OutputCopy:
    """Copies until `drained` or `close`. Raises OSError when the spool cannot be opened."""

    def __init__(self, log: Path, decode: Decode, directory: Path, limit_bytes: int) -> None:
        self._log = log
        self._decode = decode
        self._record = directory / _RECORD
        self._writer = spool.SpoolWriter(directory, limit_bytes)
        self._files: deque[_LogFile] = deque()
        self._end = asyncio.Event()
        self._read_bytes = 0
        self._watch: DirectoryWatch | None = None
        self._arrivals = 0
        """How often the log has come anew, as far as its files were found."""
        self._task = asyncio.ensure_future(self._copy())

    @property
    def has_failed(self) -> bool:
        """Whether it stopped before the end of the output."""
        return self._task.done() and (self._task.cancelled() or self._task.exception() is not None)

    async def drained(self) -> None:
        """Return when all output of the container, which has ended, is written. What cannot be
        read is said in the spool itself, for whoever misses it."""
        self._end.set()
        read_bytes = -1
        while not self._task.done() and read_bytes != self._read_bytes:
            read_bytes = self._read_bytes
            await asyncio.wait([self._task], timeout=_DRAIN_SECONDS)
        if not self._task.done():
            why = f"nothing more of it could be read for {_DRAIN_SECONDS:.0f} s"
        elif self.has_failed:
            why = str(self._task.exception())
        else:
            why = ""
        if why:
            self._writer.write(f"\nmuster: output may be missing: {why}\n".encode())
        await self.close()

    async def close(self) -> None:
        """Stop copying."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._writer.close()

    async def _copy(self) -> None:
        at_end = asyncio.ensure_future(self._end.wait())
        try:
            with DirectoryWatch(self._log.parent, counted=self._log.name) as watch:
                while not self._resume():
                    if self._end.is_set():
                        raise FileNotFoundError(f"no {self._log}")
                    await _first(watch, at_end)
                watch.drain()
                self._watch, self._arrivals = watch, watch.arrivals
                while True:
                    # Asked before reading: the engine has written all it will once it is known.
                    has_ended = self._end.is_set()
                    self._look_for_rotation()
                    if self._copy_piece():
                        # A long log of an earlier agent's container must not hold up the loop.
                        await asyncio.sleep(0)
                    elif len(self._files) > 1:
                        os.close(self._files.popleft().fd)
                    elif has_ended:
                        return
                    else:
                        await _first(watch, at_end)
        finally:
            at_end.cancel()
            for file in self._files:
                os.close(file.fd)
            self._files.clear()

    def _resume(self) -> bool:
        """Open the files from the one that was read last on; all of them at the first time. False
        between two names of a rotation."""
        known = self._bases()
        found = _opened(self._log)
        if not found:
            return False
        names = [_name(os.pread(file.fd, _READ_BYTES, 0)) for file in found]
        first = max((n for n, name in enumerate(names) if name in known), default=None)
        for file in found[: first or 0]:
            os.close(file.fd)
        self._files.extend(found[first or 0 :])
        if first is not None:
            self._files[0].base = known[names[first]]
            self._files[0].is_written_down = True
        elif known:
            self._writer.write(_LOST)
        return True

    def _look_for_rotation(self) -> None:
        """At each step, so that none of a chain of rotations is missed: an open file stays
        readable to its end, whatever becomes of its name. An engine that keeps no older files
        (podman) can turn its log round twice between two looks; then the file between is lost, and
        that is said."""
        watch = self._watch
        assert watch is not None
        watch.drain()
        # Open, so its number is no other file's.
        newest = os.fstat(self._files[-1].fd).st_ino
        try:
            if self._log.stat().st_ino == newest:
                return
        except FileNotFoundError:
            return  # between two names
        found = _opened(self._log)
        passed = [n for n, file in enumerate(found) if os.fstat(file.fd).st_ino == newest]
        # Not among them: it has no name any more, and what came after it has.
        first = passed[0] + 1 if passed else 0
        for file in found[:first]:
            os.close(file.fd)
        # More arrivals than files that were found: some went by unseen.
        self._arrivals += len(found[first:])
        if found[first:] and watch.arrivals > self._arrivals:
            found[first].is_after_loss = True
            self._arrivals = watch.arrivals
        self._files.extend(found[first:])
        while len(self._files) > _MOST_FILES:
            # Not the oldest, which is half read; its successor is lost whole.
            os.close(self._files[1].fd)
            del self._files[1]
            self._files[1].is_after_loss = True

    def _copy_piece(self) -> bool:
        """Copy what there is of the oldest file; False at its end."""
        file = self._files[0]
        read = os.pread(file.fd, _READ_BYTES, file.position)
        output, length = self._decode(read)
        if not length:
            return False
        if file.base is None:
            if file.is_after_loss:
                self._writer.write(_LOST)
            file.base = self._writer.end_offset
        if not file.is_written_down:
            self._write_down(file)
        file.position += length
        self._read_bytes += length
        skipped = max(0, self._writer.end_offset - file.base - file.output_bytes)
        file.output_bytes += len(output)
        if output[skipped:]:
            self._writer.write(output[skipped:])
            base = self._writer.end_offset - file.output_bytes
            if base != file.base:
                # A full disk has cost some bytes: the spool and the log do not run in step.
                file.base = base
                self._write_down(file)
        return True

    def _bases(self) -> dict[str, int]:
        try:
            lines = self._record.read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return {}
        pairs = [line.split() for line in lines]
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}

    def _write_down(self, file: _LogFile) -> None:
        """Survives the agent; it need not survive the machine, where the container ends too. What a
        full disk refuses is written with the next piece."""
        name = _name(os.pread(file.fd, _READ_BYTES, 0))
        try:
            with open(self._record, "a", encoding="ascii") as record:
                # On a line of its own, whatever a full disk has left of the one before.
                record.write(f"\n{name} {file.base}\n")
        except OSError:
            file.is_written_down = False
        else:
            file.is_written_down = True


def _name(beginning: bytes) -> str:
    """What tells one file of a log from all others: its first line, which has a time. An inode's
    number is given to the next file as soon as this one is gone."""
    line, end, _ = beginning.partition(b"\n")
    return hashlib.sha256(line).hexdigest() if end else ""


async def _first(watch: DirectoryWatch, at_end: asyncio.Task[Literal[True]]) -> None:
    change = asyncio.ensure_future(watch.wait())
    try:
        await asyncio.wait([change, at_end], return_when=asyncio.FIRST_COMPLETED)
    finally:
        change.cancel()


def _opened(log: Path) -> list[_LogFile]:
    """All files of a log, oldest first; none when one got another name meanwhile."""
    files: list[_LogFile] = []
    try:
        for path in (*_rotated(log), log):
            files.append(_LogFile(fd=os.open(path, os.O_RDONLY | os.O_CLOEXEC)))  # noqa: PERF401
    except FileNotFoundError:
        for file in files:
            os.close(file.fd)
        return []
    return files


def _rotated(log: Path) -> list[Path]:
    """Docker's older files of a log, oldest first: `.1` is the newest of them."""
    numbered = [path for path in log.parent.glob(f"{log.name}.*") if path.suffix[1:].isdigit()]
    return sorted(numbered, key=lambda path: -int(path.suffix[1:]))


class OutputCopies:
    """One copy for each container that runs, or ran and has not been removed."""

    def __init__(self, spool_dir: Path, limit_bytes: int, decode: Decode) -> None:
        self._spool_dir = spool_dir
        self._limit_bytes = limit_bytes
        self._decode = decode
        self._copies: dict[str, OutputCopy] = {}

    def begin(self, name: str, log: Path) -> OutputCopy:
        """The copy of a node's output, started if there is none. OSError as for `OutputCopy`."""
        copy = self._copies.get(name)
        if copy is None or copy.has_failed:
            copy = OutputCopy(log, self._decode, self._spool_dir / name, self._limit_bytes)
            self._copies[name] = copy
        return copy

    async def end(self, name: str) -> None:
        """Copy no more of a node; what is copied stays."""
        copy = self._copies.pop(name, None)
        if copy is not None:
            await copy.close()

    async def close(self) -> None:
        """Copy no more; the next ones go on where these ended."""
        for name in list(self._copies):
            await self.end(name)
