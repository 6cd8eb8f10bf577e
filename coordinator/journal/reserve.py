"""Room that is kept for a full disk: a file of that size beside the journal.

It is given up when an append finds no room, so that the ends of jobs are still recorded, and taken
again when there is plenty. Blocks: the journal calls it on its thread. Must not import sqlite3.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_PROBE_BYTES = 64 * 1024


class Reserve:
    """`reserve` in the journal's directory. With a size of 0 nothing is kept nor found short."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self._directory = directory
        self._path = directory / "reserve"
        self._size_bytes = size_bytes
        self._held = False
        self._warned = False

    def take(self) -> None:
        """Keep the room, if as much again remains for others; a fuller disk stays as it is."""
        if self._held or not self._size_bytes:
            return
        self._held = self._path.exists() and self._path.stat().st_size == self._size_bytes
        if self._held or self._free_bytes() < 2 * self._size_bytes:
            return
        try:
            _allocate(self._path, self._size_bytes)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            if not self._warned:
                self._warned = True
                logger.warning("no room is kept for a full disk: %s: %s", self._path, error)
            return
        self._held = True

    def give_up(self) -> bool:
        """Make the room free; False when none was kept."""
        self._held = False
        try:
            self._path.unlink()
        except OSError:
            return False
        logger.error(
            "the disk of %s is full; going on with the room kept for that (%d MiB), without new "
            "jobs, definitions and queues",
            self._directory,
            self._size_bytes // MIB,
        )
        return True

    def shortage(self) -> str:
        """Why nothing should be written that can wait; empty when there is room."""
        self.take()
        if not self._size_bytes:
            return ""
        free = self._free_bytes()
        least = self._size_bytes if self._held else 2 * self._size_bytes
        if free >= least:
            return ""
        return (
            f"the disk of the coordinator ({self._directory}) has {free // MIB} MiB free, less "
            f"than {least // MIB}{'' if self._held else ' (half of it is for the reserve)'}"
        )

    def is_exhausted(self) -> bool:
        """Whether nothing can be written here, by trying: a quota shows in no free space."""
        probe = self._directory / "probe"
        try:
            _allocate(probe, _PROBE_BYTES)
        except OSError as error:
            return error.errno in _NO_ROOM
        finally:
            probe.unlink(missing_ok=True)
        return False

    def _free_bytes(self) -> int:
        room = os.statvfs(self._directory)
        return room.f_bavail * room.f_frsize


def _allocate(path: Path, size_bytes: int) -> None:
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        os.posix_fallocate(file, 0, size_bytes)
    finally:
        os.close(file)
