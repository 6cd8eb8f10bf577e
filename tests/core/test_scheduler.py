"""Who is next: queues by priority, jobs in order, gangs all or none (aws-batch-spec section 13)."""

from __future__ import annotations

import pytest

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.explain import waiting_code
from coordinator.core.ids import JobId, NodeKey
from coordinator.core.states import JobState, Progress
from tests.core.harness import Cluster, container, ranges

CAPACITY = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY"
REQUIREMENT = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT"


def placed(cluster: Cluster, *jobs: JobId) -> list[bool]:
    return [bool(cluster.job(job).attempts) for job in jobs]


def test_a_gang_waits_until_there_is_a_host_for_every_node(cluster: Cluster) -> None:
    job = cluster.submit(3)
    cluster.hosts(2)
    assert placed(cluster, job) == [False]
    cluster.hosts(1)
    assert cluster.placed(job) == ["h1", "h2", "h3"]


def test_two_gangs_never_hold_a_part_each(cluster: Cluster) -> None:
    first, second = cluster.submit(2), cluster.submit(2)
    cluster.hosts(3)
    assert placed(cluster, first, second) == [True, False]
    cluster.hosts(1)
    assert cluster.placed(second) == ["h3", "h4"]


def test_a_host_takes_one_node(cluster: Cluster) -> None:
    cluster.hosts(1, vcpus=64)
    first, second = cluster.submit(1), cluster.submit(1)
    assert placed(cluster, first, second) == [True, False]


def test_jobs_start_in_the_order_of_their_submission(cluster: Cluster) -> None:
    jobs = [cluster.submit(1) for _ in range(4)]
    for number, job in enumerate(jobs):
        cluster.hosts(1)
        assert cluster.placed(job) == [f"h{number + 1}"]


def test_the_head_of_a_queue_holds_up_the_jobs_behind_it(cluster: Cluster) -> None:
    cluster.hosts(3)
    cluster.run(cluster.submit(1))
    big, small = cluster.submit(3), cluster.submit(1)
    assert placed(cluster, big, small) == [False, False]


@pytest.mark.parametrize("end", ["cancel", "terminate"])
def test_the_line_moves_up_when_its_head_ends(cluster: Cluster, end: str) -> None:
    cluster.hosts(2)
    big, small = cluster.submit(3), cluster.submit(1)
    getattr(cluster, end)(big)
    assert placed(cluster, small) == [True]


def test_the_line_moves_up_when_its_head_fails_with_a_dependency(cluster: Cluster) -> None:
    cluster.hosts(2)
    cluster.queue("other", priority=9)
    cluster.run(cluster.submit(1, queue="other"))
    blocker = cluster.submit(2, queue="other")
    big, small = cluster.submit(2), cluster.submit(1)
    cluster.terminate(blocker)
    assert placed(cluster, big, small) == [False, False]
    cluster.cancel(big)
    assert placed(cluster, small) == [True]


def test_higher_priority_goes_first_and_a_stuck_queue_holds_up_no_other(cluster: Cluster) -> None:
    cluster.queue("low", priority=0)
    cluster.queue("high", priority=9)
    cluster.queue("stuck", priority=20)
    low = cluster.submit(1, queue="low")
    middle = cluster.submit(1)
    high = cluster.submit(1, queue="high")
    stuck = cluster.submit(9, queue="stuck")
    cluster.hosts(1)
    assert placed(cluster, low, middle, high, stuck) == [False, False, True, False]
    cluster.hosts(1)
    assert placed(cluster, low, middle) == [False, True]
    cluster.do(i.UpdateQueue(name="low", priority=99))
    later = cluster.submit(1, queue="high")
    cluster.hosts(1)
    assert placed(cluster, low, later) == [True, False]


def test_a_waiting_gang_keeps_free_hosts_from_lower_queues(cluster: Cluster) -> None:
    """Else a stream of small jobs of low priority would keep it waiting for ever."""
    cluster.queue("low", priority=0)
    cluster.queue("high", priority=9)
    cluster.hosts(2)
    first = cluster.submit(1, queue="low")
    cluster.run(first)
    gang = cluster.submit(2, queue="high")
    second = cluster.submit(1, queue="low")
    assert placed(cluster, gang, second) == [False, False]
    cluster.finish(first)
    assert placed(cluster, gang, second) == [True, False]


def test_a_gang_that_the_hosts_could_not_run_keeps_nothing(cluster: Cluster) -> None:
    cluster.queue("low", priority=0)
    cluster.queue("high", priority=9)
    cluster.hosts(2)
    gang = cluster.submit(3, queue="high")
    low = cluster.submit(1, queue="low")
    assert placed(cluster, gang, low) == [False, True]


