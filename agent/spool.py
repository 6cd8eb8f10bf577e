"""The spool: what one node of one attempt wrote, bounded, with byte offsets that never restart.

A spool is a directory of segments named by the offset of their first byte. When a new segment
opens and the limit is reached, the oldest goes; a reader who asks for a dropped byte is told the
first one that is left. The writer is one process (the shim, or the agent for a container engine);
readers are any number of others, so nothing here locks.

The shim imports this file and must start fast: nothing but `os` may be imported at run time, not
even pathlib (3 ms). Following a spool needs an event loop and lives in `spool_follow.py`.
"""
# ruff: noqa: PTH103, PTH108, PTH110, PTH116, PTH118, PTH208

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_LIMIT_BYTES = 64 * 1024 * 1024

_SUFFIX = ".log"
_FINISHED = "finished"
_SEGMENTS = 8
"""A full spool loses one segment at a time, so it always holds 7/8 of its limit or more."""


class SpoolWriter:
    """Appends to the spool in `directory`, which it makes if need be, at the end of what is there.

    A disk that is full (or fails) never stops the writer: what cannot be written is counted, and
    a line that says so is written as soon as there is room again. Bytes so dropped have no offset.
    """

    def __init__(self, directory: Path | str, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._directory = os.fspath(directory)
        self._limit_bytes = limit_bytes
        self._segment_bytes = max(1, limit_bytes // _SEGMENTS)
        self._fd = -1
        self._dropped_bytes = 0
        self._dropped_why = ""
        os.makedirs(self._directory, exist_ok=True)
        starts = _starts(self._directory)
        self._start, self._end = starts[-1] if starts else 0, bounds(directory)[1]

    @property
    def end_offset(self) -> int:
        """The offset that the next byte gets."""
        return self._end

    def write(self, data: bytes) -> None:
        """Append; never raises OSError."""
        if self._dropped_bytes and not self._note_dropped():
            self._dropped_bytes += len(data)
            return
        rest = self._append(data)
        self._dropped_bytes += rest

    def close(self) -> None:
        """Stop writing. The spool can be resumed."""
        if self._dropped_bytes:
            self._note_dropped()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def finish(self) -> None:
        """Close, and mark the spool as complete. Raises OSError when the mark cannot be made."""
        self.close()
        finish(self._directory)

    def _note_dropped(self) -> bool:
        note = (
            f"\nmuster: {self._dropped_bytes} bytes of output were dropped: {self._dropped_why}\n"
        )
        before = self._end
        if self._append(note.encode()):
            self._truncate(before)
            return False
        self._dropped_bytes = 0
        return True

    def _truncate(self, offset: int) -> None:
        # Half a note would be repeated at every write until the disk has room.
        if self._fd >= 0 and offset >= self._start:
            os.ftruncate(self._fd, offset - self._start)
            self._end = offset

    def _append(self, data: bytes) -> int:
        """Write as much as the disk takes; return how many bytes are left over."""
        rest = memoryview(data)
        try:
            while rest:
                room = self._segment_bytes - (self._end - self._start)
                if self._fd < 0 or room <= 0:
                    self._open_segment(room <= 0)
                    continue
                count = os.write(self._fd, rest[:room])
                self._end += count
                rest = rest[count:]
        except OSError as error:
            self._dropped_why = os.strerror(error.errno or 0)
        return len(rest)

    def _open_segment(self, roll: bool) -> None:
        start = self._end if roll else self._start
        path = _path(self._directory, start)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._start = fd, start
        keep_from = self._end + self._segment_bytes - self._limit_bytes
        for oldest in _starts(self._directory)[:-1]:
            if oldest < keep_from:
                os.unlink(_path(self._directory, oldest))


def check_room(directory: Path | str, limit_bytes: int) -> None:
    """See that a spool of that limit fits below `directory`, which is made if need be. OSError."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    room = os.statvfs(directory)
    free_bytes = room.f_bavail * room.f_frsize
    if free_bytes < limit_bytes:
        raise OSError(
            f"{os.fspath(directory)} has {free_bytes} bytes free, fewer than the {limit_bytes} "
            "that a node's output may take",
        )


def finish(directory: Path | str) -> None:
    """Mark the spool in `directory` as complete: nobody will write to it again. Idempotent."""
    os.makedirs(directory, exist_ok=True)
    os.close(os.open(os.path.join(directory, _FINISHED), os.O_WRONLY | os.O_CREAT, 0o644))


def unfinish(directory: Path | str) -> None:
    """Take the mark away. Comes before the spool is deleted: whoever reads meanwhile would take
    half a spool for a complete one. Idempotent."""
    if is_finished(directory):
        os.unlink(os.path.join(directory, _FINISHED))


def is_finished(directory: Path | str) -> bool:
    """Whether the spool is complete."""
    return os.path.exists(os.path.join(directory, _FINISHED))


def bounds(directory: Path | str) -> tuple[int, int]:
    """(offset of the first byte that is left, offset after the last). (0, 0) for no spool."""
    starts = _starts(directory)
    if not starts:
        return 0, 0
    return starts[0], starts[-1] + os.stat(_path(directory, starts[-1])).st_size


def read(directory: Path | str, offset: int, max_bytes: int) -> tuple[int, bytes]:
    """(actual offset, bytes): the actual one is larger when what was asked for is dropped.

    No bytes means that there are none at `offset` yet. OSError when the spool cannot be read.
    """
    while True:
        starts = _starts(directory)
        try:
            return _read(directory, starts, offset, max_bytes)
        except FileNotFoundError:
            if _starts(directory) == starts:
                raise
            # The writer dropped a segment between listing and opening it.


def tail(directory: Path | str, max_bytes: int) -> tuple[int, bytes]:
    """(offset, bytes): the last `max_bytes` bytes, fewer when the spool has fewer."""
    first, end = bounds(directory)
    return read(directory, max(first, end - max_bytes), max_bytes)


def _read(
    directory: Path | str, starts: list[int], offset: int, max_bytes: int
) -> tuple[int, bytes]:
    if not starts:
        return offset, b""
    offset = max(offset, starts[0])
    parts: list[bytes] = []
    position, wanted = offset, max_bytes
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        if wanted == 0 or (following is not None and following <= position):
            continue
        if position < start:
            # What the segment before should hold is not there: as if it had been dropped.
            if position > offset:
                break
            offset = position = start
        fd = os.open(_path(directory, start), os.O_RDONLY | os.O_CLOEXEC)
        try:
            part = os.pread(fd, wanted, position - start)
        finally:
            os.close(fd)
        parts.append(part)
        position += len(part)
        wanted -= len(part)
    return offset, b"".join(parts)


def _starts(directory: Path | str) -> list[int]:
    """Start offsets of the segments, ascending; none when the directory is not there. A file of
    another name is nobody's: it must not keep a node's output from being written or read."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    numbers = (name[: -len(_SUFFIX)] for name in names if name.endswith(_SUFFIX))
    return sorted(int(number) for number in numbers if len(number) == 20 and number.isdecimal())


def _path(directory: Path | str, start: int) -> str:
    return os.path.join(directory, f"{start:020d}{_SUFFIX}")
