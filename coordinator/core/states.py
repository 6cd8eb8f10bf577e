"""The states of jobs and nodes, and every way between them, as data.

`evolve.py` moves a job or a node only along these tables; docs/states.md is generated from them.
Times are milliseconds since 1970. No I/O.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class JobState(StrEnum):
    """AWS Batch's job statuses (aws-batch-spec section 7)."""

    SUBMITTED = "SUBMITTED"
    PENDING = "PENDING"
    RUNNABLE = "RUNNABLE"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED)


class NodeState(StrEnum):
    """One node of one attempt. PREPARING and PREPARED are the vote, before anybody starts."""

    PREPARING = "PREPARING"
    PREPARED = "PREPARED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        return self in (NodeState.SUCCEEDED, NodeState.FAILED)

    @property
    def is_launched(self) -> bool:
        """A record of the node exists for users from here on (aws-batch-spec section 7.3)."""
        return self not in (NodeState.PREPARING, NodeState.PREPARED)


class Progress(IntEnum):
    """How far an agent says a node has come. The number is its rank: it only grows."""

    ASSIGNED = 10
    PREPARED = 20
    REFUSED = 30
    LAUNCHING = 40
    UP = 50
    EXITED = 60
    RELEASED = 70

    @property
    def may_run(self) -> bool:
        """Whether something of the node runs, or is about to."""
        return self in (Progress.LAUNCHING, Progress.UP)


class Desired(StrEnum):
    """What a host should do about a node. It only moves forward."""

    PREPARE = "PREPARE"
    RUN = "RUN"
    STOP = "STOP"


JOB_TRANSITIONS: dict[tuple[JobState | None, str], JobState] = {
    (None, "JobSubmitted"): JobState.SUBMITTED,
    (None, "JobSetAside"): JobState.SUBMITTED,
    (JobState.SUBMITTED, "JobPended"): JobState.PENDING,
    (JobState.SUBMITTED, "JobQueued"): JobState.RUNNABLE,
    (JobState.PENDING, "JobQueued"): JobState.RUNNABLE,
    (JobState.RUNNABLE, "AttemptStarted"): JobState.STARTING,
    (JobState.STARTING, "MainNotStarted"): JobState.RUNNABLE,
    (JobState.STARTING, "MainRunning"): JobState.RUNNING,
    (JobState.STARTING, "JobRetried"): JobState.RUNNABLE,
    (JobState.RUNNING, "JobRetried"): JobState.RUNNABLE,
    (JobState.RUNNING, "JobSucceeded"): JobState.SUCCEEDED,
    (JobState.SUBMITTED, "JobFailed"): JobState.FAILED,
    (JobState.PENDING, "JobFailed"): JobState.FAILED,
    (JobState.RUNNABLE, "JobFailed"): JobState.FAILED,
    (JobState.STARTING, "JobFailed"): JobState.FAILED,
    (JobState.RUNNING, "JobFailed"): JobState.FAILED,
}
"""(state before, event) -> state after. `MainRunning` is NodeRunning of the main node."""

NODE_TRANSITIONS: dict[tuple[NodeState | None, str], tuple[NodeState, ...]] = {
    (None, "NodeReserved"): (NodeState.PREPARING,),
    (NodeState.PREPARING, "NodePrepared"): (NodeState.PREPARED,),
    (NodeState.PREPARED, "NodeLaunched"): (NodeState.STARTING,),
    (NodeState.STARTING, "NodeRunning"): (NodeState.RUNNING,),
    (NodeState.STARTING, "NodeExited"): (NodeState.FAILED,),
    (NodeState.RUNNING, "NodeExited"): (NodeState.SUCCEEDED, NodeState.FAILED),
    (NodeState.STARTING, "NodeLost"): (NodeState.FAILED,),
    (NodeState.RUNNING, "NodeLost"): (NodeState.FAILED,),
}
"""(state before, fact) -> possible states after. `NodeReserved` stands for GangReserved and
NodeReplaced, `NodeLaunched` for AttemptStarted (main) and ChildrenLaunched. A node that has not
been launched leaves by NodeRefused or GangAbandoned, which take it away; a main that could not be
started leaves by MainNotStarted."""
