"""The only mutator of durable state: one small function an event, the same live and at replay.

No policy here, and no rejection: an event that does not fit is our own defect and raises
InvariantViolation. Must not import a module that decides.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coordinator.core import events as e
from coordinator.core import folding
from coordinator.core.errors import InvariantViolation
from coordinator.core.evolve_cluster import EVOLVE_CLUSTER
from coordinator.core.evolve_set_aside import EVOLVE_SET_ASIDE
from coordinator.core.ids import JobId, NodeKey
from coordinator.core.job_events import Placement, Refusal
from coordinator.core.names import clip
from coordinator.core.state import (
    Attempt,
    Blocked,
    ClusterState,
    Ended,
    Gang,
    Job,
    NodeRun,
)
from coordinator.core.states import JOB_TRANSITIONS, NODE_TRANSITIONS, JobState, NodeState

_REASON_CHARS = 500
"""How much is kept of why a host refuses a job: each vote that is given up says it of all hosts."""


def evolve(state: ClusterState, event: e.Event, at_ms: int) -> None:
    """Apply one durable fact."""
    _EVOLVE[type(event)](state, event, at_ms)
    job = state.jobs.get(getattr(event, "job_id", JobId("")))
    if job is not None:
        folding.count(job, event)


def _move_job(job: Job, fact: str) -> None:
    after = JOB_TRANSITIONS.get((job.state, fact))
    if after is None:
        raise InvariantViolation(f"job {job.job_id} is {job.state}: no way out by {fact}")
    job.state = after


def _move_node(node: NodeRun, fact: str, after: NodeState, at_ms: int) -> None:
    if after not in NODE_TRANSITIONS.get((node.state, fact), ()):
        raise InvariantViolation(
            f"node {node.node_index} on {node.host_id} is {node.state}: no way to {after} by {fact}"
        )
    node.state = after
    node.since_ms = at_ms


def _attempt(state: ClusterState, job_id: JobId, number: int) -> tuple[Job, Attempt]:
    job = state.jobs[job_id]
    return job, job.attempts[number - 1]


def _stand_in_line(state: ClusterState, job: Job) -> None:
    state.passed_over.pop(job.job_id, None)
    insort(state.queues[job.job_queue].runnable, (job.order, job.job_id))


def _leave_line(state: ClusterState, job: Job) -> None:
    if job.set_aside:
        return
    state.passed_over.pop(job.job_id, None)
    line = state.queues[job.job_queue].runnable
    if (job.order, job.job_id) in line:
        line.remove((job.order, job.job_id))


def _let_go(state: ClusterState, job: Job, attempt: Attempt, node: NodeRun) -> None:
    """The host is free of this node once it is released and its attempt is over: a finished
    child's host stays with the gang until then."""
    if node.released and attempt.over:
        key = NodeKey(job.job_id, attempt.number, node.node_index)
        state.hosts[node.host_id].holds.pop(key, None)


def _job_submitted(state: ClusterState, event: e.JobSubmitted, at_ms: int) -> None:
    job = Job(
        job_id=event.job_id,
        job_queue=event.job_queue,
        spec=event.spec,
        order=state.next_order,
        created_at_ms=at_ms,
        state=JOB_TRANSITIONS[None, "JobSubmitted"],
        client_token=event.client_token,
        waits_for=dict.fromkeys(event.waits_for),
    )
    state.next_order += 1
    state.jobs[job.job_id] = job
    state.queues[job.job_queue].live[job.job_id] = None
    if event.client_token is not None:
        state.tokens[event.client_token] = job.job_id
    for dependency in event.waits_for:
        state.dependents.setdefault(dependency, {})[job.job_id] = None


def _job_pended(state: ClusterState, event: e.JobPended, at_ms: int) -> None:
    _move_job(state.jobs[event.job_id], "JobPended")


def _dependency_ended(state: ClusterState, event: e.DependencyEnded, at_ms: int) -> None:
    state.jobs[event.job_id].waits_for.pop(event.dependency)
    _forget_dependent(state, event.dependency, event.job_id)


def _forget_dependent(state: ClusterState, dependency: JobId, dependent: JobId) -> None:
    waiting = state.dependents.get(dependency, {})
    waiting.pop(dependent, None)
    if not waiting:
        state.dependents.pop(dependency, None)


def _job_queued(state: ClusterState, event: e.JobQueued, at_ms: int) -> None:
    job = state.jobs[event.job_id]
    _move_job(job, "JobQueued")
    _stand_in_line(state, job)


