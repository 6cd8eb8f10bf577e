"""While the disk is short of room, what can wait is refused, and ends of jobs are not."""

from __future__ import annotations

import pytest

from coordinator.core import inputs as i
from coordinator.core.errors import NoRoom
from coordinator.core.states import JobState
from tests.core.harness import Cluster

SHORTAGE = "the disk of the coordinator (/data) has 3 MiB free, less than 64"
WHY = r"the disk of the coordinator \(/data\) has 3 MiB free, less than 64\. When that is put right"


def test_new_jobs_definitions_and_queues_are_refused_by_name() -> None:
    c = Cluster()
    name = c.define()
    job_id = c.submit(definition=name, token="once")
    c.do(i.RoomSeen(shortage=SHORTAGE))
    with pytest.raises(NoRoom, match=f"no new job now: {WHY}"):
        c.submit(definition=name)
    with pytest.raises(NoRoom, match=f"no new job definition now: {WHY}"):
        c.define()
    with pytest.raises(NoRoom, match=f"no new job queue now: {WHY}"):
        c.do(i.CreateQueue(name="other", priority=1))
    with pytest.raises(NoRoom, match=f"no change of a job queue now: {WHY}"):
        c.do(i.UpdateQueue(name="default", priority=2))
    # A repeat makes nothing new.
    assert c.submit(definition=name, token="once") == job_id
    c.do(i.RoomSeen(shortage=""))
    assert c.is_(c.submit(definition=name)) is JobState.RUNNABLE


def test_what_ends_a_job_is_taken() -> None:
    c = Cluster()
    c.hosts(2)
    job_id, other = c.submit(2), c.submit(2)
    c.prepared("h1", "h2")
    c.up("h1")
    c.do(i.RoomSeen(shortage=SHORTAGE))
    c.do(i.Terminate(job_id=other, node_index=None, reason="not wanted"))
    assert c.is_(other) is JobState.FAILED
    c.exited("h1", 0)
    assert c.is_(job_id) is JobState.SUCCEEDED
