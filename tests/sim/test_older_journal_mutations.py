"""Rules about an older journal taken away, and the seeds that notice. As `test_mutations.py`."""

from __future__ import annotations

import pytest

from agent.ledger.memory import MemoryLedger
from coordinator.core import derive, gang, hello, hosts, placing
from coordinator.core import inputs as i
from coordinator.core.effects import SendAck
from coordinator.core.machine import Machine
from coordinator.core.state import ClusterState, Presence
from coordinator.core.states import Progress
from coordinator.core.turn import Turn
from tests.sim.mutation import Focus, Mutation, Patch, first_to_notice


def nobody_looks_at_what_hosts_have_seen(patch: Patch) -> None:
    patch.setattr(hello, "look_at", lambda turn, said: None)


def nobody_is_waited_for_after_a_start(patch: Patch) -> None:
    patch.setattr(placing, "await_hosts", lambda turn: None)


def an_older_journal_acknowledges(patch: Patch) -> None:
    def acknowledge(turn: Turn, presence: Presence, report: i.HostReport) -> None:
        turn.effect(SendAck(session_id=report.session_id, report_seq=report.seq))

    patch.setattr(hosts, "acknowledge", acknowledge)


def an_older_journal_acknowledges_a_goodbye(patch: Patch) -> None:
    patch.setattr(hosts, "may_believe_goodbye", lambda turn: True)


def an_older_journal_launches_what_agents_do_not_have(patch: Patch) -> None:
    """Two rules keep it from that."""
    real = derive._assignment

    def assignment(state: ClusterState, *rest: object) -> object:
        before = state.outrun, state.hosts_awaited
        state.outrun, state.hosts_awaited = None, 0
        try:
            return real(state, *rest)  # type: ignore[arg-type]
        finally:
            state.outrun, state.hosts_awaited = before

    patch.setattr(derive, "_assignment", assignment)
    patch.setattr(hello, "_not_there", lambda *_, **__: None)


def an_older_journal_stops_what_it_does_not_know(patch: Patch) -> None:
    patch.setattr(derive, "_let_be", derive._stop)


def an_older_journal_lets_go_of_votes(patch: Patch) -> None:
    real = gang._let_be

    def let_be(presence: Presence, seen: i.Observation) -> None:
        real(presence, seen)
        if seen.progress is Progress.PREPARED:
            del presence.kept[seen.key]

    patch.setattr(gang, "_let_be", let_be)


def an_older_journal_hides_what_hosts_have_seen(patch: Patch) -> None:
    real = Machine.token

    def token(self: Machine, position: int) -> bytes:
        state = self.state
        before = state.outrun, state.hosts_awaited
        state.outrun, state.hosts_awaited = None, 0
        try:
            return real(self, position)
        finally:
            state.outrun, state.hosts_awaited = before

    patch.setattr(Machine, "token", token)


def what_an_agent_of_another_cluster_does_not_find_is_gone(patch: Patch) -> None:
    patch.setattr(hello, "_has_looked", lambda turn, said: said.is_attached)


def an_agent_forgets_the_cluster_that_it_served_before(patch: Patch) -> None:
    def keep_cluster(self: MemoryLedger, cluster_id: str) -> None:
        if self._cluster_id not in ("", cluster_id):
            self._slots.clear()
        self._cluster_id = cluster_id

    patch.setattr(MemoryLedger, "keep_cluster", keep_cluster)


OLDER: Focus = {
    "hosts": 3,
    "jobs": 6,
    "life_ms": 5_000,
    "horizon_ms": 400_000,
    "delay_ms": 20,
    "older_journal_every_ms": 30_000,
    "engine_ms": 500,
}
"""Jobs that come and go, and copies of the journal that are brought back all the time."""
LONG: Focus = {**OLDER, "life_ms": 40_000}

MUTATIONS: dict[Mutation, Focus] = {
    nobody_looks_at_what_hosts_have_seen: OLDER,
    nobody_is_waited_for_after_a_start: {**OLDER, "cut_every_ms": 20_000, "hosts": 5},
    an_older_journal_acknowledges: LONG,
    an_older_journal_acknowledges_a_goodbye: {
        **OLDER,
        "life_ms": 120_000,
        "agent_stop_every_ms": 10_000,
    },
    an_older_journal_launches_what_agents_do_not_have: OLDER,
    an_older_journal_stops_what_it_does_not_know: LONG,
    an_older_journal_lets_go_of_votes: {**OLDER, "engine_ms": 2_000, "delay_ms": 400},
    what_an_agent_of_another_cluster_does_not_find_is_gone: LONG,
    an_agent_forgets_the_cluster_that_it_served_before: OLDER,
    an_older_journal_hides_what_hosts_have_seen: {**OLDER, "coordinator_crash_every_ms": 15_000},
}


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_rule_taken_away_is_noticed(mutate: Mutation, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    print(first_to_notice(MUTATIONS[mutate]))
