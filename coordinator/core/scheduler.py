"""Policy for who is next: queues by priority, jobs in order, gangs all or none.

The head of a queue holds up the jobs behind it (aws-batch-spec section 13), and keeps the hosts it
could use from queues of lower priority. A job that no capacity would help is passed over and does
neither: it waits for an attempt to be gone, its own or that of a job it depends on; or the hosts,
were they all free, could not run it; or too many of them refuse it for now. No I/O.
"""

from __future__ import annotations

import math

from coordinator.core import events as e
from coordinator.core.capacity import could_run, pass_over, refresh
from coordinator.core.ending import end_dependents_of, fail_job
from coordinator.core.explain import waiting_code
from coordinator.core.ids import HostId
from coordinator.core.leftovers import may_run, unsettled_dependency
from coordinator.core.placement import place, shortfall
from coordinator.core.reservation import abandon, missing_nodes, refusing, replace, reserve
from coordinator.core.state import ClusterState, Job, Queue
from coordinator.core.turn import Turn

LOOKED_AT_MAX = 500
"""Jobs that one pass looks at: when the hosts change, all that were passed over are looked at
again, a piece in each step."""


def is_free(state: ClusterState, host_id: HostId) -> bool:
    """True when the host could get a node this moment."""
    host, presence = state.hosts[host_id], state.presence[host_id]
    return (
        presence.is_here
        and not presence.unusable_reason
        and not presence.strays
        and not presence.kept
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
    """One pass: first complete the gangs that vote, then place jobs. Nothing is done while nothing
    may start (`placing.py`)."""
    if not turn.state.may_start:
        return
    queues = sorted(turn.state.queues.values(), key=lambda queue: (-queue.priority, queue.name))
    waiting = any(queue.runnable for queue in queues)
    voting = [
        job
        for queue in queues
        for job in map(turn.state.jobs.__getitem__, queue.live)
        if job.current is not None and missing_nodes(job, job.current)
    ]
    if not (waiting or voting):
        return  # looking at every host is what a pass costs
    free = free_hosts(turn.state)
    for job in voting:
        _complete_vote(turn, job, free)
    if waiting:
        refresh(turn.state, turn.settings)
        left = LOOKED_AT_MAX
        for queue in queues:
            left = _place_in_order(turn, queue, free, left)
            if left == 0:
                # Nobody of lower priority may overtake those that were not looked at yet.
                turn.timers.arm("schedule", "", turn.now)
                break


def _without(
    free: dict[HostId, e.HostRegistered], refusing: dict[HostId, int]
) -> dict[HostId, e.HostRegistered]:
    return {host_id: facts for host_id, facts in free.items() if host_id not in refusing}


def _complete_vote(turn: Turn, job: Job, free: dict[HostId, e.HostRegistered]) -> None:
    attempt = job.current
    if attempt is None or attempt.started:
        return
    missing = missing_nodes(job, attempt)
    kept = next(iter(attempt.nodes.values()), None)
    instance_type = turn.state.hosts[kept.host_id].facts.instance_type if kept else None
    askable = _without(free, refusing(turn, job))
    placements = place(job.spec, missing, askable, instance_type)
    if placements is None:
        # Holding a part of a gang while waiting for the rest is how two gangs lock each other out.
        abandon(turn, job, "no free host to replace one that refused")
        return
    replace(turn, job, placements)
    for placement in placements:
        del free[placement.host_id]


def _place_in_order(
    turn: Turn, queue: Queue, free: dict[HostId, e.HostRegistered], left: int
) -> int:
    """Look at `left` jobs at most; returns how many may be looked at yet."""
    state = turn.state
    for _, job_id in list(queue.runnable):
        if state.passed_over.get(job_id, 0) > turn.now:
            continue
        if left == 0:
            return 0
        left -= 1
        job = state.jobs[job_id]
        waits_for = job if may_run(state, job) else unsettled_dependency(state, job)
        left_out = refusing(turn, job)
        if waits_for is not None:
            pass_over(state, job, until_ms=math.inf, waits_for=waits_for)
            turn.touch_job(job_id)
            continue
        if not could_run(state, job, left_out):
            pauses_ms = min(left_out.values(), default=math.inf)
            until_ms = min(turn.now + pauses_ms, _check_time_limits(turn, queue, job))
            if not job.state.is_terminal:
                pass_over(state, job, until_ms=until_ms, waits_for=None)
            continue
        placements = place(job.spec, range(job.spec.num_nodes), _without(free, left_out))
        if placements is None:
            _keep_for(job, free)
            _check_time_limits(turn, queue, job)
            break
        reserve(turn, job, placements)
        for placement in placements:
            free.pop(placement.host_id)
    return left


def _keep_for(head: Job, free: dict[HostId, e.HostRegistered]) -> None:
    """Take out of `free` what a waiting head could use, or a stream of small jobs in queues of
    lower priority would keep a large one waiting for ever."""
    for host_id, facts in list(free.items()):
        if head.spec.instance_type in (None, facts.instance_type) and any(
            not shortfall(group, facts) for group in head.spec.groups if group.nodes
        ):
            del free[host_id]


def _check_time_limits(turn: Turn, queue: Queue, job: Job) -> float:
    """jobStateTimeLimitActions: cancel what cannot be placed for the same reason for too long, at
    the head or passed over. Returns when to look again."""
    turn.touch_job(job.job_id)
    look_again_ms = math.inf
    if not queue.time_limits:
        return look_again_ms
    code = waiting_code(turn.state, job)
    if job.blocked is None or job.blocked.code != code:
        turn.emit(
            e.PlacementBlocked(
                job_id=job.job_id,
                code=code,
                boot_id=turn.state.boot_id,
                boot_ms=turn.now,
                replaces=int(job.is_blocked_last),
            )
        )
    for limit in queue.time_limits:
        deadline_ms = _blocked_since_ms(turn, job) + 1000 * limit.max_time_seconds
        if limit.reason != code:
            continue
        if turn.now < deadline_ms:
            turn.timers.arm("schedule", job.job_id, deadline_ms)
            look_again_ms = min(look_again_ms, deadline_ms)
            continue
        fail_job(
            turn,
            job,
            f"Canceled by JobStateTimeLimit action due to reason: {code}",
            cancelled=True,
        )
        end_dependents_of(turn, job.job_id)
        break
    return look_again_ms


def _blocked_since_ms(turn: Turn, job: Job) -> int:
    """On the coordinator's clock. Nobody can say how long its machine was off, so what began
    before the last boot counts from the coordinator's start."""
    blocked = job.blocked
    if blocked is None or blocked.boot_id != turn.state.boot_id:
        return turn.listening.start_ms
    return blocked.boot_ms
