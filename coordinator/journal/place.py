"""Whether the journal's file is where the next start looks for it.

A file that is deleted, moved or replaced under a coordinator can be written to as before, and all
that is written is lost with the process. Must not import sqlite3.
"""

from __future__ import annotations

import os
from pathlib import Path

_DELETED = " (deleted)"


class Place:
    """Of a file that this process has open, by its name."""

    def __init__(self, path: Path) -> None:
        """OSError when there is no such file."""
        self._path = path
        status = path.stat()
        self._file = status.st_dev, status.st_ino

    def lost(self) -> str:
        """Why the next start would not find what is written now, and what to do about it; empty
        when it would. As long as it is there it costs one look at the name."""
        try:
            status = self._path.stat()
        except OSError:
            pass
        else:
            if (status.st_dev, status.st_ino) == self._file:
                return ""
        return f"the journal is not at {self._path} any more: {self._what_to_do()}"

    def _what_to_do(self) -> str:
        descriptors = _open_files()
        mine = [fd for fd, name in descriptors.items() if self._is_mine(fd)]
        name = descriptors[mine[0]] if mine else ""
        if name and not name.endswith(_DELETED):
            return f"it was moved to {name}; move it back, with its -wal"
        name = name.removesuffix(_DELETED)
        log = [fd for fd, other in descriptors.items() if other == f"{name}-wal{_DELETED}"]
        # The log first: what goes from it into the file meanwhile is then in both.
        copies = [f"cp /proc/{os.getpid()}/fd/{fd} FILE-wal" for fd in log[:1]]
        copies += [f"cp /proc/{os.getpid()}/fd/{fd} FILE" for fd in mine[:1]]
        return (
            "it was deleted or replaced; save it before the coordinator ends "
            f"({'; '.join(copies)}), stop the coordinator, and put it there as {self._path.name}, "
            "with its -wal"
        )

    def _is_mine(self, fd: int) -> bool:
        try:
            status = os.fstat(fd)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._file


def _open_files() -> dict[int, str]:
    """The names that the kernel has for what this process has open."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, and no paths
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - it is no path
        except OSError:
            continue
    return found
