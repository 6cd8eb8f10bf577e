"""A fault: somebody brings a copy of the coordinator's journal back, and later the newer one again.

Between the two the coordinator is mistaken. Nothing that it decides is true, so the promises about
durable facts rest, and people wait; what containers do is looked at as ever. So nothing may start
that the newer journal has not started, nothing that runs may be stopped, and when the newer journal
is back, no end that came meanwhile may be lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator import shell
from coordinator.core import lineage
from coordinator.journal.memory import MemoryJournal
from tests.sim.knobs import SETTINGS

if TYPE_CHECKING:
    from tests.sim.world import World

AGES_MS = (2_000, 20_000, 60_000)
MISTAKEN_MS = (1_000, SETTINGS.lost_after_ms - 5_000)
"""Never for as long as it takes until silent hosts are waited for no more: then a host without
evidence may be given what has ended elsewhere, which is a limit that is told."""


class OlderJournal:
    def __init__(self, world: World) -> None:
        self.world = world
        self._newer: MemoryJournal | None = None
        self._heard = world.coordinator.hearing.remembered()
        """Who speaks for which host by what the newer journal knows."""

    def strike(self) -> None:
        """A backup is made, and brought back some time later; or there is no journal at all."""
        if self.world.coordinator.is_mistaken:
            return
        if self.world.chance(0.3):
            self._bring_back(MemoryJournal())
            return
        copy = self.world.coordinator.journal.copied()
        self.world.note(f"a backup is made at entry {copy.position}")
        age_ms = self.world.rng.choice(AGES_MS)
        self.world.after(age_ms, lambda: self._bring_back(copy))

    def _bring_back(self, copy: MemoryJournal) -> None:
        coordinator = self.world.coordinator
        if not (self.world.faults.active and coordinator.is_serving):
            return
        if coordinator.is_held or coordinator.journal.shortage:
            return
        if copy.position and not self._will_be_noticed(copy):
            return
        self.world.note(f"the journal of entry {copy.position} is brought back")
        mistaken_ms = self.world.rng.randint(*MISTAKEN_MS)
        self._heard = self.world.coordinator.hearing.remembered()
        newer = self._newer = self._swap(copy, is_mistaken=True)
        self.world.faults.disturb_all(self.world.now + mistaken_ms)
        self.world.after(mistaken_ms, lambda: self._right(newer))

    def _will_be_noticed(self, copy: MemoryJournal) -> bool:
        """So many hosts have seen more than the copy that any half of them has one among it."""
        state = shell.replayed(SETTINGS, copy.replay_now()).state
        state.position = copy.position
        known = [host for host in self.world.hosts if host.host_id in state.hosts]
        tokens = [host.directory.ledger._token for host in known]
        said = [lineage.read(state.cluster_key, token) for token in tokens]
        knowing = sum(seen is not None and lineage.is_beyond(state, seen) for seen in said)
        return len(known) - knowing < (len(known) + 1) // 2

    def heal(self) -> None:
        """The newer journal is there from now on."""
        if self._newer is not None:
            self._right(self._newer)

    def _right(self, newer: MemoryJournal) -> None:
        if self._newer is not newer:
            return
        self._newer = None
        self.world.note("the newer journal is brought back")
        self.world.coordinator.hearing.go_back(self._heard)
        self._swap(newer, is_mistaken=False)

    def _swap(self, journal: MemoryJournal, *, is_mistaken: bool) -> MemoryJournal:
        """Start with another journal; the one that was there."""
        coordinator = self.world.coordinator
        self.world.faults.disturb_all()
        was_alive = coordinator.alive
        if was_alive:
            coordinator.crash()
        replaced, coordinator.journal = coordinator.journal, journal
        coordinator.is_mistaken = is_mistaken
        if was_alive:
            coordinator.start()
        return replaced