def _reserve(
    state: ClusterState, job: Job, attempt: Attempt, placement: Placement, at_ms: int
) -> None:
    attempt.nodes[placement.node_index] = NodeRun(
        node_index=placement.node_index,
        host_id=placement.host_id,
        state=NodeState.PREPARING,
        since_ms=at_ms,
    )
    attempt.unreleased += 1
    key = NodeKey(job.job_id, attempt.number, placement.node_index)
    holds = state.hosts[placement.host_id].holds
    if holds:
        raise InvariantViolation(f"host {placement.host_id} holds {list(holds)}; cannot take {key}")
    holds[key] = None


def _placement_blocked(state: ClusterState, event: e.PlacementBlocked, at_ms: int) -> None:
    state.jobs[event.job_id].blocked = Blocked(
        code=event.code, boot_id=event.boot_id, boot_ms=event.boot_ms
    )


def _gang_reserved(state: ClusterState, event: e.GangReserved, at_ms: int) -> None:
    job = state.jobs[event.job_id]
    if event.attempt != len(job.attempts) + 1:
        raise InvariantViolation(f"job {job.job_id}: attempt {event.attempt} is not the next")
    attempt = Attempt(
        number=event.attempt,
        reserved_at_ms=at_ms,
        lease_seconds=event.lease_seconds,
        stop_grace_seconds=event.stop_grace_seconds,
    )
    job.attempts.append(attempt)
    job.blocked = None
    _leave_line(state, job)
    for placement in event.placements:
        _reserve(state, job, attempt, placement, at_ms)


def _node_prepared(state: ClusterState, event: e.NodePrepared, at_ms: int) -> None:
    _, attempt = _attempt(state, event.job_id, event.attempt)
    node = attempt.nodes[event.node_index]
    _move_node(node, "NodePrepared", NodeState.PREPARED, at_ms)
    node.private_ipv4 = event.private_ipv4
    node.promised_ipv4 = event.private_ipv4 or state.hosts[node.host_id].facts.private_ipv4
    # An older release has journaled votes for an address that was promised already.
    attempt.promised.setdefault(node.promised_ipv4, event.node_index)
    attempt.prepared += 1


def _hand_back(state: ClusterState, job: Job, attempt: Attempt, node: NodeRun) -> None:
    """A node that was never launched leaves its host; nothing of it ever ran."""
    del attempt.nodes[node.node_index]
    attempt.unreleased -= 1
    if node.state is NodeState.PREPARED:
        attempt.prepared -= 1
        if attempt.promised.get(node.promised_ipv4) == node.node_index:
            del attempt.promised[node.promised_ipv4]
    del state.hosts[node.host_id].holds[NodeKey(job.job_id, attempt.number, node.node_index)]


def _node_refused(state: ClusterState, event: e.NodeRefused, at_ms: int) -> None:
    job, attempt = _attempt(state, event.job_id, event.attempt)
    _hand_back(state, job, attempt, attempt.nodes[event.node_index])
    _remember_refusal(job, event)


def _remember_refusal(job: Job, event: e.NodeRefused | e.MainNotStarted) -> None:
    before = job.refusals.get(event.host_id)
    job.refusals[event.host_id] = Refusal(
        reason=clip(event.reason, _REASON_CHARS),
        permanent=event.permanent,
        retry_after_ms=event.retry_after_ms,
        count=before.count + 1 if before else 1,
        not_started=isinstance(event, e.MainNotStarted),
    )


def _main_not_started(state: ClusterState, event: e.MainNotStarted, at_ms: int) -> None:
    """The gang votes again, without that host and those that have let go of their nodes since."""
    job, attempt = _attempt(state, event.job_id, event.attempt)
    _move_job(job, "MainNotStarted")
    attempt.started = False
    attempt.gang = None
    for node in list(attempt.nodes.values()):
        if node.node_index == event.node_index or node.released:
            del attempt.nodes[node.node_index]
            attempt.unreleased -= not node.released
            attempt.prepared -= 1
            key = NodeKey(job.job_id, attempt.number, node.node_index)
            del state.hosts[node.host_id].holds[key]
    attempt.promised = {node.promised_ipv4: node.node_index for node in attempt.nodes.values()}
    _remember_refusal(job, event)


def _node_replaced(state: ClusterState, event: e.NodeReplaced, at_ms: int) -> None:
    job, attempt = _attempt(state, event.job_id, event.attempt)
    placement = Placement(node_index=event.node_index, host_id=event.host_id)
    _reserve(state, job, attempt, placement, at_ms)


def _gang_abandoned(state: ClusterState, event: e.GangAbandoned, at_ms: int) -> None:
    job = state.jobs[event.job_id]
    if len(job.attempts) == event.attempt:  # else the journal has kept nothing of the vote but this
        attempt = job.attempts[-1]
        for node in list(attempt.nodes.values()):
            _hand_back(state, job, attempt, node)
        job.attempts.pop()
        _stand_in_line(state, job)
    if event.votes:
        job.abandoned_votes = event.votes
        job.refusals = dict(event.refusals)
        job.started_at_ms = event.started_at_ms
        job.blocked = None


