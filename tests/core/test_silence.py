"""Lost and the verdict are two times, and leases are facts of an attempt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.explain import status_reason
from coordinator.core.ids import HostId, JobId
from coordinator.core.lease import lease_seconds, stopped_after_ms, verdict_after_ms
from coordinator.core.leftovers import leftovers, namesakes
from coordinator.core.machine import Machine
from coordinator.core.settings import Settings
from coordinator.core.states import Desired, JobState, NodeState, Progress
from tests.core.harness import SETTINGS, Cluster

GONE = "Host EC2 (instance {}) terminated."


def reason(cluster: Cluster, job: JobId) -> str | None:
    return status_reason(cluster.state, cluster.settings, cluster.job(job))


def silent_main(cluster: Cluster, seconds: float = 40, **members: object) -> tuple[JobId, HostId]:
    """A job of two nodes runs; main's host falls silent and is lost."""
    cluster.hosts(2)
    job = cluster.submit(2, **members)  # type: ignore[arg-type]
    main, _ = cluster.run(job)
    cluster.wait(seconds, silent=(main,))
    return job, main


# lost


def test_a_cut_shorter_than_the_verdict_changes_nothing(cluster: Cluster) -> None:
    job, main = silent_main(cluster, 299)
    before = len(cluster.journal)
    assert cluster.state.presence[main].lost
    cluster.wait(600)
    assert cluster.is_(job) is JobState.RUNNING
    assert len(cluster.journal) == before
    cluster.finish(job)
    assert cluster.is_(job) is JobState.SUCCEEDED


