"""A main that could not be started is started elsewhere, and hosts on which nothing starts are
drained."""

from __future__ import annotations

import pytest

from coordinator.core import events as e
from coordinator.core.ids import HostId, JobId
from coordinator.core.states import Desired, JobState, NodeState, Progress
from tests.core.harness import Cluster

BUSY = "CannotStartContainerError: device or resource busy"


def fails_to_start(
    cluster: Cluster, host: str, reason: str = BUSY, *, permanent: bool = False
) -> None:
    """As an agent tells it: the end first, and then that nothing is left."""
    key = cluster.key(host)
    for progress in (Progress.EXITED, Progress.RELEASED):
        cluster.says(host, progress, key, reason=reason, not_started=True, permanent=permanent)


def test_the_gang_votes_again_without_the_host_and_uses_up_no_attempt(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(2)
    main, child = cluster.start_main(job)
    fails_to_start(cluster, main)
    assert cluster.is_(job) is JobState.RUNNABLE
    assert cluster.placed(job) == ["h3", child]
    assert cluster.wants(child) is Desired.PREPARE
    cluster.prepared("h3")
    cluster.up("h3")
    cluster.up(child)
    assert cluster.is_(job) is JobState.RUNNING
    assert cluster.attempt(job).number == 1
    assert cluster.environment(child)["AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"] == "10.0.0.3"
    (gang,) = {cluster.sent[HostId(host)][0].gang for host in ("h3", child)}
    assert gang is not None
    assert gang.host_ids == ("h3", child)
    cluster.finish(job)
    cluster.replayed()


def test_nothing_happens_before_the_host_has_let_go(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(1)
    (main,) = cluster.start_main(job)
    cluster.says(main, Progress.EXITED, reason=BUSY, not_started=True)
    assert cluster.facts() == []
    assert cluster.is_(job) is JobState.STARTING
    cluster.says(main, Progress.RELEASED, reason=BUSY, not_started=True)
    assert cluster.placed(job) == ["h2"]


def test_the_host_is_left_out_for_a_while(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(1)
    fails_to_start(cluster, cluster.start_main(job)[0])
    refusal = cluster.job(job).refusals[HostId("h1")]
    assert refusal.not_started
    assert refusal.reason == BUSY


@pytest.mark.parametrize("how", ["unclean", "older agent", "stopped"])
def test_otherwise_the_attempt_has_failed(cluster: Cluster, how: str) -> None:
    cluster.hosts(2)
    job = cluster.submit(1)
    (main,) = cluster.start_main(job)
    if how == "unclean":
        cluster.says(
            main, Progress.EXITED, reason=BUSY, not_started=True, unclean_reason="pid 7 survives"
        )
    elif how == "older agent":
        cluster.says(main, Progress.EXITED, reason=BUSY)
    else:
        cluster.terminate(job)
        fails_to_start(cluster, main)
    assert cluster.is_(job) is JobState.FAILED


def test_a_child_that_cannot_be_started_has_failed(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(2)
    main, child = cluster.start_main(job)
    cluster.up(main)
    fails_to_start(cluster, child)
    assert cluster.is_(job) is JobState.RUNNING
    assert cluster.node(job, 1).state is NodeState.FAILED
    assert cluster.node(job, 1).status_reason == "Task failed to start"


def test_transient_failures_use_up_one_attempt_when_nobody_else_can_be_asked(
    cluster: Cluster,
) -> None:
    cluster.hosts(2)
    job = cluster.submit(1, attempts=2)
    fails_to_start(cluster, cluster.start_main(job)[0])
    fails_to_start(cluster, cluster.start_main(job)[0])
    assert [attempt.over for attempt in cluster.job(job).attempts] == [True]
    assert cluster.job(job).attempts[0].status_reason == "Task failed to start"
    assert cluster.job(job).attempts[0].reason == BUSY
    cluster.wait(29)
    assert len(cluster.job(job).attempts) == 1, "at most one attempt in a pause"
    cluster.wait(2)
    assert len(cluster.job(job).attempts) == 2
    fails_to_start(cluster, cluster.start_main(job)[0])
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).status_reason == "Task failed to start"


@pytest.mark.parametrize(("hosts", "enough"), [(5, 3), (2, 2)])
def test_permanent_failures_are_believed_as_in_the_vote(
    cluster: Cluster, hosts: int, enough: int
) -> None:
    cluster.hosts(hosts)
    job = cluster.submit(1)
    why = 'CannotStartContainerError: exec: "nothing": executable file not found in $PATH'
    for number in range(1, enough + 1):
        assert cluster.is_(job) is JobState.RUNNABLE
        (main,) = cluster.start_main(job)
        fails_to_start(cluster, main, why, permanent=True)
        assert cluster.is_(job).is_terminal is (number == enough)
    assert cluster.job(job).attempts[0].reason == why
    assert cluster.job(job).status_reason == "Task failed to start"


def test_a_black_hole_is_not_believed_while_the_good_host_is_busy(cluster: Cluster) -> None:
    cluster.hosts(2)
    cluster.run(cluster.submit(1, job_id="busy"))
    job = cluster.submit(1)
    for _ in range(5):
        (host,) = cluster.start_main(job)
        assert host == "h2"
        fails_to_start(cluster, host, "no such program", permanent=True)
        assert cluster.is_(job) is JobState.RUNNABLE
        cluster.wait(400)
    cluster.let_go(job)
    cluster.finish(JobId("busy"))
    cluster.run(job)
    assert cluster.attempt(job).number == 1


def test_a_gang_that_needs_every_host_is_not_kept_waiting(cluster: Cluster) -> None:
    """A mistyped command on a small cluster: its other hosts could not run the job without this."""
    cluster.hosts(3)
    job = cluster.submit(3)
    why = 'CannotStartContainerError: exec: "trian.py": executable file not found in $PATH'
    fails_to_start(cluster, cluster.start_main(job)[0], why, permanent=True)
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).status_reason == "Task failed to start"


def test_a_host_that_refused_a_vote_long_ago_can_be_asked(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.refused("h1", "no space left")
    cluster.released("h1")
    cluster.hosts(1)
    (main,) = cluster.start_main(job)
    assert main == "h2"
    cluster.wait(7_200)
    fails_to_start(cluster, main)
    assert cluster.placed(job) == ["h1"]


def test_no_free_host_means_waiting_and_not_a_failure(cluster: Cluster) -> None:
    cluster.hosts(2)
    other = cluster.submit(1)
    cluster.run(other)
    job = cluster.submit(1)
    fails_to_start(cluster, cluster.start_main(job)[0])
    assert cluster.is_(job) is JobState.RUNNABLE
    assert cluster.job(job).attempts == []
    cluster.finish(other)
    assert cluster.placed(job) == ["h1"]


# the host


def jobs_that_start_elsewhere(cluster: Cluster, count: int) -> list[JobId]:
    jobs = []
    for _ in range(count):
        jobs.append(cluster.submit(1))
        fails_to_start(cluster, cluster.start_main(jobs[-1])[0])
        cluster.run(jobs[-1])
        cluster.finish(jobs[-1])
    return jobs


def test_a_host_is_drained_with_the_evidence(cluster: Cluster) -> None:
    cluster.hosts(2)
    assert jobs_that_start_elsewhere(cluster, 2)
    assert cluster.all_facts(e.HostDrained) == []
    jobs_that_start_elsewhere(cluster, 1)
    (drained,) = cluster.all_facts(e.HostDrained)
    assert drained.host_id == "h1"
    assert drained.reason.endswith(f"could not be started here and then ran on other hosts: {BUSY}")


def test_jobs_that_start_nowhere_are_no_evidence(cluster: Cluster) -> None:
    cluster.hosts(2)
    for _ in range(5):
        job = cluster.submit(1)
        fails_to_start(cluster, cluster.start_main(job)[0])
        fails_to_start(cluster, cluster.start_main(job)[0])
        assert cluster.is_(job) is JobState.FAILED
    assert cluster.all_facts(e.HostDrained) == []


def test_a_job_that_starts_there_clears_the_host(cluster: Cluster) -> None:
    cluster.hosts(2)
    jobs_that_start_elsewhere(cluster, 2)
    good = cluster.submit(1)
    cluster.run(good)
    cluster.finish(good)
    jobs_that_start_elsewhere(cluster, 2)
    assert cluster.all_facts(e.HostDrained) == []


def test_a_child_whose_host_rebooted_meanwhile_votes_anew(cluster: Cluster) -> None:
    """Its host has let go of it, and nobody may count that a second time."""
    cluster.hosts(4)
    job = cluster.submit(3)
    main, child, other = cluster.start_main(job)
    cluster.hello(child, boot_id="boot-2", incarnation=2)
    fails_to_start(cluster, main)
    assert sorted(cluster.placed(job)) == [child, other, "h4"]
    assert not any(node.released for node in cluster.attempt(job).nodes.values())
    assert cluster.wants(child) is Desired.PREPARE
    cluster.terminate(job)
    cluster.replayed()


def test_a_child_whose_host_is_lost_meanwhile_is_replaced(cluster: Cluster) -> None:
    cluster.hosts(4)
    job = cluster.submit(2)
    main, child = cluster.start_main(job)
    cluster.wait(40, silent=(child,))
    fails_to_start(cluster, main)
    assert sorted(cluster.placed(job)) == ["h3", "h4"]
