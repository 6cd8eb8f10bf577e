"""A whole cluster in one thread: both machines as they are, everything round them simulated.

A heap of (time, order, callback) and one random generator are all the time and chance there is, so
a seed always gives the same story. No event loop, thread, sleep or clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

from tests.sim.faults import Faults
from tests.sim.knobs import Knobs
from tests.sim.promises import Promises
from tests.sim.readers import Readers
from tests.sim.sim_coordinator import SimCoordinator
from tests.sim.sim_host import Clone, SimHost
from tests.sim.users import Users

STORY_LINES = 60
QUIET_WITHIN_MS = 3_600_000
DELIVERIES_MAX = 200_000


class BrokenPromise(AssertionError):
    """Something that may never happen has happened."""


class World:
    """One seed's cluster. `run` plays it to its end and raises when a promise is broken."""

    def __init__(
        self, seed: int, *, knobs: Knobs | None = None, tell: Callable[[str], None] | None = None
    ) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.ids = Random(f"ids of {seed}")
        """Chance that no story hangs on."""
        self.knobs = knobs or Knobs.draw(self.rng)
        self.now = 0
        self.deliveries = 0
        self.story: deque[str] = deque(maxlen=STORY_LINES)
        self._tell = tell
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self.promises = Promises(self)
        self.coordinator = SimCoordinator(self)
        self.hosts = [SimHost(self, number) for number in range(self.knobs.hosts)]
        self.clones: list[Clone] = []
        self.users = Users(self)
        self.readers = Readers(self)
        self.faults = Faults(self)

    @property
    def machines(self) -> list[SimHost]:
        """All on which anything can run."""
        return [*self.hosts, *self.clones]

    def after(self, delay_ms: int, callback: Callable[[], None]) -> None:
        """Call back after a time; callbacks due at the same time keep their order."""
        self.at(self.now + delay_ms, callback)

    def at(self, when_ms: int, callback: Callable[[], None]) -> None:
        self._order += 1
        heappush(self._heap, (max(when_ms, self.now), self._order, callback))

    def delay(self, typical_ms: int) -> int:
        """Mostly about `typical_ms`, now and then ten times that."""
        spread = typical_ms * (10 if self.rng.random() < 0.05 else 2)
        return int(self.rng.random() * spread)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def note(self, line: str) -> None:
        """One line of the story."""
        line = f"{self.now / 1000:9.3f} {line}"
        self.story.append(line)
        if self._tell is not None:
            self._tell(line)

    def fail(self, message: str) -> None:
        raise BrokenPromise(message)

    def run(self) -> None:
        """Faults and users until the horizon; then everything heals and all must end."""
        try:
            self.coordinator.start()
            for host in self.hosts:
                host.power_on()
            self.users.begin()
            self.readers.begin()
            self.faults.begin()
            self._play_until(self.knobs.horizon_ms, until=None)
            self.note("-- all faults heal")
            self.faults.heal()
            self.users.finish()
            self._play_until(self.now + QUIET_WITHIN_MS, until=self._is_quiet)
            if not self._is_quiet():
                self.fail(f"not quiet {QUIET_WITHIN_MS // 1000} s after healing: {self._unrest()}")
            self.promises.at_the_end()
        except Exception as error:
            raise BrokenPromise(self._report(error)) from error
        finally:
            self.coordinator.reads.loop.close()

    def _play_until(self, end_ms: int, until: Callable[[], bool] | None) -> None:
        while self._heap and self._heap[0][0] <= end_ms:
            when_ms, _, callback = heappop(self._heap)
            self.now = when_ms
            self.deliveries += 1
            if self.deliveries > DELIVERIES_MAX:
                self.fail(f"{DELIVERIES_MAX} deliveries and no end")
            callback()
            if until is not None and until():
                return

    def _is_quiet(self) -> bool:
        return not self._unrest(first=True)

    def _unrest(self, *, first: bool = False) -> list[str]:
        """What is still going on."""
        found = self.coordinator.unrest()
        if not (first and found):
            found += self.users.unrest() + self.readers.unrest()
        if not (first and found):
            for host in self.hosts:
                found += host.unrest()
        return found

    def _report(self, error: Exception) -> str:
        try:
            jobs = "\n".join(self.coordinator.describe())
        except Exception as second:  # a state that is broken need not be one that can be told
            jobs = f"  cannot be described: {second!r}"
        story = "\n".join(self.story)
        return (
            f"seed {self.seed}: {type(error).__name__}: {error}\nknobs: {self.knobs}\n"
            f"jobs:\n{jobs}\nlast {len(self.story)} deliveries:\n{story}"
        )
