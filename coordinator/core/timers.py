"""Deadlines of a machine that never looks at a clock.

`arm` is cheap and may be repeated; a timer that fires too early is looked at again by its owner,
so moving a deadline later costs nothing. No I/O.
"""

from __future__ import annotations

from heapq import heappop, heappush


class Timers:
    """A heap of (when, name) where the earliest deadline per name wins."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str, str]] = []
        self._armed: dict[tuple[str, str], int] = {}

    def arm(self, kind: str, name: str, at_ms: int) -> None:
        """Wake the owner of (kind, name) at `at_ms` or earlier."""
        armed = self._armed.get((kind, name))
        if armed is None or at_ms < armed:
            self._armed[kind, name] = at_ms
            heappush(self._heap, (at_ms, kind, name))

    def due(self, now: int) -> list[tuple[str, str]]:
        """Take out everything that is due, earliest first, each name once."""
        names: dict[tuple[str, str], None] = {}
        while self._heap and self._heap[0][0] <= now:
            at_ms, kind, name = heappop(self._heap)
            if self._armed.get((kind, name)) == at_ms:
                del self._armed[kind, name]
                names[kind, name] = None
        return list(names)

    @property
    def next_ms(self) -> int | None:
        """The earliest deadline, or None. May be of a timer that has been replaced."""
        return self._heap[0][0] if self._heap else None
