"""Rules about an agent's files and identity taken away, and the seeds that notice. As
`test_mutations.py`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from agent import shell, whereabouts
from agent.core import inputs as i
from agent.core import lease as agent_lease
from agent.core.assignment import NodeKey
from agent.core.state import Slot
from agent.engine.port import Managed
from agent.whereabouts import Found, Whereabouts
from coordinator.core import gang, hello, identity
from coordinator.core import inputs as c
from coordinator.core.identity import MachineId
from coordinator.core.states import Progress
from coordinator.core.turn import Turn
from muster.v1 import agent_service_pb2 as pb
from tests.sim.mutation import Focus, Mutation, Patch, first_to_notice
from tests.sim.sim_agent import SimAgent
from tests.sim.sim_leases import Holder, SimLeases


def a_boot_id_is_proof_without_following(patch: Patch) -> None:
    """And without a machine that is the same."""
    patch.setattr(hello, "_proves_reboot", lambda before, said: before.boot_id != said.boot_id)
    patch.setattr(hello, "is_same", lambda known, said: True)


def a_hello_that_contradicts_is_opened_at_once(patch: Patch) -> None:
    patch.setattr(hello, "_contradicts", lambda turn, host, said: False)


def a_hello_that_waited_need_not_be_said_again(patch: Patch) -> None:
    def let_wait(turn: Turn, said: c.HostHello) -> None:
        real(turn, replace(said, answers_inquiries=False))

    real = hello._let_wait
    patch.setattr(hello, "_let_wait", let_wait)


def another_machine_with_the_same_uuid_is_the_host(patch: Patch) -> None:
    patch.setattr(hello, "is_same", lambda known, said: True)


def clones_are_told_apart_by_their_machine_id_alone(patch: Patch) -> None:
    real = identity.is_same

    def same(known: MachineId, said: MachineId) -> bool | None:
        return real(MachineId(os_id=known.os_id), MachineId(os_id=said.os_id))

    patch.setattr(hello, "is_same", same)


def an_unknown_machine_is_the_host(patch: Patch) -> None:
    real = identity.is_same
    patch.setattr(hello, "is_same", lambda known, said: real(known, said) is not False)


def an_agent_that_has_not_looked_proves_absence(patch: Patch) -> None:
    real = SimAgent._hello

    def said(self: SimAgent) -> pb.Hello:
        message = real(self)
        message.is_attached = True
        return message

    patch.setattr(SimAgent, "_hello", said)


def a_wiped_agent_starts_mains_again(patch: Patch) -> None:
    """What it does not name counts as voted for, as if all of its files were there."""
    real = hello._not_there

    def not_there(
        turn: Turn, said: c.HostHello, key: NodeKey, seen: Progress | None, **_: bool
    ) -> None:
        real(turn, said, key, seen or Progress.PREPARED, goes_on=True)  # type: ignore[arg-type]

    patch.setattr(hello, "_not_there", not_there)


def a_lost_vote_counts(patch: Patch) -> None:
    real = hello._not_there

    def not_there(
        turn: Turn, said: c.HostHello, key: NodeKey, seen: Progress | None, **knows: bool
    ) -> None:
        held = gang.held_node(turn, said.host_id, key)  # type: ignore[arg-type]
        if held is not None and held[1].started:
            real(turn, said, key, seen, **knows)  # type: ignore[arg-type]

    patch.setattr(hello, "_not_there", not_there)
    patch.setattr(Slot, "keeps_promise", lambda self, assignment: True)


def what_an_older_ledger_names_is_started_again(patch: Patch) -> None:
    real = hello._not_there

    def not_there(
        turn: Turn, said: c.HostHello, key: NodeKey, seen: Progress | None, **knows: bool
    ) -> None:
        if seen is None:
            real(turn, said, key, seen, **knows)  # type: ignore[arg-type]

    patch.setattr(hello, "_not_there", not_there)


def an_older_ledger_says_when_contact_was(patch: Patch) -> None:
    patch.setattr(agent_lease, "contact_ms", lambda managed, now_ms: 0)


def a_found_node_gets_a_new_lease(patch: Patch) -> None:
    def ends_at_ms(slot: Slot, last_contact_ms: int) -> int | None:
        if slot.assignment is None and slot.found_lease is not None:
            return slot.found_boot_ms + 1000 * slot.found_lease.seconds
        return real(slot, last_contact_ms)

    real = agent_lease.ends_at_ms
    patch.setattr(agent_lease, "ends_at_ms", ends_at_ms)


def a_found_node_ends_after_a_minute(patch: Patch) -> None:
    real = whereabouts.taken_over

    def taken_over(managed: Managed, lease_ends_at_ms: int | None) -> i.Found:
        return replace(real(managed, lease_ends_at_ms), lease=None)

    patch.setattr(whereabouts, "taken_over", taken_over)


def a_holders_file_is_not_looked_for(patch: Patch) -> None:
    def find(self: SimLeases, name: str, holder: Holder) -> None:
        pass

    patch.setattr(SimLeases, "find", find)


def an_agent_does_not_wait_for_its_cluster(patch: Patch) -> None:
    patch.setattr(Found, "is_undecided", lambda self, known, cluster_id: False)


def an_agent_does_not_look_at_all(patch: Patch) -> None:
    def sort(
        found: Found, known: Collection[NodeKey], *_: object, cluster_id: str, machine: str
    ) -> Whereabouts:
        ours = tuple(each for each in found.managed if each.key in known)
        keys = {*known, *(each.key for each in found.managed)}
        return Whereabouts(ours=ours, strange=(), keys=tuple(keys))

    patch.setattr(whereabouts, "sort", sort)


def a_ledger_is_believed_on_every_machine(patch: Patch) -> None:
    """And a clone takes over what the records of its disk name."""

    def sort(
        found: Found, known: Collection[NodeKey], *_: object, cluster_id: str, machine: str
    ) -> Whereabouts:
        keys = {*known, *(each.key for each in found.managed)}
        return Whereabouts(ours=found.managed, strange=(), keys=tuple(keys))

    patch.setattr(whereabouts, "sort", sort)
    patch.setattr(shell, "owner", lambda host_id, machine: host_id)
    another_machine_with_the_same_uuid_is_the_host(patch)


FILES: Focus = {
    "directory_every_ms": 15_000,
    "hosts": 3,
    "jobs": 5,
    "life_ms": 40_000,
    "delay_ms": 20,
}
"""Directories that are wiped and brought back all the time."""
LONG: Focus = {**FILES, "life_ms": 300_000}
SLOW: Focus = {**FILES, "engine_ms": 2_000, "life_ms": 5_000, "own_addresses": True}
CLONES: Focus = {
    "clone_every_ms": 10_000,
    "agent_crash_every_ms": 30_000,
    "cut_every_ms": 40_000,
    "hosts": 4,
    "jobs": 4,
    "life_ms": 300_000,
}
SECONDS: Focus = {"second_agent_every_ms": 8_000, "hosts": 3, "jobs": 4, "life_ms": 300_000}
LATE: Focus = {
    "late": 0.4,
    "drop_every_ms": 10_000,
    "agent_crash_every_ms": 15_000,
    "hosts": 4,
    "jobs": 6,
    "life_ms": 40_000,
}

MUTATIONS: dict[Mutation, Focus] = {
    a_boot_id_is_proof_without_following: CLONES,
    a_hello_that_contradicts_is_opened_at_once: SECONDS,
    a_hello_that_waited_need_not_be_said_again: LATE,
    another_machine_with_the_same_uuid_is_the_host: CLONES,
    clones_are_told_apart_by_their_machine_id_alone: CLONES,
    an_unknown_machine_is_the_host: CLONES,
    an_agent_that_has_not_looked_proves_absence: LONG,
    a_wiped_agent_starts_mains_again: {**SLOW, "life_ms": 50, "own_addresses": False},
    a_lost_vote_counts: SLOW,
    what_an_older_ledger_names_is_started_again: {**SLOW, "own_addresses": False},
    an_older_ledger_says_when_contact_was: LONG,
    a_found_node_gets_a_new_lease: LONG,
    a_found_node_ends_after_a_minute: LONG,
    a_holders_file_is_not_looked_for: LONG,
    an_agent_does_not_wait_for_its_cluster: LONG,
    an_agent_does_not_look_at_all: LONG,
    a_ledger_is_believed_on_every_machine: CLONES,
}


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_rule_taken_away_is_noticed(mutate: Mutation, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    print(first_to_notice(MUTATIONS[mutate]))
