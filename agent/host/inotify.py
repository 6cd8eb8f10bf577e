"""A directory that wakes a task when something in it changes, through Linux' inotify.

Exists so that nothing that waits for a file has to poll. The kernel gives each user a limited
number of instances and watches, which others can use up: then, and only then, the directory is
looked at in intervals, so that what waits is late and never misses anything. Must not import
anything of `agent`.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import struct
from pathlib import Path
from types import TracebackType

IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE_SELF = 0x400
IN_Q_OVERFLOW = 0x4000

LOOK_SECONDS = 0.5
"""How late a change is seen while inotify is used up."""
_USED_UP = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM)

_EVENT = struct.Struct("iIII")
"""wd, mask, cookie and the length of the name that follows (inotify(7))."""
_libc = ctypes.CDLL(None, use_errno=True)
logger = logging.getLogger(__name__)


class DirectoryWatch:
    """Watches one directory: files made, written, or moved in, and its own removal.

    Raises FileNotFoundError when the directory is not there, and OSError when it may not be read.
    Use as a context manager inside a running event loop. What changed is not told: look at the
    directory before every `wait`.
    """

    def __init__(self, directory: Path, counted: str = "") -> None:
        """`arrivals` counts how often a file of the name `counted` was made or moved in; it stays
        as it is while inotify is used up."""
        self._directory = directory
        self._counted = os.fsencode(counted)
        self.arrivals = 0
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        try:
            self._open()
        except OSError as error:
            if error.errno not in _USED_UP:
                raise
            logger.warning(
                "inotify is used up, so output is looked for every %.1f s: %s; more may be had "
                "with the sysctls fs.inotify.max_user_instances and max_user_watches",
                LOOK_SECONDS,
                error,
            )

    async def wait(self) -> None:
        """Return when something changed since the last `wait`, or since the start; without
        inotify after a while, whether something changed or not."""
        if self._fd >= 0:
            await self._changed.wait()
            self._changed.clear()
            return
        await asyncio.sleep(LOOK_SECONDS)
        try:
            # What changed before is seen by the look that comes after this wait.
            self._open()
        except OSError as error:
            if error.errno not in (*_USED_UP, errno.ENOENT):
                raise

    def __enter__(self) -> DirectoryWatch:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)

    def _open(self) -> None:
        fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), self._directory)
        mask = IN_MODIFY | IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF
        try:
            _checked(
                _libc.inotify_add_watch(fd, os.fsencode(self._directory), mask), self._directory
            )
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self._loop.add_reader(fd, self.drain)

    def drain(self) -> None:
        """Take in at once what has happened by now, for `arrivals` and the next `wait`."""
        while self._fd >= 0:
            try:
                events = os.read(self._fd, 64 * 1024)
            except BlockingIOError:
                return
            self._changed.set()
            self._count(events)

    def _count(self, events: bytes) -> None:
        at = 0
        while at < len(events):
            _, mask, _, length = _EVENT.unpack_from(events, at)
            at += _EVENT.size
            name = events[at : at + length].rstrip(b"\0")
            at += length
            arrived = mask & (IN_MOVED_TO | IN_CREATE) and name == self._counted
            # The kernel has dropped events, and what they were nobody can know.
            if arrived or mask & IN_Q_OVERFLOW:
                self.arrivals += 1


def _checked(result: int, directory: Path) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(directory))
    return result
