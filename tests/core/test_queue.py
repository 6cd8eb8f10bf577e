"""Job queues: made, disabled, deleted (aws-batch-spec section 13)."""

from __future__ import annotations

import pytest

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.errors import AlreadyExists, Conflict, InvalidArgument, NotFound
from coordinator.core.states import JobState
from tests.core.harness import Cluster


def test_a_queue_is_deleted_only_when_disabled_and_ends_its_jobs(cluster: Cluster) -> None:
    cluster.hosts(2)
    cluster.queue("q")
    running, waiting = cluster.submit(2, queue="q", attempts=3), cluster.submit(2, queue="q")
    cluster.run(running)
    with pytest.raises(Conflict, match="update it to DISABLED"):
        cluster.do(i.DeleteQueue(name="q"))
    cluster.do(i.UpdateQueue(name="q", enabled=False))
    cluster.do(i.DeleteQueue(name="q"))
    cluster.do(i.DeleteQueue(name="q"))
    assert cluster.is_(waiting) is JobState.FAILED
    assert cluster.job(waiting).status_reason == "JobQueue deleted"
    assert "q" in cluster.state.queues
    cluster.finish(running, 1)
    assert cluster.is_(running) is JobState.FAILED
    assert "q" not in cluster.state.queues
    cluster.queue("q")


def test_a_main_that_fails_by_itself_is_not_retried_in_a_queue_that_goes(
    cluster: Cluster,
) -> None:
    cluster.hosts(1)
    cluster.queue("q")
    job = cluster.submit(1, queue="q", attempts=3)
    cluster.run(job)
    cluster.do(i.UpdateQueue(name="q", enabled=False))
    cluster.do(i.DeleteQueue(name="q"))
    cluster.finish(job, 1)
    assert cluster.is_(job) is JobState.FAILED


def test_an_empty_queue_goes_at_once_and_only_once(cluster: Cluster) -> None:
    cluster.queue("q", enabled=False)
    cluster.do(i.DeleteQueue(name="q"))
    assert cluster.facts() == ["QueueDeleting", "QueueDeleted"]
    with pytest.raises(NotFound):
        cluster.do(i.DeleteQueue(name="q"))


def test_a_queue_is_made_once(cluster: Cluster) -> None:
    cluster.queue("q")
    with pytest.raises(AlreadyExists, match="JobQueue q already exists"):
        cluster.queue("q")


def test_a_disabled_queue_goes_on_running_what_it_has(cluster: Cluster) -> None:
    job = cluster.submit(1)
    cluster.do(i.UpdateQueue(name="default", enabled=False))
    cluster.hosts(1)
    assert cluster.placed(job) == ["h1"]


@pytest.mark.parametrize(
    ("member", "value", "text"),
    [
        ("reason", "BOREDOM", "must be one of"),
        ("state", "RUNNING", "must be RUNNABLE"),
        ("max_time_seconds", 599, "600 to 86400"),
        ("max_time_seconds", 86_401, "600 to 86400"),
        ("action", "TERMINATE", "must be CANCEL"),
    ],
)
def test_a_time_limit_out_of_the_rules(
    cluster: Cluster, member: str, value: object, text: str
) -> None:
    limit = {
        "reason": "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY",
        "state": "RUNNABLE",
        "max_time_seconds": 600,
        "action": "CANCEL",
        member: value,
    }
    limits = (e.TimeLimitAction(**limit),)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=text):
        cluster.queue("q", time_limits=limits)
    with pytest.raises(InvalidArgument, match=text):
        cluster.do(i.UpdateQueue(name="default", time_limits=limits))
