"""The output of one node on its host's disk: bytes that tell whose and which they are."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from agent.core.assignment import NodeKey

TAIL_BYTES = 20
"""How many of the last bytes go with a report: few, so that output is often longer."""
PIECE_BYTES = 8


class SimSpool:
    def __init__(self, key: NodeKey) -> None:
        self._key = key
        self._first = crc32(key.name.encode())
        self.end = 0
        self.is_finished = False
        self.readers: dict[Callable[[], None], None] = {}
        """Called when there is more, or when there will be no more."""

    def copied(self) -> SimSpool:
        """As it is now, on another disk."""
        copy = SimSpool(self._key)
        copy.end, copy.is_finished = self.end, self.is_finished
        return copy

    def write(self, count: int) -> None:
        self.end += count
        self._tell()

    def finish(self) -> None:
        if not self.is_finished:
            self.is_finished = True
            self._tell()

    def _tell(self) -> None:
        for reader in list(self.readers):
            reader()

    def read(self, offset: int, count: int) -> bytes:
        offsets = range(offset, min(offset + count, self.end))
        return bytes((self._first + 7 * at) % 251 for at in offsets)

    def tail(self) -> tuple[int, bytes]:
        offset = max(self.end - TAIL_BYTES, 0)
        return offset, self.read(offset, TAIL_BYTES)
