"""Policy for who is next: queues by priority, jobs in order, gangs all or none.

The head of a queue holds up the jobs behind it (aws-batch-spec section 13), and keeps the hosts it
could use from queues of lower priority. A job that only waits for an old attempt of its own to be
gone, or to ask hosts again that refused it, does neither, since no capacity would help it. No I/O.
"""

from __future__ import annotations

from coordinator.core import events as e
from coordinator.core.ending import end_dependents_of, fail_job
from coordinator.core.explain import waiting_code
from coordinator.core.ids import HostId
from coordinator.core.placement import place, shortfall
from coordinator.core.reservation import abandon, missing_nodes, replace, reserve
from coordinator.core.state import ClusterState, HeadSince, Job, Queue
from coordinator.core.turn import Turn


def is_free(state: ClusterState, host_id: HostId) -> bool:
    """True when the host could get a node this moment."""
    host, presence = state.hosts[host_id], state.presence[host_id]
    return (
        presence.session_id is not None
        and not presence.lost
        and not presence.unusable_reason
        and not presence.strays
        and not host.draining
        and not host.holds
    )


def free_hosts(state: ClusterState) -> dict[HostId, e.HostRegistered]:
    """Hosts that could get a node this moment, by id."""
    return {
        host_id: state.hosts[host_id].facts
        for host_id in sorted(state.hosts)
        if is_free(state, host_id)
    }


def schedule(turn: Turn) -> None:
    """One pass: first complete the gangs that vote, then place jobs."""
    queues = sorted(turn.state.queues.values(), key=lambda queue: (-queue.priority, queue.name))
    waiting = any(queue.runnable for queue in queues)
    voting = [
        job
        for queue in queues
        for job in map(turn.state.jobs.__getitem__, queue.live)
        if job.current is not None and missing_nodes(job, job.current)
    ]
    # Looking at every host is what a pass costs; when nobody waits, nobody need be looked at.
    free = free_hosts(turn.state) if waiting or voting else {}
    for job in voting:
        _complete_vote(turn, job, free)
    for queue in queues:
        _place_in_order(turn, queue, free)


def _askable(
    turn: Turn, job: Job, free: dict[HostId, e.HostRegistered]
) -> dict[HostId, e.HostRegistered]:
    """Free hosts that have not refused this job a short while ago; the others' turn comes again
    when their pause is over."""
    askable = dict(free)
    for host_id, refusal in job.refusals.items():
        if host_id in free and refusal.retry_after_ms > turn.now:
            del askable[host_id]
            turn.timers.arm("schedule", "", refusal.retry_after_ms)
    return askable


def _complete_vote(turn: Turn, job: Job, free: dict[HostId, e.HostRegistered]) -> None:
    attempt = job.current
    if attempt is None or attempt.started:
        return
    missing = missing_nodes(job, attempt)
    kept = next(iter(attempt.nodes.values()), None)
    instance_type = turn.state.hosts[kept.host_id].facts.instance_type if kept else None
    placements = place(job.spec, missing, _askable(turn, job, free), instance_type)
    if placements is None:
        # Holding a part of a gang while waiting for the rest is how two gangs lock each other out.
        abandon(turn, job, "no free host to replace one that refused")
        return
    replace(turn, job, placements)
    for placement in placements:
        del free[placement.host_id]


def _place_in_order(turn: Turn, queue: Queue, free: dict[HostId, e.HostRegistered]) -> None:
    head: Job | None = None
    for _, job_id in list(queue.runnable):
        job = turn.state.jobs[job_id]
        if job.unsettled:
            continue
        everyone = range(job.spec.num_nodes)
        placements = place(job.spec, everyone, _askable(turn, job, free))
        if placements is None and job.refusals and place(job.spec, everyone, free):
            continue  # it waits to ask hosts again that refused it; no capacity would help it
        if placements is None:
            head = job
            break
        reserve(turn, job, placements)
        for placement in placements:
            free.pop(placement.host_id)
    if head is not None:
        _keep_for(turn, head, free)
    _watch_head(turn, queue, head)


def _keep_for(turn: Turn, head: Job, free: dict[HostId, e.HostRegistered]) -> None:
    """Take out of `free` what a waiting head could use, or a stream of small jobs in queues of
    lower priority would keep a large one waiting for ever. A head that the hosts which are there
    could not run, were they all free, keeps nothing."""
    present = {
        host_id: turn.state.hosts[host_id].facts
        for host_id, presence in turn.state.presence.items()
        if presence.session_id is not None and not presence.lost and not presence.unusable_reason
    }
    if place(head.spec, range(head.spec.num_nodes), present) is None:
        return
    for host_id, facts in list(free.items()):
        if head.spec.instance_type in (None, facts.instance_type) and any(
            not shortfall(group, facts) for group in head.spec.groups if group.nodes
        ):
            del free[host_id]


def _watch_head(turn: Turn, queue: Queue, head: Job | None) -> None:
    """jobStateTimeLimitActions: cancel what stays at the head for the same reason too long."""
    if head is None:
        turn.state.heads.pop(queue.name, None)
        return
    turn.touch_job(head.job_id)
    code = waiting_code(turn.state, head)
    since = turn.state.heads.get(queue.name)
    if since is None or since.job_id != head.job_id or since.code != code:
        since = HeadSince(job_id=head.job_id, code=code, since_ms=turn.now)
        turn.state.heads[queue.name] = since
    for limit in queue.time_limits:
        deadline_ms = since.since_ms + 1000 * limit.max_time_seconds
        if limit.reason != code:
            continue
        if turn.now < deadline_ms:
            turn.timers.arm("schedule", "", deadline_ms)
            continue
        fail_job(
            turn,
            head,
            f"Canceled by JobStateTimeLimit action due to reason: {code}",
            cancelled=True,
        )
        end_dependents_of(turn, head.job_id)
        del turn.state.heads[queue.name]
        turn.reschedule = True
        return
