"""Policy for a job of which a row was set aside: what it runs goes on, and nothing is started.

Nobody knows what its hosts should run, so none is told to run anything; a host is told to let be
what runs, and to let go of what does not. Such a host takes nothing else until it has let go. The
job never ends by itself: an operator gives it up when no host has anything of it left. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.core import events as e
from coordinator.core.errors import Conflict
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.inputs import Observation
from coordinator.core.state import ClusterState, Job
from coordinator.core.states import Progress
from coordinator.core.turn import Turn

_MOST_NAMED = 3


def is_unreadable(state: ClusterState, key: NodeKey) -> bool:
    return key.job_id in state.set_aside


def observe_unreadable(turn: Turn, host_id: HostId, seen: Observation) -> None:
    """Take in what an agent says of a node of such a job."""
    kept = turn.presence(host_id).kept
    job = turn.state.jobs[seen.key.job_id]
    turn.touch_host(host_id)
    turn.touch_job(job.job_id)
    if seen.progress is not Progress.RELEASED:
        kept[seen.key] = seen.progress
        if host_id not in job.may_be_on:
            turn.emit(e.JobFoundOnHost(job_id=job.job_id, host_id=host_id))
        return
    kept.pop(seen.key, None)
    if not any(key.job_id == job.job_id for key in kept):
        leave(turn, job, host_id, "the agent verified that nothing is left")
    turn.reschedule = True


def miss(turn: Turn, host_id: HostId, observed: Iterable[NodeKey]) -> None:
    """What a Hello does not name is not there: an agent writes a node down before it starts it."""
    there = {key.job_id for key in observed}
    for job_id in turn.state.set_aside:
        if job_id not in there:
            leave(turn, turn.state.jobs[job_id], host_id, "the agent does not know it")


def leave_all(turn: Turn, host_id: HostId, proof: str) -> None:
    """Nothing that was on the host before runs any more."""
    for job_id in turn.state.set_aside:
        leave(turn, turn.state.jobs[job_id], host_id, proof)


def leave(turn: Turn, job: Job, host_id: HostId, proof: str) -> None:
    """A host is proven free of the job; nothing happens when it never had it."""
    if host_id in job.may_be_on:
        turn.emit(e.JobLeftHost(job_id=job.job_id, host_id=host_id, proof=proof))
        turn.touch_job(job.job_id)


def must_be_gone(job: Job) -> None:
    """Conflict while a host may have something of the job: it could not be told to stop it, since
    what should be stopped is what cannot be read."""
    if job.may_be_on:
        raise Conflict(
            f"Job {job.job_id} is UNREADABLE and may still run on {names_of(job.may_be_on)}; it "
            "can be given up when nothing of it is left there: when it has ended by itself or was "
            "stopped on the host, or a host that is certainly off was fenced with: muster hosts "
            "fence HOST"
        )


def names_of(hosts: Iterable[HostId]) -> str:
    """The first of them, for people."""
    names = list(hosts)
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