def test_a_job_that_hosts_refused_holds_up_nobody_in_its_queue(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.refused("h1", "CannotPullContainerError: connection refused")
    other = cluster.submit(1)
    cluster.released("h1")
    assert placed(cluster, job, other) == [False, True]


def test_a_retry_keeps_its_place_in_line(cluster: Cluster) -> None:
    cluster.hosts(1)
    first = cluster.submit(1, attempts=2)
    second = cluster.submit(1)
    cluster.run(first)
    cluster.finish(first, 1)
    assert cluster.attempt(first).number == 2
    assert placed(cluster, second) == [False]


def test_a_job_that_waits_for_its_own_old_attempt_holds_up_nobody(cluster: Cluster) -> None:
    cluster.hosts(2)
    first = cluster.submit(1, attempts=2)
    cluster.run(first)
    second = cluster.submit(2)
    third = cluster.submit(1)
    cluster.exited("h1", 1)
    assert cluster.is_(first) is JobState.RUNNABLE
    assert placed(cluster, second, third) == [False, False]
    cluster.cancel(second)
    assert cluster.placed(third) == ["h2"]


def test_a_refusing_host_is_left_to_others(cluster: Cluster) -> None:
    cluster.queue("other", priority=0)
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.refused("h1")
    other = cluster.submit(1, queue="other")
    cluster.released("h1")
    assert cluster.placed(other) == ["h1"]
    assert placed(cluster, job) == [False]


def test_a_gang_is_on_one_instance_type(cluster: Cluster) -> None:
    cluster.hosts(2, instance_type="small")
    cluster.hosts(2, instance_type="large")
    job = cluster.submit(3)
    assert placed(cluster, job) == [False]
    cluster.hosts(1, instance_type="large")
    assert cluster.placed(job) == ["h3", "h4", "h5"]


def test_a_replacement_is_of_the_gangs_type(cluster: Cluster) -> None:
    cluster.hosts(2, instance_type="small")
    cluster.hosts(1, instance_type="large")
    job = cluster.submit(2)
    cluster.refused("h2")
    assert placed(cluster, job) == [False]
    cluster.released("h2")
    cluster.says("h1", Progress.RELEASED)
    cluster.hosts(1, instance_type="large")
    assert cluster.placed(job) == ["h3", "h4"]


def test_the_type_that_a_job_asks_for(cluster: Cluster) -> None:
    cluster.hosts(1, instance_type="small")
    job = cluster.submit(1, groups=ranges(n0_=container(instance_type="large")))
    assert placed(cluster, job) == [False]
    cluster.hosts(1, instance_type="large")
    assert cluster.placed(job) == ["h2"]


# jobStateTimeLimitActions


def limited(cluster: Cluster, reason: str = CAPACITY, seconds: int = 600) -> None:
    limit = e.TimeLimitAction(
        reason=reason, state="RUNNABLE", max_time_seconds=seconds, action="CANCEL"
    )
    cluster.do(i.UpdateQueue(name="default", time_limits=(limit,)))


def test_a_head_that_is_stuck_too_long_is_cancelled(cluster: Cluster) -> None:
    limited(cluster)
    cluster.hosts(1)
    big, dependent = cluster.submit(2), cluster.submit(1)
    follower = cluster.submit(1, after=(big,))
    cluster.wait(599)
    assert cluster.is_(big) is JobState.RUNNABLE
    cluster.wait(1)
    assert cluster.is_(big) is JobState.FAILED
    expected = f"Canceled by JobStateTimeLimit action due to reason: {CAPACITY}"
    assert cluster.job(big).status_reason == expected
    assert cluster.job(big).cancelled
    assert cluster.is_(follower) is JobState.FAILED
    assert placed(cluster, dependent) == [True]


def test_only_the_head_has_a_limit_and_its_time_begins_as_head(cluster: Cluster) -> None:
    limited(cluster)
    cluster.hosts(2)
    cluster.run(cluster.submit(1))
    first, second = cluster.submit(2), cluster.submit(2)
    cluster.wait(601)
    assert [cluster.is_(first), cluster.is_(second)] == [JobState.FAILED, JobState.RUNNABLE]
    cluster.wait(598)
    assert cluster.is_(second) is JobState.RUNNABLE
    cluster.wait(3)
    assert cluster.is_(second) is JobState.FAILED


def test_a_limit_is_for_its_reason_alone(cluster: Cluster) -> None:
    limited(cluster, REQUIREMENT)
    cluster.hosts(1)
    big = cluster.submit(2)
    cluster.wait(700)
    assert cluster.is_(big) is JobState.RUNNABLE
    cluster.cancel(big)
    heavy = cluster.submit(1, groups=ranges(n0_=container(vcpus=999)))
    cluster.wait(601)
    assert cluster.is_(heavy) is JobState.FAILED
    assert cluster.job(heavy).status_reason.endswith(REQUIREMENT)


def test_another_reason_begins_the_time_anew(cluster: Cluster) -> None:
    limited(cluster)
    cluster.hosts(1, vcpus=1)
    job = cluster.submit(2, groups=ranges(n0_=container(vcpus=2)))
    cluster.wait(500)
    cluster.hosts(1, vcpus=8)
    cluster.wait(500)
    assert cluster.is_(job) is JobState.RUNNABLE
    cluster.wait(101)
    assert cluster.is_(job) is JobState.FAILED


# jobs that no capacity would help


def test_a_job_that_the_hosts_could_never_run_holds_up_nobody(cluster: Cluster) -> None:
    cluster.hosts(4)
    huge, small = cluster.submit(6), cluster.submit(4)
    assert placed(cluster, huge, small) == [False, True]
    cluster.hosts(2)
    cluster.run(small)
    cluster.finish(small)
    assert placed(cluster, huge) == [True], "it has kept its place"


def test_hosts_that_are_briefly_away_are_waited_for(cluster: Cluster) -> None:
    cluster.hosts(2)
    cluster.wait(40, silent=("h1",))
    big, small = cluster.submit(2), cluster.submit(1)
    assert placed(cluster, big, small) == [False, False]
    cluster.wait(200, silent=("h1",))
    assert placed(cluster, big, small) == [False, False]
    cluster.wait(61, silent=("h1",))
    assert placed(cluster, big, small) == [False, True], "the verdict on h1 is over"


def test_an_engine_that_is_away_for_longer_than_the_verdict_is_not_waited_for(
    cluster: Cluster,
) -> None:
    cluster.hosts(2)
    cluster.hello("h1", unusable_reason="docker does not answer")
    big, small = cluster.submit(2), cluster.submit(1)
    cluster.wait(299)
    assert placed(cluster, big, small) == [False, False]
    cluster.wait(2)
    assert placed(cluster, big, small) == [False, True]


def test_a_host_that_an_operator_drains_is_not_waited_for(cluster: Cluster) -> None:
    cluster.hosts(3)
    cluster.run(cluster.submit(1))
    big, small = cluster.submit(3), cluster.submit(1)
    assert placed(cluster, big, small) == [False, False]
    cluster.drain("h3", "for a week")
    assert placed(cluster, big, small) == [False, True]


def test_a_job_that_all_refuse_holds_up_nobody_and_one_that_waits_for_the_busy_does(
    cluster: Cluster,
) -> None:
    cluster.hosts(2)
    refused = cluster.submit(2)
    keys = [cluster.node_key(refused, index) for index in range(2)]
    cluster.refused("h1", "policy forbids the image")
    for host, key in zip(("h1", "h2"), keys, strict=True):
        cluster.says(host, Progress.RELEASED, key)
    other = cluster.submit(1)
    assert placed(cluster, refused, other) == [False, True]
    later = cluster.submit(2)
    last = cluster.submit(1)
    assert placed(cluster, later, last) == [False, False], "busy hosts are waited for"


def test_each_job_that_is_passed_over_is_looked_at_again_in_its_time(cluster: Cluster) -> None:
    """An earlier job's timer must not be the only one."""
    cluster.hosts(2)
    first = cluster.submit(1)
    cluster.refused("h1")
    cluster.refused("h2")
    cluster.released("h1", "h2")
    cluster.wait(10)
    second = cluster.submit(1)
    cluster.refused("h1")
    cluster.refused("h2")
    cluster.says("h1", Progress.RELEASED, NodeKey(second, 1, 0))
    cluster.says("h2", Progress.RELEASED, NodeKey(second, 1, 0))
    cluster.wait(25)
    assert placed(cluster, first, second) == [True, False]
    cluster.wait(10)
    assert placed(cluster, first, second) == [True, True]


def test_a_time_limit_counts_beside_another_jobs_pause(cluster: Cluster) -> None:
    limited(cluster)
    cluster.hosts(1)
    refused = cluster.submit(1)
    cluster.refused("h1")
    cluster.released("h1")
    huge = cluster.submit(6)
    cluster.wait(599)
    assert cluster.is_(huge) is JobState.RUNNABLE
    cluster.wait(2)
    assert cluster.is_(huge) is JobState.FAILED
    assert cluster.is_(refused) is JobState.RUNNABLE


def test_an_engine_that_is_away_is_not_waited_for_beside_another_jobs_pause(
    cluster: Cluster,
) -> None:
    cluster.hosts(3)
    refused = cluster.submit(1)
    cluster.refused("h1")
    cluster.released("h1")
    cluster.run(refused)
    cluster.finish(refused)
    cluster.hello("h3", unusable_reason="docker does not answer")
    big, small = cluster.submit(3), cluster.submit(1)
    cluster.wait(301)
    assert placed(cluster, big, small) == [False, True]


def test_time_limits_act_on_jobs_that_are_passed_over(cluster: Cluster) -> None:
    limited(cluster)
    cluster.hosts(1)
    huge = cluster.submit(2)
    assert cluster.job(huge).blocked is not None
    running = cluster.submit(1)
    cluster.run(running)
    cluster.wait(601)
    assert cluster.is_(huge) is JobState.FAILED


def test_the_code_is_judged_over_hosts_that_were_seen_in_the_last_day(cluster: Cluster) -> None:
    cluster.hosts(1, vcpus=64)
    cluster.hosts(1, vcpus=4)
    job = cluster.submit(1, groups=ranges(n0_=container(vcpus=32)))
    cluster.cancel(job)
    cluster.released("h1")
    cluster.hang_up("h1")
    job = cluster.submit(1, groups=ranges(n0_=container(vcpus=32)))
    assert waiting_code(cluster.state, cluster.job(job)) == CAPACITY
    cluster.now += 86_400_000
    cluster.wait(1)
    assert waiting_code(cluster.state, cluster.job(job)) == REQUIREMENT
