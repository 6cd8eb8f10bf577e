"""How many readers there may be at once: each holds memory for as long as it likes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coordinator.rpc.ports import Overloaded

READERS_MAX = 5_000
"""Watchers and readers of output. Hosts have no seats: their sessions are never refused for it."""


class Seats:
    """Taken one by one, and given back."""

    def __init__(self) -> None:
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Overloaded when all are taken."""
        if self._taken >= READERS_MAX:
            raise Overloaded(
                f"{READERS_MAX} readers watch jobs or read output already; try again later"
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
