"""A directory that wakes a task when something in it changes, through Linux' inotify.

Exists so that nothing that waits for a file has to poll. Must not import anything of `agent`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path
from types import TracebackType

IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE_SELF = 0x400

_libc = ctypes.CDLL(None, use_errno=True)


class DirectoryWatch:
    """Watches one directory: files made, written, or moved in, and its own removal.

    Raises FileNotFoundError when the directory is not there. Use as a context manager inside a
    running event loop. What changed is not told: look at the directory before every `wait`.
    """

    def __init__(self, directory: Path) -> None:
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), directory)
        try:
            mask = IN_MODIFY | IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF
            _checked(_libc.inotify_add_watch(self._fd, os.fsencode(directory), mask), directory)
        except OSError:
            os.close(self._fd)
            raise
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._drain)

    async def wait(self) -> None:
        """Return when something changed since the last `wait`, or since the start."""
        await self._changed.wait()
        self._changed.clear()

    def __enter__(self) -> DirectoryWatch:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _drain(self) -> None:
        # One read of this size takes all events of one pass; what is left wakes the loop again.
        os.read(self._fd, 64 * 1024)
        self._changed.set()


def _checked(result: int, directory: Path) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), str(directory))
    return result