def test_a_lost_host_leaves_a_vote_and_gets_no_new_work(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(2)
    cluster.prepared("h2")
    cluster.wait(31, silent=("h1",))
    assert cluster.placed(job) == ["h3", "h2"]
    other = cluster.submit(1)
    assert cluster.job(other).attempts == []


def test_the_children_of_a_silent_main_run_on(cluster: Cluster) -> None:
    job, _ = silent_main(cluster)
    assert cluster.node(job, 1).state is NodeState.RUNNING
    assert cluster.wants("h2") is Desired.RUN


def test_status_reason_says_since_when_and_until_when(cluster: Cluster) -> None:
    job, main = silent_main(cluster)
    assert reason(cluster, job) == (
        f"The main node's host {main} is silent since 2023-11-14 22:13:20 UTC; the job goes on, "
        "and the attempt fails at 2023-11-14 22:18:20 UTC unless the host is heard before"
    )
    cluster.wait(1)
    assert reason(cluster, job) is None


def test_the_step_that_loses_a_host_shows_its_job(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    shown = []
    while not cluster.state.presence[HostId("h1")].lost:
        cluster.now += 1_000
        cluster.do(i.Tick())
        shown.append(job in cluster.last.changed_nodes)
    assert shown == [False] * 29 + [True]
    cluster.do(i.HostHeartbeat(session_id=cluster.session("h1"), seq=1))
    assert job in cluster.last.changed_nodes


# the verdict


def bounds(settings: Settings, *, attempts: int = 1, verdict: int | None = None) -> float:
    cluster = Cluster(settings)
    cluster.hosts(1)
    job = cluster.submit(1, attempts=attempts, verdict=verdict)
    cluster.run(job)
    return verdict_after_ms(settings, cluster.job(job), cluster.attempt(job)) / 1000


@pytest.mark.parametrize(
    ("lease", "asked", "attempts", "expected"),
    [
        (600, None, 2, 300),
        (400, None, 2, 200),
        (0, None, 2, 300),
        (600, 5, 2, 30),  # never before the host is lost
        (600, 700, 2, 600),  # never after the lease
        (600, 700, 1, 700),  # the last attempt's is longer
        (0, 100_000, 2, 100_000),
        (40, None, 2, 30),
    ],
)
def test_the_verdict_is_between_lost_and_the_lease(
    lease: int, asked: int | None, attempts: int, expected: float
) -> None:
    settings = replace(SETTINGS, lease_seconds=lease)
    assert bounds(settings, attempts=attempts, verdict=asked) == expected


def test_a_job_may_ask_for_its_own_verdict(cluster: Cluster) -> None:
    job, main = silent_main(cluster, 59, verdict=60)
    assert cluster.is_(job) is JobState.RUNNING
    cluster.wait(1, silent=(main,))
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).status_reason == GONE.format(main)
    assert cluster.wants("h2") is Desired.STOP


def test_a_child_due_to_start_on_a_silent_host_waits_for_the_verdict(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.start_main(job)
    cluster.wait(400, silent=(child,))
    cluster.up(main)
    assert cluster.node(job, 1).state is NodeState.STARTING
    cluster.wait(0, silent=(child,))
    assert cluster.node(job, 1).status_reason == GONE.format(child), "it was due already"


def test_a_new_boot_and_the_agents_word_give_the_verdict_at_once(cluster: Cluster) -> None:
    job, main = silent_main(cluster, attempts=2)
    cluster.hello(main, boot_id="boot-2")
    assert cluster.job(job).attempts[0].status_reason == GONE.format(main)
    other = Cluster()
    job, main = silent_main(other)
    other.hello(main)
    assert other.is_(job) is JobState.FAILED


def test_silence_counts_anew_after_a_restart(cluster: Cluster) -> None:
    job, _ = silent_main(cluster, 290)
    cluster.restart()
    cluster.wait(299)
    assert cluster.is_(job) is JobState.RUNNING
    cluster.wait(2)
    assert cluster.is_(job) is JobState.FAILED


# ends that do not wait


@pytest.mark.parametrize("how", ["terminate", "timeout", "queue"])
def test_a_job_with_a_silent_main_ends_at_once(cluster: Cluster, how: str) -> None:
    cluster.queue("own")
    job, main = silent_main(cluster, 40, queue="own", timeout=60, attempts=3)
    if how == "terminate":
        cluster.terminate(job, reason="enough")
    elif how == "queue":
        cluster.do(i.UpdateQueue(name="own", enabled=False))
        cluster.do(i.DeleteQueue(name="own"))
    cluster.wait(0 if how != "timeout" else 21, silent=(main,))
    assert cluster.is_(job) is JobState.FAILED
    assert (
        cluster.job(job).status_reason
        == {
            "terminate": "enough",
            "timeout": "Job attempt duration exceeded timeout",
            "queue": "JobQueue deleted",
        }[how]
    )
    (left,) = [left for left in leftovers(cluster.state, cluster.settings, cluster.job(job))
               if left.is_silent]  # fmt: skip
    assert (left.host_id, left.node_index) == (main, 0)
    assert left.until_ms is not None
    assert list(cluster.state.hosts[main].holds), "its host is held until there is proof"
    cluster.hello(main, i.Observation(key=cluster.node_key(job, 0), progress=Progress.RELEASED))
    assert not [left for left in leftovers(cluster.state, cluster.settings, cluster.job(job))
                if left.is_silent]  # fmt: skip


def test_a_stop_that_was_asked_for_before_the_silence_does_not_wait_for_the_verdict(
    cluster: Cluster,
) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    cluster.terminate(job)
    cluster.wait(30, silent=("h1",))
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).status_reason == "enough"


# leases are facts of an attempt


def test_the_last_attempt_has_a_lease_of_its_own(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, attempts=2)
    cluster.run(job)
    (told,) = cluster.sent[HostId("h1")]
    assert told.lease_seconds == 600
    cluster.finish(job, 1)
    cluster.run(job)
    (told,) = cluster.sent[HostId("h1")]
    assert told.lease_seconds == 86_400


@pytest.mark.parametrize(
    ("lease", "last", "expected"), [(600, 0, 0), (0, 60, 0), (600, 60, 600), (60, 600, 600)]
)
def test_the_larger_of_two_leases_counts(lease: int, last: int, expected: int) -> None:
    cluster = Cluster(replace(SETTINGS, lease_seconds=lease, last_attempt_lease_seconds=last))
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    (told,) = cluster.sent[HostId("h1")]
    assert told.lease_seconds == expected


def test_a_lease_that_is_set_lower_over_a_restart_frees_no_job_early(cluster: Cluster) -> None:
    """Two attempts ran at once: the host went on by what it had been told."""
    cluster.hosts(2)
    job = cluster.submit(1, attempts=2)
    (main,) = cluster.run(job)
    cluster.settings = replace(SETTINGS, lease_seconds=40, stop_grace_seconds=1)
    cluster.restart()
    cluster.hello("h2")
    cluster.wait(664)
    assert cluster.job(job).current is None
    assert cluster.is_(job) is JobState.RUNNABLE
    cluster.wait(2)
    assert cluster.job(job).current is not None, f"{main} was told 600 s and 30 s of grace"


def test_attempts_of_older_journals_count_the_longest_lease_that_is_known(
    cluster: Cluster,
) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, attempts=2)
    cluster.run(job)
    old = Machine(replace(SETTINGS, lease_seconds=40, stop_grace_seconds=1))
    old.replay([replace(each, event=_of_older_release(each.event)) for each in cluster.journal], [])
    found = old.state.jobs[job]
    assert found.attempts[0].lease_seconds is None
    assert lease_seconds(old.settings, found, found.attempts[0]) == 600
    zero = replace(old.settings, lease_seconds=0)
    assert lease_seconds(zero, found, found.attempts[0]) == 0


def _of_older_release(event: e.Event) -> e.Event:
    if isinstance(event, e.GangReserved):
        return replace(event, lease_seconds=None, stop_grace_seconds=None)
    return event


