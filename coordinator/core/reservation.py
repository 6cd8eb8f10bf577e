"""Policy for the hosts of a gang that does not run yet: reserve, hand back, replace.

A host that is handed back may still be preparing, so it counts as a stray of that host until its
agent says that it has let go: a host never gets a second assignment before. No I/O.
"""

from __future__ import annotations

from coordinator.core import events as e
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.job_events import Placement
from coordinator.core.lease import new_lease_seconds
from coordinator.core.state import Attempt, Job, NodeRun
from coordinator.core.states import NodeState
from coordinator.core.turn import Turn


def reserve(turn: Turn, job: Job, placements: tuple[Placement, ...]) -> None:
    """Take a host for every node and ask each for its vote."""
    number = len(job.attempts) + 1
    turn.emit(
        e.GangReserved(
            job_id=job.job_id,
            attempt=number,
            placements=placements,
            lease_seconds=new_lease_seconds(turn.settings, job, number),
            stop_grace_seconds=turn.settings.stop_grace_seconds,
        )
    )
    turn.touch_gang(job)
    _ask(turn, job, placements)


def replace(turn: Turn, job: Job, placements: tuple[Placement, ...]) -> None:
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
    _ask(turn, job, placements)


def _ask(turn: Turn, job: Job, placements: tuple[Placement, ...]) -> None:
    for placement in placements:
        turn.presence(placement.host_id).asked_ms = turn.now
    turn.timers.arm("job", job.job_id, turn.now + turn.settings.vote_timeout_ms)


def retry_after_ms(turn: Turn, job: Job, host_id: HostId) -> int:
    """When a host that refuses now may be asked again; on the wall clock, as it is journaled."""
    before = job.refusals.get(host_id)
    settings = turn.settings
    doubled = min(before.count if before else 0, 10)
    backoff_ms = settings.refusal_backoff_ms << doubled
    return turn.wall + min(backoff_ms, settings.refusal_backoff_max_ms)


def refusing(turn: Turn, job: Job) -> dict[HostId, int]:
    """Hosts that have refused the job a short while ago, and how long they are left out yet. Also
    arms the end of each pause. A pause that is longer than any pause can be was written while the
    wall clock was wrong."""
    found = {}
    for host_id, refusal in job.refusals.items():
        left_ms = refusal.retry_after_ms - turn.wall
        if 0 < left_ms <= turn.settings.refusal_backoff_max_ms:
            found[host_id] = left_ms
            turn.timers.arm("schedule", job.job_id, turn.now + left_ms)
    return found


def refuse(turn: Turn, job: Job, node: NodeRun, reason: str, *, permanent: bool = False) -> None:
    """A host voted no, or did not answer: hand it back and leave it out for a while."""
    attempt = job.attempts[-1]
    remember_stray(turn, node.host_id, NodeKey(job.job_id, attempt.number, node.node_index))
    turn.emit(
        e.NodeRefused(
            job_id=job.job_id,
            attempt=attempt.number,
            node_index=node.node_index,
            host_id=node.host_id,
            reason=reason,
            permanent=permanent,
            retry_after_ms=retry_after_ms(turn, job, node.host_id),
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
    turn.emit(
        e.GangAbandoned(
            job_id=job.job_id,
            attempt=attempt.number,
            reason=reason,
            votes=job.abandoned_votes + 1,
            replaces=job.foldable or 0,
            refusals=dict(job.refusals),
            started_at_ms=job.started_at_ms,
        )
    )
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
        if node.state is not NodeState.PREPARING:
            continue
        asked_ms = turn.presence(node.host_id).asked_ms
        left_ms = turn.settings.vote_timeout_ms - turn.listening.since(asked_ms)
        if left_ms <= 0:
            seconds = turn.settings.vote_timeout_ms // 1000
            refuse(turn, job, node, f"did not answer within {seconds} s")
        else:
            turn.timers.arm("job", job.job_id, turn.now + left_ms)
