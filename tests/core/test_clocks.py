"""One reading of a clock decides nothing that cannot be undone."""

from __future__ import annotations

import pytest

from coordinator.core import clocks
from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.ids import HostId
from coordinator.core.machine import Machine
from coordinator.core.states import Desired, JobState, Progress
from tests.core.harness import START_MS, Cluster

DAY_MS = 86_400_000
CAPACITY = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY"


def restart(cluster: Cluster, *, wall_ms: int, now: int, boot_id: str) -> None:
    """The coordinator comes back with another wall clock, on this boot or another."""
    machine = Machine(cluster.settings)
    machine.replay(cluster.journal, [])
    cluster.machine = machine
    cluster.now = now
    cluster.sent.clear()
    cluster._sessions.clear()
    cluster._absorb(machine.start(now, wall_ms=wall_ms, boot_id=boot_id))


def test_a_start_with_the_clock_a_day_ahead_ends_no_job(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, timeout=60)
    cluster.run(job)
    key = cluster.key("h1")
    cluster.wait(16)
    restart(cluster, wall_ms=cluster.now + DAY_MS, now=5_000, boot_id="another")
    cluster.wait(1)
    assert cluster.attempt(job).stop_cause is None
    cluster.hello("h1", i.Observation(key=key, progress=Progress.UP, was_up=True, ran_ms=17_000))
    cluster.wait(42)
    assert cluster.attempt(job).stop_cause is None
    cluster.wait(2)
    assert cluster.wants("h1") is Desired.STOP


def test_how_long_a_job_has_run_is_what_its_agent_measures(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, timeout=60)
    cluster.run(job)
    key = cluster.key("h1")
    cluster.wait(10)
    cluster.hello("h1", i.Observation(key=key, progress=Progress.UP, was_up=True, ran_ms=55_000))
    cluster.wait(6)
    assert cluster.attempt(job).stop_cause == "Job attempt duration exceeded timeout"


def test_while_main_is_silent_its_time_runs_on(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, timeout=60)
    cluster.run(job)
    cluster.wait(59, silent=("h1",))
    assert cluster.is_(job) is JobState.RUNNING
    cluster.wait(2, silent=("h1",))
    assert cluster.is_(job) is JobState.FAILED


def test_facts_are_stamped_with_the_wall_clock_of_their_step(cluster: Cluster) -> None:
    """It was a day ahead at the start, and was put right a moment later."""
    restart(cluster, wall_ms=START_MS + DAY_MS, now=5_000, boot_id="boot")
    wrong = cluster.define()
    step = cluster.machine.step([], 6_000, wall_ms=START_MS)
    assert step.events == []
    given = i.RegisterDefinition(
        definition=cluster.state.definitions[wrong][1].definition, size_bytes=1
    )
    cluster._absorb(cluster.machine.step([given], 7_000, wall_ms=START_MS + 1_000))
    (stamped,) = cluster.last.events
    assert stamped.at_ms == START_MS + 1_000
    assert cluster.state.wall_of(7_000) == START_MS + 1_000


@pytest.mark.parametrize(
    ("ahead", "agreed"),
    [
        ([], False),
        ([0], True),
        ([9 * DAY_MS], False),
        ([-9 * DAY_MS], False),
        ([1_000, -2_000, 9 * DAY_MS], True),  # an agent's own clock may be the wrong one
        ([9 * DAY_MS, 1_000, 9 * DAY_MS], False),
    ],
)
def test_agents_confirm_the_wall_clock(cluster: Cluster, ahead: list[int], agreed: bool) -> None:
    hosts = cluster.hosts(len(ahead) + 1)
    for host, each in zip(hosts, ahead, strict=False):
        wall_ms = cluster.now + each
        cluster.do(i.HostHeartbeat(session_id=cluster.session(host), seq=1, wall_ms=wall_ms))
    assert clocks.agree(cluster.state, cluster.settings) is agreed
    for host in hosts:
        cluster.hang_up(host)
    assert not clocks.agree(cluster.state, cluster.settings)


def test_a_definition_is_forgotten_only_by_a_clock_that_is_confirmed(cluster: Cluster) -> None:
    cluster.define(name="d")
    cluster.do(i.DeregisterDefinition(name="d", revision=1))
    cluster.now += cluster.settings.definition_retention_ms + 1
    cluster.wait(4_000)
    assert cluster.all_facts(e.DefinitionForgotten) == []


def test_a_refusal_that_was_written_by_a_wrong_clock_is_over(cluster: Cluster) -> None:
    cluster.hosts(1)
    wrong = START_MS + DAY_MS
    restart(cluster, wall_ms=wrong, now=5_000, boot_id="boot")
    cluster.hello("h1")
    cluster.machine.step([], 5_000, wall_ms=wrong)
    job = cluster.submit(1)
    for progress in (Progress.REFUSED, Progress.RELEASED):
        seen = i.Observation(key=cluster.key("h1"), progress=progress, reason="busy")
        report = i.HostReport(session_id=cluster.session("h1"), seq=1, observations=(seen,))
        cluster._absorb(cluster.machine.step([report], 6_000, wall_ms=wrong))
    assert cluster.job(job).current is None
    tick = cluster.machine.step([i.Tick()], 7_000, wall_ms=START_MS)
    assert tick.events == []
    restart(cluster, wall_ms=START_MS, now=8_000, boot_id="boot")
    cluster.hello("h1")
    assert cluster.job(job).current is not None


# time limits of queues


def limited(cluster: Cluster) -> None:
    limit = e.TimeLimitAction(
        reason=CAPACITY, state="RUNNABLE", max_time_seconds=600, action="CANCEL"
    )
    cluster.do(i.UpdateQueue(name="default", time_limits=(limit,)))


def test_a_time_limit_survives_a_restart_and_no_wall_clock_counts(cluster: Cluster) -> None:
    limited(cluster)
    cluster.hosts(1)
    job = cluster.submit(2)
    cluster.wait(500)
    restart(cluster, wall_ms=START_MS + 9 * DAY_MS, now=cluster.now, boot_id="")
    cluster.hello("h1")
    cluster.wait(90)
    assert cluster.is_(job) is JobState.RUNNABLE
    cluster.wait(20)
    assert cluster.is_(job) is JobState.FAILED


def test_what_was_stuck_before_another_boot_counts_from_the_start(cluster: Cluster) -> None:
    limited(cluster)
    cluster.hosts(1)
    job = cluster.submit(2)
    cluster.wait(500)
    restart(cluster, wall_ms=cluster.now, now=1_000, boot_id="another")
    cluster.hello("h1")
    cluster.wait(590)
    assert cluster.is_(job) is JobState.RUNNABLE
    cluster.wait(20)
    assert cluster.is_(job) is JobState.FAILED


def test_a_queue_without_limits_writes_nothing_of_it(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.submit(2)
    cluster.wait(10)
    assert cluster.all_facts(e.PlacementBlocked) == []
    assert not cluster.state.presence[HostId("h1")].lost
