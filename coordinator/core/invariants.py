"""What must always be true, checked after every step in tests and after replay. No I/O."""

from __future__ import annotations

from coordinator.core.errors import InvariantViolation
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.state import Attempt, ClusterState, Job
from coordinator.core.states import JobState, NodeState


def check(state: ClusterState, *, replayed: bool = False) -> None:
    """Raise InvariantViolation with the job's story when the state is impossible. `replayed` lets
    pass what older releases did and journaled."""
    holds: dict[HostId, list[NodeKey]] = {host_id: [] for host_id in state.hosts}
    for job in state.jobs.values():
        _check_job(state, job, holds)
        if not replayed:
            _check_addresses(job)
    for host_id, expected in holds.items():
        _require(
            sorted(state.hosts[host_id].holds) == sorted(expected),
            f"host {host_id} holds {list(state.hosts[host_id].holds)}, jobs say {expected}",
        )
        _require(len(expected) <= 1, f"host {host_id} is not single tenant: it holds {expected}")
    for queue in state.queues.values():
        _require(
            queue.runnable == sorted(queue.runnable), f"the line of queue {queue.name} is unordered"
        )
        for _, job_id in queue.runnable:
            job = state.jobs[job_id]
            _require(
                job.state is JobState.RUNNABLE and job.current is None,
                f"job {job_id} stands in line of {queue.name} but is {job.state}",
            )


def check_job(state: ClusterState, job: Job) -> None:
    """Raise InvariantViolation when this job alone is impossible, whoever holds what."""
    _check_job(state, job, {host_id: [] for host_id in state.hosts})


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvariantViolation(message)


def _check_job(state: ClusterState, job: Job, holds: dict[HostId, list[NodeKey]]) -> None:
    where = f"job {job.job_id} ({job.state})"
    alive = [
        attempt.number
        for attempt in job.attempts
        if any(n.state.is_launched and not n.released for n in attempt.nodes.values())
    ]
    _require(len(alive) <= 1, f"{where}: attempts {alive} are alive at once")
    _require(
        all(attempt.over for attempt in job.attempts[:-1]), f"{where}: an older attempt is not over"
    )
    if job.state in (JobState.STARTING, JobState.RUNNING):
        _require(job.current is not None and job.current.started, f"{where} has no started attempt")
    if job.state.is_terminal:
        _require(job.current is None, f"{where} has an attempt that is not over")
        _require(bool(job.status_reason and job.stopped_at_ms), f"{where} does not say why")
    if job.state is JobState.PENDING:
        _require(bool(job.waits_for), f"{where} waits for nothing")
    for attempt in job.attempts:
        _check_attempt(job, attempt, where, holds)


def _check_attempt(
    job: Job, attempt: Attempt, where: str, holds: dict[HostId, list[NodeKey]]
) -> None:
    nodes = attempt.nodes.values()
    where = f"{where} attempt {attempt.number}"
    _require(
        attempt.prepared == sum(n.state is not NodeState.PREPARING for n in nodes)
        or attempt.started,
        f"{where}: prepared is {attempt.prepared}",
    )
    _require(
        attempt.unreleased == sum(not n.released for n in nodes),
        f"{where}: unreleased is {attempt.unreleased}",
    )
    if attempt.started:
        _require(len(attempt.nodes) == job.spec.num_nodes, f"{where} runs with a part of its gang")
        main = attempt.nodes[job.spec.main_node]
        children = [n for n in nodes if n is not main]
        _require(
            bool(main.started_at_ms) or not any(n.launched_at_ms for n in children),
            f"{where}: a child was launched before main ran",
        )
    else:
        _require(
            not any(n.state.is_launched for n in nodes), f"{where}: launched before all had voted"
        )
    _require(
        attempt.up == sum(bool(n.started_at_ms) for n in nodes),
        f"{where}: up is {attempt.up}",
    )
    _require(
        not attempt.barrier_lifted or attempt.up == job.spec.num_nodes,
        f"{where}: the barrier was lifted with {attempt.up} nodes up",
    )
    for node in nodes:
        if not (node.released and attempt.over):
            key = NodeKey(job.job_id, attempt.number, node.node_index)
            holds[node.host_id].append(key)


def _check_addresses(job: Job) -> None:
    """Older releases launched gangs whose hosts had promised one address twice."""
    for attempt in job.attempts:
        named = [address for address in (attempt.gang.addresses if attempt.gang else ()) if address]
        where = f"job {job.job_id} ({job.state}) attempt {attempt.number}"
        _require(len(named) == len(set(named)), f"{where}: two nodes have one address of {named}")
