"""Policy for the start barrier: children's commands wait until every node runs.

Ours; AWS Batch starts children without one. What waits is the command inside a running container,
so a node that never comes to run can be named. No I/O.
"""

from __future__ import annotations

from coordinator.core import events as e
from coordinator.core.ending import ran_of, stop_attempt
from coordinator.core.state import Attempt, Job, NodeRun
from coordinator.core.turn import Turn

_NODES_NAMED = 10


def holds_children(job: Job, attempt: Attempt) -> bool:
    """Whether children's commands have to wait."""
    return job.spec.start_barrier_seconds is not None and not attempt.barrier_lifted


def pass_barrier(turn: Turn, job: Job, attempt: Attempt) -> None:
    """A node has come to run: lift the barrier if it was the last."""
    if holds_children(job, attempt) and attempt.up == job.spec.num_nodes:
        turn.emit(e.BarrierLifted(job_id=job.job_id, attempt=attempt.number))
        turn.touch_gang(job)


def check_barrier(turn: Turn, job: Job) -> None:
    """Stop an attempt that some node can no longer complete, or whose time is up. It may be tried
    again: it was a host that failed, not the job."""
    attempt, seconds = job.current, job.spec.start_barrier_seconds
    if attempt is None or seconds is None or not attempt.started_at_ms:
        return
    if attempt.stop_cause is not None or not holds_children(job, attempt):
        return
    missing = [node for node in attempt.nodes.values() if not node.started_at_ms]
    failed = [node for node in missing if node.state.is_terminal]
    ran = ran_of(turn, job, attempt)
    # Reports that wait while the coordinator does not listen are not held against a node.
    left_ms = 1000 * seconds - ran.ms - turn.listening.since(ran.at_ms)
    if failed:
        cause = f"Start barrier: cannot be reached any more: {_named(failed)}"
    elif not turn.state.may_start:
        return  # children may be held back; `placing.py` has this looked at again
    elif left_ms <= 0:
        cause = f"Start barrier: not RUNNING within {seconds} s: {_named(missing)}"
    else:
        turn.timers.arm("job", job.job_id, turn.now + left_ms)
        return
    stop_attempt(turn, job, attempt, cause, by_user=False, may_retry=True)


def _named(nodes: list[NodeRun]) -> str:
    words = []
    for node in sorted(nodes, key=lambda node: node.node_index)[:_NODES_NAMED]:
        why = node.reason or node.status_reason
        words.append(
            f"node {node.node_index} on host {node.host_id} ({node.state}{why and f': {why}'})"
        )
    more = len(nodes) - _NODES_NAMED
    return ", ".join(words) + (f" and {more} more" if more > 0 else "")
