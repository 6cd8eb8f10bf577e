"""Where something of a job may still run after its attempt is over, and until when.

An attempt is over when its main has ended or counts as failed; a host that is silent may still run
a part of it, until there is proof that it does not. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.core import astray
from coordinator.core.ids import HostId, JobId, NodeKey
from coordinator.core.lease import stopped_after_ms, unknown_stopped_after_ms
from coordinator.core.settings import Settings
from coordinator.core.state import Attempt, ClusterState, Job, NodeRun, Presence

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A node that is not proven gone. `until_ms` is when it will have stopped by itself, on the
    wall clock; None: never, or its host is connected and is stopping it now."""

    attempt: int
    node_index: int
    host_id: HostId
    is_silent: bool
    goes_on: bool
    """Its agent was stopped, and it goes on without it."""
    until_ms: int | None
    unclean_reason: str
    """Why its host cannot be cleaned up; empty when it can."""


def leftovers(state: ClusterState, settings: Settings, job: Job) -> tuple[Leftover, ...]:
    """Every node of attempts that are over and whose host has not let go of it, and what runs of
    attempts that this journal does not know."""
    known = [
        _leftover(state, settings, job, attempt, node)
        for attempt in job.attempts
        if attempt.over and attempt.unreleased
        for node in attempt.nodes.values()
        if not node.released
    ]
    unknown = [
        _unknown(state, settings, host_id, key) for host_id, key in state.astray.get(job.job_id, ())
    ]
    return (*known, *unknown)


def _unknown(state: ClusterState, settings: Settings, host_id: HostId, key: NodeKey) -> Leftover:
    presence = state.presence[host_id]
    return Leftover(
        attempt=key.attempt,
        node_index=key.node_index,
        host_id=host_id,
        is_silent=not presence.is_here,
        goes_on=False,
        until_ms=_until_ms(state, settings, presence, unknown_stopped_after_ms(settings)),
        unclean_reason="",
    )


def may_run(state: ClusterState, job: Job) -> bool:
    """Whether something of it may be on a host, so that nothing is started after it."""
    return job.unsettled or job.job_id in state.astray


def _leftover(
    state: ClusterState, settings: Settings, job: Job, attempt: Attempt, node: NodeRun
) -> Leftover:
    presence = state.presence[node.host_id]
    key = NodeKey(job.job_id, attempt.number, node.node_index)
    goes_on = key in state.hosts[node.host_id].goes_on
    after_ms = None if goes_on else stopped_after_ms(settings, job, attempt)
    return Leftover(
        attempt=attempt.number,
        node_index=node.node_index,
        host_id=node.host_id,
        is_silent=not presence.is_here,
        goes_on=goes_on,
        until_ms=_until_ms(state, settings, presence, after_ms),
        unclean_reason=node.unclean_reason,
    )


def _until_ms(
    state: ClusterState, settings: Settings, presence: Presence, after_ms: int | None
) -> int | None:
    """When a silent host has stopped by itself what it has, `after_ms` after the last contact."""
    if presence.is_here or after_ms is None:
        return None
    return state.wall_of(presence.last_contact_ms + after_ms + settings.heartbeat_ms)


def may_run_on(state: ClusterState, host_id: HostId) -> list[NodeKey]:
    """What may still run on a host. A node that has ended and was released is not among it, though
    its host stays reserved until the whole gang has ended."""
    found = [
        key
        for key in state.hosts[host_id].holds
        if (node := state.jobs[key.job_id].node(key)) is not None and not node.released
    ]
    others = [*state.presence[host_id].kept, *astray.on_host(state, host_id)]
    return found + [key for key in dict.fromkeys(others) if key not in found]


def may_still_run(state: ClusterState, host_id: HostId) -> str:
    """The same for people, with UNREADABLE jobs; empty when nothing may."""
    unreadable = [job_id for job_id in state.set_aside if host_id in state.jobs[job_id].may_be_on]
    return ", ".join(map(str, [*may_run_on(state, host_id), *unreadable]))


def unsettled_dependency(state: ClusterState, job: Job) -> Job | None:
    """A job that this one depends on and that may still write somewhere, although it has ended."""
    for dependency in job.spec.depends_on:
        other = state.jobs.get(JobId(dependency.job_id or ""))
        if other is not None and may_run(state, other):
            return other
    return None


def namesakes(state: ClusterState, settings: Settings, job_name: str) -> str:
    """A warning for who submits a job of this name while an ended job of the same name may still
    run on a silent host; empty when there is none. Muster keeps attempts of one job apart, not
    jobs of one name."""
    found = [
        f"job {job_id} on host {left.host_id}"
        for job_id in state.leaving.get(job_name, ())
        for left in leftovers(state, settings, state.jobs[job_id])
        if left.is_silent
    ]
    if not found:
        return ""
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return (
        f"an ended job of the name {job_name} may still run: {', '.join(found[:_MOST_NAMED])}{more}"
    )
