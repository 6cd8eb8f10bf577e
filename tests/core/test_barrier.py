"""The start barrier: children's commands wait in their containers until every node runs."""

from __future__ import annotations

import pytest

from coordinator.core.definition import StartBarrier
from coordinator.core.errors import InvalidArgument
from coordinator.core.ids import HostId, JobId
from coordinator.core.inputs import FenceHost, Observation
from coordinator.core.state import Gang
from coordinator.core.states import Desired, JobState, Progress
from tests.core.harness import Cluster, container, ranges


def main_runs(cluster: Cluster, nodes: int = 3, **members: object) -> tuple[JobId, list[HostId]]:
    """A gang with a barrier of 60 s whose main runs and whose children are being started."""
    cluster.hosts(nodes)
    job = cluster.submit(nodes, barrier=60, **members)  # type: ignore[arg-type]
    hosts = cluster.start_main(job)
    cluster.up(hosts[0])
    return job, hosts


def test_children_wait_until_every_node_runs(cluster: Cluster) -> None:
    job, (main, one, two) = main_runs(cluster)
    assert not cluster.holds(main)
    assert cluster.holds(one)
    assert cluster.holds(two)
    cluster.up(one)
    assert cluster.holds(one)
    cluster.up(two)
    assert "BarrierLifted" in cluster.facts()
    assert not cluster.holds(one)
    assert not cluster.holds(two)
    cluster.finish(job)
    assert cluster.is_(job) is JobState.SUCCEEDED


def test_without_a_barrier_nobody_waits(cluster: Cluster) -> None:
    cluster.hosts(2)
    hosts = cluster.run(cluster.submit(2))
    assert not any(cluster.holds(host) for host in hosts)


def test_a_definition_has_a_barrier_and_a_submission_another(cluster: Cluster) -> None:
    name = cluster.define(start_barrier=StartBarrier(timeout_seconds=5))
    assert cluster.job(cluster.submit(definition=name)).spec.start_barrier_seconds == 5
    assert cluster.job(cluster.submit(definition=name, barrier=7)).spec.start_barrier_seconds == 7


@pytest.mark.parametrize("seconds", [0, -1, 86_401])
def test_a_barrier_has_a_sensible_limit(cluster: Cluster, seconds: int) -> None:
    with pytest.raises(InvalidArgument, match=rf"^startBarrier.timeoutSeconds is {seconds}; "):
        cluster.submit(barrier=seconds)


def test_when_time_is_up_the_missing_are_named(cluster: Cluster) -> None:
    job, hosts = main_runs(cluster)
    cluster.up(hosts[1])
    cluster.wait(59)
    assert cluster.attempt(job).stop_cause is None
    cluster.wait(2)
    assert [cluster.wants(host) for host in hosts] == [Desired.STOP] * 3
    cluster.finish(job, exit_code=143)
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).status_reason == (
        f"Start barrier: not RUNNING within 60 s: node 2 on host {hosts[2]} (STARTING)"
    )


def test_a_node_that_cannot_come_any_more_ends_the_wait_at_once(cluster: Cluster) -> None:
    job, hosts = main_runs(cluster)
    cluster.exited(hosts[1], None, "CannotStartContainerError: no such device", was_up=False)
    assert cluster.attempt(job).stop_cause == (
        f"Start barrier: cannot be reached any more: node 1 on host {hosts[1]} "
        "(FAILED: CannotStartContainerError: no such device)"
    )


def test_a_lost_child_ends_the_wait(cluster: Cluster) -> None:
    job, hosts = main_runs(cluster)
    cluster.wait(59, silent=(hosts[2],))
    assert cluster.attempt(job).stop_cause is None, "it may come back"
    cluster.do(FenceHost(host_id=hosts[2]))
    cause = cluster.attempt(job).stop_cause or ""
    assert cause.startswith(f"Start barrier: cannot be reached any more: node 2 on host {hosts[2]}")


def test_a_node_that_ran_has_come(cluster: Cluster) -> None:
    """It may be gone by the time that the last one comes; a child's end never matters."""
    job, hosts = main_runs(cluster)
    cluster.up(hosts[1])
    cluster.exited(hosts[1], 137)
    assert cluster.attempt(job).stop_cause is None
    cluster.up(hosts[2])
    assert not cluster.holds(hosts[2])
    cluster.finish(job)
    assert cluster.is_(job) is JobState.SUCCEEDED


def test_the_attempt_may_be_tried_again(cluster: Cluster) -> None:
    job, hosts = main_runs(cluster, attempts=2)
    cluster.wait(61)
    cluster.exited(hosts[0], 143)
    cluster.let_go(job)
    assert len(cluster.job(job).attempts) == 2
    hosts = cluster.run(job)
    assert not any(cluster.holds(host) for host in hosts)
    cluster.finish(job)
    assert cluster.is_(job) is JobState.SUCCEEDED


def test_main_may_end_before_the_barrier_is_lifted(cluster: Cluster) -> None:
    job, _ = main_runs(cluster)
    cluster.finish(job)
    assert cluster.is_(job) is JobState.SUCCEEDED


def test_a_restart_does_not_stretch_the_wait(cluster: Cluster) -> None:
    job, hosts = main_runs(cluster)
    cluster.wait(40)
    cluster.restart()
    main, *children = hosts
    cluster.hello(
        main,
        Observation(key=cluster.node_key(job, 0), progress=Progress.UP, was_up=True, ran_ms=40_000),
    )
    for index, child in enumerate(children, 1):
        key = cluster.node_key(job, index)
        cluster.hello(child, Observation(key=key, progress=Progress.LAUNCHING))
    assert cluster.holds(hosts[1])
    cluster.wait(21)
    assert cluster.attempt(job).stop_cause is not None


def test_every_node_is_told_of_all_once_all_have_voted(cluster: Cluster) -> None:
    cluster.hosts(2, gpus=4)
    groups = ranges(n0=container(vcpus=3), n1=container(vcpus=2, gpus=4))
    job = cluster.submit(2, groups=groups)
    main, child = cluster.placed(job)
    (before,) = cluster.sent[main]
    assert before.gang is None
    cluster.says(main, Progress.PREPARED, private_ipv4="10.9.0.1")
    cluster.says(child, Progress.PREPARED)
    (assignment,) = cluster.sent[main]
    # A host that promises no address means its own; processes are GPUs where there are any.
    own = cluster.state.hosts[child].facts.private_ipv4
    assert assignment.gang == Gang(
        main_node=0, addresses=("10.9.0.1", own), host_ids=(main, child), slots=(3, 4)
    )
