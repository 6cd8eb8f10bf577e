"""Nodes that run although this journal does not place them there: an older journal was accepted,
and does not know the attempt that its hosts run.

Such a node is stopped, which takes its grace; until its host has let go of it, nothing else of its
job is started. No I/O.
"""

from __future__ import annotations

from coordinator.core.capacity import wake
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.inputs import Observation
from coordinator.core.state import ClusterState
from coordinator.core.states import Progress
from coordinator.core.turn import Turn


def note(state: ClusterState, host_id: HostId, seen: Observation) -> None:
    """A host has something that nothing places there. Of what this journal knows, what is not up
    is no attempt that may be doubled: its release was proven before."""
    job = state.jobs.get(seen.key.job_id)
    if job is None:
        return
    is_unknown = job.node(seen.key) is None
    if seen.progress.may_run or (is_unknown and seen.progress is Progress.EXITED):
        state.astray.setdefault(job.job_id, {})[host_id, seen.key] = None


def let_go(turn: Turn, host_id: HostId, key: NodeKey | None = None) -> None:
    """Nothing of that node, or nothing at all, runs astray on the host any more."""
    for job_id, found in list(turn.state.astray.items()):
        for each in list(found):
            if each[0] == host_id and key in (None, each[1]):
                del found[each]
                turn.reschedule = True
        if not found:
            del turn.state.astray[job_id]
            wake(turn.state, job_id)


def on_host(state: ClusterState, host_id: HostId) -> list[NodeKey]:
    """What runs astray on that host."""
    return [key for found in state.astray.values() for host, key in found if host == host_id]
