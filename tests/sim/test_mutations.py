"""The simulator can fail: take a rule away, and some seed notices.

Each mutation removes one rule that a promise rests on. A mutation that no seed catches means that
the world never gets into the trouble which the rule is for, or that nobody looks. A focus makes
that trouble frequent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent import shell
from agent.core import effects as f
from agent.core import inputs as i
from agent.core import machine as agent_machine
from agent.core.assignment import ContainerSpec, Progress
from agent.ledger.memory import MemoryLedger
from coordinator.core import derive, ending, evolve, gang, machine, scheduler, silence
from coordinator.core import events as e
from coordinator.core.effects import Stamped, Step
from coordinator.core.ids import NodeKey
from coordinator.core.settings import Settings
from coordinator.core.state import Attempt, ClusterState, Job, NodeRun
from coordinator.core.states import Desired, NodeState
from coordinator.core.turn import Turn
from tests.sim.mutation import Focus, Mutation, Patch, first_to_notice
from tests.sim.sim_coordinator import SimCoordinator
from tests.sim.sim_leases import Holder, SimLeases


def _anything_goes(state: ClusterState, *, replayed: bool = False) -> None:
    """In the place of the invariants, so that the promises have to notice."""


def children_start_with_main(patch: Patch) -> None:
    real = evolve._attempt_started

    def started(state: ClusterState, event: e.AttemptStarted, at_ms: int) -> None:
        real(state, event, at_ms)
        for node in state.jobs[event.job_id].attempts[-1].nodes.values():
            if node.state is NodeState.PREPARED:
                evolve._launch(node, at_ms)

    patch.setitem(evolve._EVOLVE, e.AttemptStarted, started)
    patch.setattr(machine, "check", _anything_goes)


def main_starts_before_all_have_voted(patch: Patch) -> None:
    real = gang._take_vote

    def vote(turn: Turn, job: Job, attempt: Attempt, *rest: object) -> None:
        real(turn, job, attempt, *rest)  # type: ignore[arg-type]
        if attempt.prepared and not attempt.started and not attempt.over:
            main = attempt.nodes.get(job.spec.main_node)
            if main is not None and main.state is NodeState.PREPARED:
                gang._start_main(turn, job, attempt)

    patch.setattr(gang, "_take_vote", vote)
    patch.setattr(machine, "check", _anything_goes)


def the_next_attempt_does_not_wait(patch: Patch) -> None:
    real = Job.unsettled.fget  # type: ignore[attr-defined]
    only_ended = property(lambda job: job.state.is_terminal and real(job))
    patch.setattr(Job, "unsettled", only_ended)
    patch.setattr(machine, "check", _anything_goes)


def a_lost_host_is_free_of_its_nodes(patch: Patch) -> None:
    real = gang.lose

    def lose(turn: Turn, job: Job, attempt: Attempt, node: object) -> None:
        real(turn, job, attempt, node)  # type: ignore[arg-type]
        if attempt.started:
            gang.release(turn, job, attempt, node, "it is lost")  # type: ignore[arg-type]

    patch.setattr(silence, "lose", lose)


def hosts_are_released_on_intent(patch: Patch) -> None:
    real = ending.end_attempt

    def end(turn: Turn, job: Job, attempt: Attempt) -> None:
        real(turn, job, attempt)
        for node in attempt.nodes.values():
            gang.release(turn, job, attempt, node, "it was told to stop")

    patch.setattr(gang, "end_attempt", end)


def nobody_ends_a_lease(patch: Patch) -> None:
    patch.setattr(agent_machine.Machine, "_lease_ends", lambda self, slot: None)
    patch.setattr(Holder, "_end", lambda self, kill_at_ms: None)


def only_the_agent_ends_a_lease(patch: Patch) -> None:
    patch.setattr(Holder, "_end", lambda self, kill_at_ms: None)


def the_holder_is_told_of_no_contact(patch: Patch) -> None:
    patch.setattr(agent_machine.Machine, "_renew", lambda self, slot: None)


def the_holder_is_not_told_of_a_goodbye(patch: Patch) -> None:
    def suspend(machine: agent_machine.Machine, ledger: MemoryLedger, leases: SimLeases) -> None:
        ledger.keep_contact(None)

    patch.setattr(shell, "suspend_leases", suspend)


def the_fence_does_not_wait_for_the_grace(patch: Patch) -> None:
    def soon(settings: Settings, job: Job, attempt: Attempt) -> int:
        return 1000 * (attempt.lease_seconds or 0) - 20_000

    patch.setattr(silence, "stopped_after_ms", soon)


def the_agents_lease_is_longer_than_the_coordinators(patch: Patch) -> None:
    def acked(self: agent_machine.Machine, seq: int) -> None:
        self.state.last_contact_ms = self._now + 80_000

    patch.setattr(agent_machine.Machine, "_acked", acked)


def a_release_is_forgotten_before_it_is_acknowledged(patch: Patch) -> None:
    real = agent_machine.Machine._removed

    def removed(self: agent_machine.Machine, given: i.Removed) -> None:
        real(self, given)
        slot = self.state.slots[given.key]
        if slot.progress is Progress.RELEASED:
            del self.state.slots[given.key]
            self.state.released.pop(given.key, None)
            self._effects.append(f.ForgetSlot(key=given.key))

    patch.setattr(agent_machine.Machine, "_removed", removed)


def children_are_told_their_own_address(patch: Patch) -> None:
    real = derive._multinode

    def variables(spec: object, attempt: Attempt, node_index: int) -> dict[str, str]:
        told = real(spec, attempt, node_index)  # type: ignore[arg-type]
        if len(told) == 4:
            told["AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"] = str(node_index)
        return told

    patch.setattr(derive, "_multinode", variables)


def main_is_told_its_address(patch: Patch) -> None:
    real = derive._multinode
    told = {"AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "10.0.0.1"}
    patch.setattr(derive, "_multinode", lambda *args: real(*args) | told)


class _Roomy(dict[NodeKey, None]):
    """Holds nodes and looks empty."""

    def __bool__(self) -> bool:
        return False


def a_host_takes_two_nodes(patch: Patch) -> None:
    real = evolve._EVOLVE[e.HostRegistered]

    def registered(state: ClusterState, event: e.HostRegistered, at_ms: int) -> None:
        real(state, event, at_ms)
        host = state.hosts[event.host_id]
        host.holds = _Roomy(host.holds)

    patch.setitem(evolve._EVOLVE, e.HostRegistered, registered)
    patch.setattr(machine, "check", _anything_goes)


def effects_are_visible_before_their_facts_are_durable(patch: Patch) -> None:
    def make_durable(self: SimCoordinator, batch: object, step: Step) -> None:
        self._publish(batch, step)  # type: ignore[arg-type]
        self._busy = True
        self.later(400, lambda: commit(self, step))

    def commit(self: SimCoordinator, step: Step) -> None:
        self._commit(step)
        self._uncommitted = self._busy = False
        self._wake()

    patch.setattr(SimCoordinator, "_make_durable", make_durable)


def a_fact_is_not_journaled(patch: Patch) -> None:
    real = Turn.emit

    def emit(self: Turn, event: e.Event) -> None:
        real(self, event)
        if isinstance(event, e.NodeReleased):
            self.step.events.remove(Stamped(at_ms=self.wall, event=event))

    patch.setattr(Turn, "emit", emit)


def a_goodbye_suspends_nothing(patch: Patch) -> None:
    patch.setattr(silence, "_goes_on", lambda *_: False)


def the_lease_of_before_a_goodbye_goes_on(patch: Patch) -> None:
    real = MemoryLedger.keep_contact

    def keep(self: MemoryLedger, last_contact_ms: int | None) -> None:
        if last_contact_ms is not None:
            real(self, last_contact_ms)

    patch.setattr(MemoryLedger, "keep_contact", keep)


def the_barrier_holds_nobody(patch: Patch) -> None:
    patch.setattr(derive, "holds_children", lambda job, attempt: False)


def a_promised_address_is_not_kept(patch: Patch) -> None:
    def kept(spec: ContainerSpec, **members: Any) -> ContainerSpec:
        members.pop("address", None)
        return replace(spec, **members)

    patch.setattr(agent_machine, "replace", kept)


def an_ended_job_ends_again(patch: Patch) -> None:
    real = ending.terminate_job

    def terminate(turn: Turn, job: Job, reason: str) -> None:
        real(turn, job, reason)
        if job.state.is_terminal:
            job.status_reason = reason

    patch.setattr(ending, "terminate_job", terminate)


def children_are_not_stopped_with_main(patch: Patch) -> None:
    real = derive.desired

    def desired(attempt: Attempt, node: NodeRun) -> Desired:
        if attempt.over and node.state is NodeState.RUNNING:
            return Desired.RUN
        return real(attempt, node)

    patch.setattr(derive, "desired", desired)


def an_unclean_host_is_released(patch: Patch) -> None:
    real = agent_machine.Machine._removed

    def removed(self: agent_machine.Machine, given: i.Removed | i.RemoveFailed) -> None:
        real(self, i.Removed(key=given.key))

    patch.setattr(agent_machine.Machine, "_removed", removed)


def a_dropped_vote_is_not_replaced(patch: Patch) -> None:
    patch.setattr(scheduler, "_complete_vote", lambda turn, job, free: None)


def what_stands_for_a_vote_forgets_the_refusals(patch: Patch) -> None:
    real = Turn.emit

    def emit(self: Turn, event: e.Event) -> None:
        real(self, event)
        if isinstance(event, e.GangAbandoned):
            self.step.events[-1] = Stamped(at_ms=self.wall, event=replace(event, refusals={}))

    patch.setattr(Turn, "emit", emit)


CUT_OFF: Focus = {"hosts": 5, "jobs": 3, "life_ms": 300_000, "cut_every_ms": 40_000}
"""Hosts that fall silent while they have work, and others to take it over."""
BROKEN_LINES: Focus = {"hosts": 4, "drop_every_ms": 15_000, "late": 0.4, "life_ms": 40_000}

HANGS: Focus = {"hosts": 5, "jobs": 3, "life_ms": 300_000, "agent_hang_every_ms": 30_000}

STOPS: Focus = {"agent_stop_every_ms": 20_000, "life_ms": 300_000}

MUTATIONS: dict[Mutation, Focus] = {
    children_start_with_main: {},
    main_starts_before_all_have_voted: {},
    the_next_attempt_does_not_wait: {},
    a_lost_host_is_free_of_its_nodes: CUT_OFF,
    hosts_are_released_on_intent: {},
    nobody_ends_a_lease: CUT_OFF,
    only_the_agent_ends_a_lease: HANGS,
    the_holder_is_told_of_no_contact: {},
    the_holder_is_not_told_of_a_goodbye: STOPS,
    the_fence_does_not_wait_for_the_grace: CUT_OFF,
    the_agents_lease_is_longer_than_the_coordinators: CUT_OFF,
    a_release_is_forgotten_before_it_is_acknowledged: BROKEN_LINES,
    children_are_told_their_own_address: {},
    main_is_told_its_address: {},
    a_host_takes_two_nodes: {},
    effects_are_visible_before_their_facts_are_durable: {},
    a_fact_is_not_journaled: {},
    a_goodbye_suspends_nothing: STOPS,
    the_lease_of_before_a_goodbye_goes_on: STOPS,
    the_barrier_holds_nobody: {},
    a_promised_address_is_not_kept: {"own_addresses": True},
    an_ended_job_ends_again: {"user_every_ms": 10_000},
    children_are_not_stopped_with_main: {},
    an_unclean_host_is_released: {"unclean": 0.4},
    a_dropped_vote_is_not_replaced: {},
    what_stands_for_a_vote_forgets_the_refusals: {},
}


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_rule_taken_away_is_noticed(mutate: Mutation, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    print(first_to_notice(MUTATIONS[mutate]))