def _attempt_refused(state: ClusterState, event: e.AttemptRefused, at_ms: int) -> None:
    job, attempt = _attempt(state, event.job_id, event.attempt)
    for node in list(attempt.nodes.values()):
        _hand_back(state, job, attempt, node)
    attempt.over = True
    attempt.stopped_at_ms = at_ms
    attempt.reason = event.reason
    attempt.status_reason = event.status_reason
    job.abandoned_votes = 0
    # The next attempt asks anew; who refused is still left out for its pause.
    job.refusals = {
        host_id: replace(refusal, permanent=False) for host_id, refusal in job.refusals.items()
    }
    _stand_in_line(state, job)


def _launch(node: NodeRun, at_ms: int) -> None:
    _move_node(node, "NodeLaunched", NodeState.STARTING, at_ms)
    node.launched_at_ms = at_ms


def _attempt_started(state: ClusterState, event: e.AttemptStarted, at_ms: int) -> None:
    job, attempt = _attempt(state, event.job_id, event.attempt)
    _move_job(job, "AttemptStarted")
    attempt.started = True
    attempt.gang = _gang(job, attempt)
    attempt.promised.clear()
    job.started_at_ms = 0
    _launch(attempt.nodes[job.spec.main_node], at_ms)


def _gang(job: Job, attempt: Attempt) -> Gang:
    nodes = [attempt.nodes[index] for index in range(job.spec.num_nodes)]
    groups = [(group, index) for group in job.spec.groups for index in group.nodes]
    slots = {index: group.gpus or group.vcpus for group, index in groups}
    return Gang(
        main_node=job.spec.main_node,
        addresses=tuple(node.promised_ipv4 for node in nodes),
        host_ids=tuple(node.host_id for node in nodes),
        slots=tuple(slots[node.node_index] for node in nodes),
    )


def _children_launched(state: ClusterState, event: e.ChildrenLaunched, at_ms: int) -> None:
    _, attempt = _attempt(state, event.job_id, event.attempt)
    for node in attempt.nodes.values():
        if node.state is NodeState.PREPARED:
            _launch(node, at_ms)


def _node_running(state: ClusterState, event: e.NodeRunning, at_ms: int) -> None:
    job, attempt = _attempt(state, event.job_id, event.attempt)
    node = attempt.nodes[event.node_index]
    _move_node(node, "NodeRunning", NodeState.RUNNING, at_ms)
    node.started_at_ms = at_ms
    node.private_ipv4 = event.private_ipv4
    attempt.up += 1
    if event.node_index == job.spec.main_node:
        _move_job(job, "MainRunning")
        attempt.started_at_ms = job.started_at_ms = at_ms
        job.refusals.clear()
        job.abandoned_votes = 0


def _barrier_lifted(state: ClusterState, event: e.BarrierLifted, at_ms: int) -> None:
    _, attempt = _attempt(state, event.job_id, event.attempt)
    attempt.barrier_lifted = True


def _node_stop_requested(state: ClusterState, event: e.NodeStopRequested, at_ms: int) -> None:
    _, attempt = _attempt(state, event.job_id, event.attempt)
    node = attempt.nodes[event.node_index]
    node.stop_reason = event.reason
    node.since_ms = at_ms


def _node_exited(state: ClusterState, event: e.NodeExited, at_ms: int) -> None:
    job, attempt = _attempt(state, event.job_id, event.attempt)
    node = attempt.nodes[event.node_index]
    # The job mirrors its main, so a main that was made to end does not end well, whatever its code.
    made_to_end = node.stop_reason is not None or (
        attempt.stop_cause is not None and event.node_index == job.spec.main_node
    )
    success = event.exit_code == 0 and not made_to_end
    _move_node(node, "NodeExited", NodeState.SUCCEEDED if success else NodeState.FAILED, at_ms)
    node.stopped_at_ms = at_ms
    node.exit_code = event.exit_code
    node.reason = event.reason
    node.status_reason = event.status_reason


def _node_lost(state: ClusterState, event: e.NodeLost, at_ms: int) -> None:
    _, attempt = _attempt(state, event.job_id, event.attempt)
    node = attempt.nodes[event.node_index]
    _move_node(node, "NodeLost", NodeState.FAILED, at_ms)
    node.stopped_at_ms = at_ms
    node.status_reason = event.status_reason


def _node_unclean(state: ClusterState, event: e.NodeUnclean, at_ms: int) -> None:
    _, attempt = _attempt(state, event.job_id, event.attempt)
    attempt.nodes[event.node_index].unclean_reason = event.reason


def _node_released(state: ClusterState, event: e.NodeReleased, at_ms: int) -> None:
    job, attempt = _attempt(state, event.job_id, event.attempt)
    node = attempt.nodes[event.node_index]
    if node.released:
        raise InvariantViolation(f"node {event.node_index} of {job.job_id} is released already")
    node.released = True
    node.unclean_reason = ""
    attempt.unreleased -= 1
    _let_go(state, job, attempt, node)


