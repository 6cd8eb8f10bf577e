"""Policy for the hosts of a gang that does not run yet: reserve, hand back, replace.

A host that is handed back may still be preparing, so it counts as a stray of that host until its
agent says that it has let go: a host never gets a second assignment before. No I/O.
"""

from __future__ import annotations

from coordinator.core import events as e
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.state import Attempt, Job, NodeRun
from coordinator.core.states import NodeState
from coordinator.core.turn import Turn


def reserve(turn: Turn, job: Job, placements: tuple[e.Placement, ...]) -> None:
    """Take a host for every node and ask each for its vote."""
    turn.emit(
        e.GangReserved(job_id=job.job_id, attempt=len(job.attempts) + 1, placements=placements)
    )
    turn.touch_gang(job)
    _arm_vote(turn, job)


def replace(turn: Turn, job: Job, placements: tuple[e.Placement, ...]) -> None:
    """Give the nodes whose hosts refused another host each."""
    attempt = job.attempts[-1]
    for placement in placements:
        turn.emit(
            e.NodeReplaced(
                job_id=job.job_id,
                attempt=attempt.number,
                node_index=placement.node_index,
                host_id=placement.host_id,
            )
        )
        turn.touch_host(placement.host_id)
        turn.touch_job(job.job_id, placement.node_index)
    _arm_vote(turn, job)


def _arm_vote(turn: Turn, job: Job) -> None:
    turn.timers.arm("job", job.job_id, turn.now + turn.settings.vote_timeout_ms)


def refuse(turn: Turn, job: Job, node: NodeRun, reason: str, *, permanent: bool = False) -> None:
    """A host voted no, or did not answer: hand it back and leave it out for a while."""
    attempt = job.attempts[-1]
    before = job.refusals.get(node.host_id)
    settings = turn.settings
    backoff_ms = settings.refusal_backoff_ms * 2 ** min(before.count if before else 0, 10)
    backoff_ms = min(backoff_ms, settings.refusal_backoff_max_ms)
    remember_stray(turn, node.host_id, NodeKey(job.job_id, attempt.number, node.node_index))
    turn.emit(
        e.NodeRefused(
            job_id=job.job_id,
            attempt=attempt.number,
            node_index=node.node_index,
            host_id=node.host_id,
            reason=reason,
            permanent=permanent,
            retry_after_ms=turn.now + backoff_ms,
        )
    )
    turn.touch_host(node.host_id)
    turn.touch_job(job.job_id, node.node_index)
    turn.reschedule = True


def abandon(turn: Turn, job: Job, reason: str) -> None:
    """Hand back every host of a gang that has not started. Nothing happens when there is none."""
    attempt = job.current
    if attempt is None or attempt.started:
        return
    turn.touch_gang(job)
    remember_strays(turn, job, attempt)
    turn.emit(e.GangAbandoned(job_id=job.job_id, attempt=attempt.number, reason=reason))
    turn.touch_job(job.job_id)
    turn.reschedule = True


def remember_strays(turn: Turn, job: Job, attempt: Attempt) -> None:
    """Every host of a gang that is handed back must say that it has let go."""
    for node in attempt.nodes.values():
        key = NodeKey(job.job_id, attempt.number, node.node_index)
        remember_stray(turn, node.host_id, key)


def remember_stray(turn: Turn, host_id: HostId, key: NodeKey) -> None:
    """Only an agent with a session can still be at it; another tells us in its next Hello."""
    presence = turn.presence(host_id)
    if presence.session_id is not None:
        presence.strays[key] = None


def missing_nodes(job: Job, attempt: Attempt) -> tuple[int, ...]:
    """Node indices of a voting gang that have no host at the moment."""
    if len(attempt.nodes) == job.spec.num_nodes:
        return ()
    return tuple(n for n in range(job.spec.num_nodes) if n not in attempt.nodes)


def check_votes(turn: Turn, job: Job) -> None:
    """A host that has not answered in time is handed back like one that voted no."""
    attempt = job.current
    if attempt is None or attempt.started:
        return
    for node in list(attempt.nodes.values()):
        deadline_ms = node.since_ms + turn.settings.vote_timeout_ms
        if node.state is not NodeState.PREPARING:
            continue
        if turn.now >= deadline_ms:
            seconds = turn.settings.vote_timeout_ms // 1000
            refuse(turn, job, node, f"did not answer within {seconds} s")
        else:
            turn.timers.arm("job", job.job_id, deadline_ms)
