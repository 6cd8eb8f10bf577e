"""The simulator sees when a healthy job is hurt: take a rule away that spares it, and some seed
notices. As `test_mutations.py`, for the promises of `blame.py`."""

from __future__ import annotations

import pytest

from coordinator import shell
from coordinator.core import (
    clocks,
    derive,
    ending,
    evolve,
    lease,
    reservation,
    scheduler,
    silence,
)
from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.effects import Step
from coordinator.core.listening import Listening
from coordinator.core.machine import Machine
from coordinator.core.settings import Settings
from coordinator.core.state import Attempt, ClusterState, Job, Ran
from coordinator.core.turn import Turn
from muster.v1 import agent_service_pb2 as pb
from tests.sim.knobs import NO_FAULTS
from tests.sim.mutation import Focus, Mutation, Patch, first_to_notice
from tests.sim.sim_agent import SimAgent


def silence_is_the_clock(patch: Patch) -> None:
    def since(self: Listening, at_ms: int) -> int:
        return max(self._heard_until_ms - max(at_ms, self.start_ms), 0)

    patch.setattr(Listening, "since", since)


def what_waits_in_the_inbox_was_not_sent(patch: Patch) -> None:
    real = shell.step

    def step(machine: Machine, inputs: list[i.Input], now: int, wall: int, _: int) -> Step:
        return real(machine, inputs, now, wall, now)

    patch.setattr(shell, "step", step)


def the_verdict_comes_when_a_host_is_lost(patch: Patch) -> None:
    patch.setattr(silence, "verdict_after_ms", lambda settings, job, attempt: 25_000)


def the_fence_does_not_listen_first(patch: Patch) -> None:
    patch.setattr(silence, "_unheard_ms", lambda turn, stopped_at_ms: stopped_at_ms - turn.now)


def leases_are_those_of_the_settings(patch: Patch) -> None:
    def seconds(settings: Settings, job: Job, attempt: Attempt) -> int:
        return lease.new_lease_seconds(settings, job, attempt.number)

    patch.setattr(lease, "lease_seconds", seconds)
    patch.setattr(derive, "lease_seconds", seconds)


def the_last_attempt_has_the_lease_of_others(patch: Patch) -> None:
    patch.setattr(
        reservation, "new_lease_seconds", lambda settings, job, number: settings.lease_seconds
    )


def a_dependent_does_not_wait_for_leftovers(patch: Patch) -> None:
    patch.setattr(scheduler, "unsettled_dependency", lambda state, job: None)


def a_job_that_can_never_run_is_waited_for(patch: Patch) -> None:
    patch.setattr(scheduler, "could_run", lambda state, job, refusing: True)


def refusals_end_when_main_is_launched(patch: Patch) -> None:
    real = evolve._attempt_started

    def started(state: ClusterState, event: e.AttemptStarted, at_ms: int) -> None:
        real(state, event, at_ms)
        state.jobs[event.job_id].refusals.clear()

    patch.setitem(evolve._EVOLVE, e.AttemptStarted, started)


def the_wall_clock_times_jobs_out(patch: Patch) -> None:
    def ran_of(turn: Turn, job: Job, attempt: Attempt) -> Ran:
        real = old(turn, job, attempt)
        return Ran(key=real.key, ms=turn.wall - attempt.started_at_ms, at_ms=turn.now)

    old = ending.ran_of
    patch.setattr(ending, "ran_of", ran_of)


def the_wall_clock_alone_deletes_records(patch: Patch) -> None:
    patch.setattr(clocks, "agree", lambda state, settings: True)


def a_hello_brings_no_output(patch: Patch) -> None:
    real = SimAgent._hello

    def hello(self: SimAgent) -> pb.Hello:
        message = real(self)
        for node in message.observed:
            node.ClearField("log_tail")
        self._tails_told.begin_session()
        return message

    patch.setattr(SimAgent, "_hello", hello)


def heartbeats_wait_for_room(patch: Patch) -> None:
    patch.setattr(shell.Hold, "beat", lambda *_: None)


def what_was_heard_before_a_sleep_proves_an_end(patch: Patch) -> None:
    patch.setattr(Listening, "awake_since_ms", property(lambda self: self.start_ms))


def a_slow_commit_is_the_hosts_silence(patch: Patch) -> None:
    real = Listening.mark

    def mark(self: Listening, heard_until_ms: int, *, now_ms: int) -> None:
        self._stepped_at_ms = now_ms
        real(self, heard_until_ms, now_ms=now_ms)

    patch.setattr(Listening, "mark", mark)


PAUSES: Focus = {"pause_every_ms": 40_000, "hosts": 4, "jobs": 4, "life_ms": 40_000}
CUTS: Focus = {"cut_every_ms": 40_000, "hosts": 5, "jobs": 4, "life_ms": 40_000}
HOLES: Focus = {"black_holes": 2, "hosts": 4, "jobs": 4, "types": 1}
CLOCKS: Focus = {"clock_step_every_ms": 10_000, "life_ms": 40_000, "jobs": 5}

FULL: Focus = {
    **NO_FAULTS,
    "full_disk_every_ms": 30_000,
    "last_lease_seconds": 200,
    "life_ms": 300_000,
    "jobs": 4,
}

MUTATIONS: dict[Mutation, Focus] = {
    heartbeats_wait_for_room: FULL,
    silence_is_the_clock: PAUSES,
    what_waits_in_the_inbox_was_not_sent: {
        **NO_FAULTS,
        "slow_commit_every_ms": 5_000,
        "slow_commit_ms": (1_000, 1_990),
        "hosts": 6,
        "jobs": 30,
        "life_ms": 5_000,
        "batch_max": 1,
    },
    a_slow_commit_is_the_hosts_silence: {
        "slow_commit_every_ms": 20_000,
        "slow_commit_ms": None,
        "hosts": 6,
        "jobs": 6,
        "batch_max": 1,
        "user_every_ms": 5_000,
        "older_journal_every_ms": None,
    },
    the_verdict_comes_when_a_host_is_lost: {**CUTS, "verdict_seconds": 80},
    the_fence_does_not_listen_first: {**PAUSES, "cut_every_ms": 40_000, "jobs": 6},
    what_was_heard_before_a_sleep_proves_an_end: {
        **NO_FAULTS,
        "pause_every_ms": 10_000,
        "cut_every_ms": 30_000,
        "hosts": 4,
        "jobs": 10,
        "life_ms": 40_000,
        "readers": 0,
        "horizon_ms": 400_000,
    },
    leases_are_those_of_the_settings: {
        **CUTS,
        "other_lease_seconds": 40,
        "coordinator_crash_every_ms": 30_000,
    },
    the_last_attempt_has_the_lease_of_others: {**PAUSES, "life_ms": 300_000},
    a_dependent_does_not_wait_for_leftovers: {**CUTS, "jobs": 6},
    a_job_that_can_never_run_is_waited_for: {},
    refusals_end_when_main_is_launched: HOLES,
    the_wall_clock_times_jobs_out: CLOCKS,
    the_wall_clock_alone_deletes_records: CLOCKS,
    a_hello_brings_no_output: {"coordinator_crash_every_ms": 30_000, "tail_lost": 0.0},
}


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_healthy_job_that_is_hurt_is_noticed(mutate: Mutation, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    print(first_to_notice(MUTATIONS[mutate]))
