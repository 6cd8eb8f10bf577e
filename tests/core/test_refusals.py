"""Hosts that vote no: who is asked again, and when a job is believed to be wrong everywhere."""

from __future__ import annotations

from coordinator.core.states import JobState, Progress
from tests.core.harness import Cluster


def test_a_transient_refusal_never_fails_a_job(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    for _ in range(10):
        cluster.refused("h1")
        cluster.released("h1")
        cluster.wait(400)
    assert cluster.is_(job) is JobState.RUNNABLE


def test_so_many_permanent_refusals_fail_the_attempt(cluster: Cluster) -> None:
    cluster.hosts(5)
    job = cluster.submit(1, attempts=1)
    for number in range(1, 4):
        assert cluster.is_(job) is JobState.RUNNABLE
        cluster.refused(f"h{number}", "CannotPullContainerError: no such image", permanent=True)
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).status_reason == "Task failed to start"
    assert cluster.job(job).attempts[0].reason == "CannotPullContainerError: no such image"


def test_one_permanent_refusal_is_believed_when_nobody_else_could_take_the_node(
    cluster: Cluster,
) -> None:
    cluster.hosts(1)
    cluster.hosts(3, vcpus=1, memory_mib=16)
    job = cluster.submit(1)
    cluster.refused("h1", "no such image", permanent=True)
    assert cluster.is_(job) is JobState.FAILED


def test_permanent_refusals_of_the_only_host_for_a_node_are_believed(cluster: Cluster) -> None:
    """The other host of a gang votes yes for its own node, and says nothing about this one."""
    cluster.hosts(2)
    job = cluster.submit(2)
    for _ in range(cluster.settings.permanent_refusals_to_fail):
        good, bad = cluster.placed(job)
        keys = cluster.node_key(job, 0), cluster.node_key(job, 1)
        cluster.prepared(good)
        cluster.refused(bad, "CannotPullContainerError: no such image", permanent=True)
        cluster.says(good, Progress.RELEASED, keys[0])
        cluster.says(bad, Progress.RELEASED, keys[1])
        cluster.wait(400)
    assert cluster.is_(job) is JobState.FAILED


def test_one_host_that_refuses_for_good_fails_no_job_that_another_could_run(
    cluster: Cluster,
) -> None:
    cluster.hosts(2)
    other = cluster.submit(1)
    cluster.run(other)
    job = cluster.submit(1)
    for _ in range(5):
        cluster.refused("h2", "CannotPullContainerError: no such image", permanent=True)
        cluster.released("h2")
        cluster.wait(400)
    assert cluster.is_(job) is JobState.RUNNABLE
    cluster.says("h2", Progress.RELEASED, cluster.node_key(job, 0))
    cluster.finish(other)
    cluster.wait(1)
    cluster.run(job)


def test_a_refused_attempt_is_retried_while_attempts_are_left(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, attempts=2)
    cluster.refused("h1", "no such image", permanent=True)
    assert cluster.is_(job) is JobState.RUNNABLE
    cluster.released("h1")
    cluster.wait(40)
    assert cluster.attempt(job).number == 2
    cluster.refused("h1", "no such image", permanent=True)
    assert cluster.is_(job) is JobState.FAILED
    assert len(cluster.job(job).attempts) == 2