def _begin_to_stop(attempt: Attempt, at_ms: int) -> None:
    """People see such nodes as STOPPING, since now."""
    for node in attempt.nodes.values():
        if node.state in (NodeState.STARTING, NodeState.RUNNING):
            node.since_ms = at_ms


def _attempt_stop_requested(state: ClusterState, event: e.AttemptStopRequested, at_ms: int) -> None:
    job, attempt = _attempt(state, event.job_id, event.attempt)
    _begin_to_stop(attempt, at_ms)
    attempt.stop_cause = event.cause
    attempt.stop_may_retry = event.may_retry
    job.terminated = job.terminated or event.by_user


def _attempt_ended(state: ClusterState, event: e.AttemptEnded, at_ms: int) -> None:
    job, attempt = _attempt(state, event.job_id, event.attempt)
    if attempt.stop_cause is None:
        _begin_to_stop(attempt, at_ms)
    attempt.over = True
    attempt.stopped_at_ms = at_ms
    attempt.exit_code = event.exit_code
    attempt.reason = event.reason
    attempt.status_reason = event.status_reason
    for node in attempt.nodes.values():
        _let_go(state, job, attempt, node)


def _job_retried(state: ClusterState, event: e.JobRetried, at_ms: int) -> None:
    job = state.jobs[event.job_id]
    _move_job(job, "JobRetried")
    _stand_in_line(state, job)


def _end_job(state: ClusterState, job: Job, fact: str, status_reason: str, at_ms: int) -> None:
    _leave_line(state, job)
    _move_job(job, fact)
    job.status_reason = status_reason
    job.stopped_at_ms = at_ms
    for dependency in list(job.waits_for):
        _forget_dependent(state, dependency, job.job_id)
    job.waits_for.clear()
    state.leaving.setdefault(job.spec.job_name, {})[job.job_id] = None


def _job_succeeded(state: ClusterState, event: e.JobSucceeded, at_ms: int) -> None:
    _end_job(state, state.jobs[event.job_id], "JobSucceeded", event.status_reason, at_ms)


def _job_failed(state: ClusterState, event: e.JobFailed, at_ms: int) -> None:
    job = state.jobs[event.job_id]
    _end_job(state, job, "JobFailed", event.status_reason, at_ms)
    job.cancelled = job.cancelled or event.cancelled
    job.terminated = job.terminated or event.terminated


def _job_archived(state: ClusterState, event: e.JobArchived, at_ms: int) -> None:
    job = state.jobs.pop(event.job_id)
    # A queue that was set aside may be unknown to a job that was set aside.
    if job.job_queue in state.queues:
        state.queues[job.job_queue].live.pop(job.job_id, None)
    state.set_aside.pop(job.job_id, None)
    leaving = state.leaving[job.spec.job_name]
    del leaving[job.job_id]
    if not leaving:
        del state.leaving[job.spec.job_name]
    state.ended[job.job_id] = Ended(
        state=JobState(job.state), client_token=job.client_token, stopped_at_ms=job.stopped_at_ms
    )


_EVOLVE: dict[type, Callable[[ClusterState, Any, int], None]] = (
    EVOLVE_CLUSTER
    | EVOLVE_SET_ASIDE
    | {
        e.JobSubmitted: _job_submitted,
        e.JobPended: _job_pended,
        e.DependencyEnded: _dependency_ended,
        e.JobQueued: _job_queued,
        e.PlacementBlocked: _placement_blocked,
        e.GangReserved: _gang_reserved,
        e.NodePrepared: _node_prepared,
        e.NodeRefused: _node_refused,
        e.NodeReplaced: _node_replaced,
        e.GangAbandoned: _gang_abandoned,
        e.AttemptRefused: _attempt_refused,
        e.AttemptStarted: _attempt_started,
        e.MainNotStarted: _main_not_started,
        e.ChildrenLaunched: _children_launched,
        e.NodeRunning: _node_running,
        e.BarrierLifted: _barrier_lifted,
        e.NodeStopRequested: _node_stop_requested,
        e.NodeExited: _node_exited,
        e.NodeLost: _node_lost,
        e.NodeUnclean: _node_unclean,
        e.NodeReleased: _node_released,
        e.AttemptStopRequested: _attempt_stop_requested,
        e.AttemptEnded: _attempt_ended,
        e.JobRetried: _job_retried,
        e.JobSucceeded: _job_succeeded,
        e.JobFailed: _job_failed,
        e.JobArchived: _job_archived,
    }
)
if set(_EVOLVE) != set(e.ALL_EVENTS):
    raise InvariantViolation("an event has no evolve function")