def test_an_end_by_lease_looks_like_a_host_that_is_gone(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    cluster.exited("h1", 0, "MusterLeaseError: no contact for 600 s", lease_ended=True)
    attempt = cluster.attempt(job)
    assert cluster.is_(job) is JobState.FAILED
    assert (attempt.exit_code, attempt.status_reason) == (None, GONE.format("h1"))
    assert attempt.reason == "MusterLeaseError: no contact for 600 s"


# what depends on it, and what is submitted beside it


@pytest.mark.parametrize("late", [False, True])
def test_a_dependent_waits_for_what_may_still_write(cluster: Cluster, late: bool) -> None:
    cluster.hosts(3)
    first = cluster.submit(2)
    main, child = cluster.run(first)
    dependent = None if late else cluster.submit(1, after=(first,))
    cluster.wait(40, silent=(child,))
    cluster.exited(main, 0)
    cluster.released(main)
    job = dependent or cluster.submit(1, after=(first,))
    other = cluster.submit(1)
    assert cluster.is_(job) is JobState.RUNNABLE
    assert cluster.job(job).attempts == []
    assert cluster.job(other).attempts, "it holds up nobody"
    found = reason(cluster, job) or ""
    assert found.startswith(f"Waiting until nothing runs of job {first}, which it depends on: ")
    assert f"muster hosts fence {child}" in found
    cluster.hello(child)
    assert cluster.job(job).attempts


def test_who_submits_a_job_of_the_same_name_is_warned(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(1, name="train")
    (host,) = cluster.run(job)
    assert namesakes(cluster.state, cluster.settings, "train") == ""
    cluster.wait(40, silent=(host,))
    cluster.terminate(job)
    cluster.wait(0, silent=(host,))
    assert namesakes(cluster.state, cluster.settings, "train") == (
        f"an ended job of the name train may still run: job {job} on host {host}"
    )
    assert namesakes(cluster.state, cluster.settings, "other") == ""
    cluster.hello(host)
    assert namesakes(cluster.state, cluster.settings, "train") == ""


def test_a_lease_that_ran_out_while_the_coordinator_slept_waits_for_what_is_at_its_door(
    cluster: Cluster,
) -> None:
    """A short cut, and a long sleep of the coordinator: the main has ended meanwhile, well."""
    cluster.hosts(2)
    job = cluster.submit(1, attempts=2)
    (main,) = cluster.run(job)
    key = cluster.key(main)
    cluster.wait(40, silent=(main,))
    cluster.now += 3_600_000
    cluster.do(i.Tick())
    assert cluster.is_(job) is JobState.RUNNING
    ended = i.Observation(key=key, progress=Progress.RELEASED, was_up=True, exit_code=0)
    cluster.hello(main, ended)
    assert cluster.is_(job) is JobState.SUCCEEDED


def test_a_lease_that_ran_out_is_over_soon_after_the_coordinator_woke(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(1, attempts=2)
    (main,) = cluster.run(job)
    cluster.wait(40, silent=(main,))
    cluster.now += 3_600_000
    cluster.wait(10, silent=(main,))
    assert cluster.job(job).attempts[0].nodes[0].released


@pytest.mark.parametrize(
    ("heartbeat_ms", "asleep_before_ms", "asleep_after_ms"),
    [
        (5_000, 5_000, 5_000),
        (5_000, 2_000, 5_000),
        (5_000, 1_000, 3_600_000),
        (1_000, 2_000, 5_000),
    ],
)
def test_what_was_heard_before_a_second_sleep_tells_nothing_of_what_came_in_it(
    heartbeat_ms: int, asleep_before_ms: int, asleep_after_ms: int
) -> None:
    """It hears nothing for long, and the lease ends in a second sleep: how the main ended waits at
    the door then."""
    cluster = Cluster(replace(SETTINGS, heartbeat_ms=heartbeat_ms))
    cluster.hosts(2)
    job = cluster.submit(1, attempts=2)
    (main,) = cluster.run(job)
    found = cluster.job(job)
    after_ms = stopped_after_ms(cluster.settings, found, found.attempts[0])
    assert after_ms is not None
    proven_ms = cluster.now + after_ms + heartbeat_ms
    cluster.wait(40, silent=(main,))
    cluster.now = proven_ms - asleep_before_ms - 15_000
    cluster.wait(15, silent=(main,))
    cluster.now = proven_ms + asleep_after_ms
    cluster.do(i.Tick())
    assert cluster.is_(job) is JobState.RUNNING
    ended = i.Observation(
        key=cluster.key(main), progress=Progress.RELEASED, was_up=True, exit_code=0
    )
    cluster.hello(main, ended)
    assert cluster.is_(job) is JobState.SUCCEEDED
