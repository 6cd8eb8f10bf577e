"""Only time in which the coordinator listened is held against a host."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import inputs as i
from coordinator.core.ids import HostId, JobId
from coordinator.core.listening import Listening
from coordinator.core.settings import Settings
from coordinator.core.states import JobState
from coordinator.shell import BATCH_MAX, Inbox, step
from tests.core.harness import Cluster

PULSE_MS = 1_000


def listened(marks: Sequence[int]) -> Listening:
    listening = Listening(marks[0], PULSE_MS)
    for mark in marks[1:]:
        listening.mark(mark, now_ms=mark)
    return listening


def test_time_between_close_marks_counts_in_full() -> None:
    listening = listened(range(0, 30_001, PULSE_MS))
    assert listening.since(0) == 30_000
    assert listening.since(12_500) == 17_500


def test_a_stretch_without_marks_counts_as_two_pulses() -> None:
    listening = listened([0, 1_000, 41_000, 42_000])
    assert listening.since(0) == 1_000 + 2_000 + 1_000
    assert listening.since(1_000) == 3_000
    assert listening.since(41_000) == 1_000
    assert listening.since(41_500) == 500


def test_what_began_within_a_gap_is_not_blamed_for_it() -> None:
    assert listened([0, 60_000]).since(59_000) == 0


def test_after_a_gap_counts_for_what_began_within_it() -> None:
    assert listened([0, 60_000, 61_000, 62_000]).since(50_000) == 2_000


def test_time_before_the_start_is_nobodys() -> None:
    assert listened([50_000, 51_000]).since(0) == 1_000


def test_old_gaps_are_taken_together_to_the_good_of_hosts() -> None:
    marks = [number * 10_000 for number in range(3_000)]
    listening = listened(marks)
    assert listening.since(0) == 2_999 * 2_000
    assert len(listening._ends) <= 1_001
    for number in (1, 1_500, 2_500):
        assert 0 <= listening.since(marks[number]) <= (2_999 - number) * 2_000


@given(st.lists(st.integers(0, 50_000), min_size=1, max_size=60), st.integers(0, 100_000))
def test_never_more_than_the_clock_and_never_backwards(steps: list[int], at_ms: int) -> None:
    listening, now, before = Listening(0, PULSE_MS), 0, 0
    for each in steps:
        now += each
        listening.mark(now, now_ms=now)
        since = listening.since(at_ms)
        assert 0 <= since <= max(now - at_ms, 0)
        assert since >= before
        before = since


@pytest.mark.parametrize(("lost", "beat"), [(2_000, 1_000), (5_000, 2_000), (30_000, 5_000)])
def test_one_mark_after_a_pause_loses_no_host_that_beat_in_time(lost: int, beat: int) -> None:
    settings = Settings(lost_after_ms=lost, heartbeat_ms=beat)
    assert beat + 4 * settings.pulse_ms < lost


# the machine


def test_a_pause_of_the_coordinator_loses_no_host(cluster: Cluster) -> None:
    """Its first step after the pause comes before the heartbeats that wait in its sockets."""
    cluster.hosts(2)
    job = cluster.submit(2)
    cluster.run(job)
    cluster.wait(10)
    cluster.now += 3_600_000
    cluster.do(i.Tick())
    assert not any(presence.lost for presence in cluster.state.presence.values())
    cluster.wait(600)
    assert cluster.is_(job) is JobState.RUNNING


def test_a_pause_does_not_hide_a_host_that_is_gone(cluster: Cluster) -> None:
    cluster.hosts(2)
    cluster.wait(20, silent=("h1",))
    cluster.now += 3_600_000
    cluster.do(i.Tick())
    cluster.wait(8, silent=("h1",))
    assert cluster.state.presence[HostId("h1")].lost
    assert not cluster.state.presence[HostId("h2")].lost


def test_a_pause_is_not_held_against_votes_and_the_start_barrier(cluster: Cluster) -> None:
    cluster.hosts(4)
    voting = cluster.submit(2)
    cluster.prepared("h1")
    held = cluster.submit(2, barrier=60)
    hosts = cluster.start_main(held)
    cluster.up(hosts[0])
    cluster.now += 3_600_000
    cluster.do(i.Tick())
    assert len(cluster.attempt(voting).nodes) == 2
    assert cluster.attempt(held).stop_cause is None
    cluster.wait(61)
    assert cluster.attempt(held).stop_cause is not None
    cluster.wait(1_800)
    assert (
        "did not answer within 1800 s" in cluster.state.jobs[voting].refusals[HostId("h2")].reason
    )


def test_heartbeats_in_a_long_inbox_count_from_when_they_came(cluster: Cluster) -> None:
    """A slow commit: the loop went on taking messages while nobody stepped."""
    hosts = cluster.hosts(4)
    inbox: Inbox[i.Input] = Inbox()
    end = cluster.now + 40_000
    flood = i.HostHeartbeat(session_id=cluster.session("h1"), seq=1)
    while cluster.now < end:
        cluster.now += cluster.settings.heartbeat_ms
        for _ in range(BATCH_MAX):
            inbox.put(flood, cluster.now)
        for host in hosts:
            inbox.put(i.HostHeartbeat(session_id=cluster.session(host), seq=1), cluster.now)
    while inbox:
        cluster.now += 10
        batch, heard_until = inbox.take(cluster.now)
        assert len(batch) <= BATCH_MAX
        cluster._absorb(step(cluster.machine, batch, cluster.now, cluster.now, heard_until))
        assert not [host for host in hosts if cluster.state.presence[host].lost]


def test_a_host_that_slow_commits_kept_from_its_welcome_is_not_lost(cluster: Cluster) -> None:
    """It beats once it is welcomed, which is after all that came while the disk was slow."""
    cluster.hosts(3)
    inbox: Inbox[i.Input] = Inbox()
    cluster.hello("h2")
    flood = i.HostHeartbeat(session_id=cluster.session("h1"), seq=1)
    for _ in range(60):
        cluster.now += 1_000
        for _ in range(BATCH_MAX // 3):
            inbox.put(flood, cluster.now)
    inbox.put(i.HostHeartbeat(session_id=cluster.session("h2"), seq=1), cluster.now)
    while inbox:
        cluster.now += 20_000
        batch, heard_until = inbox.take(cluster.now)
        cluster._absorb(step(cluster.machine, batch, cluster.now, cluster.now, heard_until))
        assert not cluster.state.presence[HostId("h2")].lost


def test_a_host_that_is_gone_is_lost_though_every_step_is_late_and_the_inbox_never_empty(
    cluster: Cluster,
) -> None:
    """Callers who ask again as soon as they are answered, and a disk that takes 5 s a commit."""
    cluster.hosts(2)
    inbox: Inbox[i.Input] = Inbox()
    begun, beaten = cluster.now, cluster.now
    ask = i.Cancel(job_id=JobId("none"), node_index=None, reason="")
    for _ in range(3 * BATCH_MAX):
        inbox.put(ask, cluster.now)
    while not cluster.state.presence[HostId("h1")].lost:
        assert cluster.now - begun < 1_000_000
        cluster.now += 5_000
        while beaten + cluster.settings.heartbeat_ms <= cluster.now:
            beaten += cluster.settings.heartbeat_ms
            inbox.put(i.HostHeartbeat(session_id=cluster.session("h2"), seq=1), beaten)
        batch, heard_until = inbox.take(cluster.now)
        step(cluster.machine, batch, cluster.now, cluster.now, heard_until)
        for _ in range(batch.count(ask)):
            inbox.put(ask, cluster.now)
        assert not cluster.state.presence[HostId("h2")].lost
