"""What the hosts could run, were they all free: whether waiting can help a job at all.

Counted on are hosts that are connected, or have been silent or unusable for less than the cluster's
verdict; not those that an operator drains. Jobs that waiting cannot help are looked at again when
these hosts change, so that a thousand of them cost a pass of the scheduler nothing. No I/O.
"""

from __future__ import annotations

from collections.abc import Collection

from coordinator.core.events import HostRegistered
from coordinator.core.ids import HostId, JobId
from coordinator.core.lease import default_verdict_seconds
from coordinator.core.placement import place
from coordinator.core.settings import Settings
from coordinator.core.state import ClusterState, Job


def is_counted_on(state: ClusterState, settings: Settings, host_id: HostId) -> bool:
    """True when the host is there, or away for so short a time that it is waited for."""
    presence = state.presence[host_id]
    if presence.away or state.hosts[host_id].draining:
        return False
    unusable_ms = state.now_ms - presence.unusable_since_ms
    return not presence.unusable_reason or unusable_ms < 1000 * default_verdict_seconds(settings)


def refresh(state: ClusterState, settings: Settings) -> None:
    """Before a pass of the scheduler: when other hosts are counted on than in the last pass, every
    job that was passed over is looked at again."""
    counted_on = {
        host_id: host.facts
        for host_id, host in state.hosts.items()
        if is_counted_on(state, settings, host_id)
    }
    if counted_on != state.counted_on:
        state.counted_on = counted_on
        state.could_run.clear()
        state.waiting_codes.clear()
        look_at_all(state)


def look_at_all(state: ClusterState) -> None:
    """Every job that was passed over is looked at again."""
    state.passed_over.clear()
    state.passed_over_for.clear()


def pass_over(state: ClusterState, job: Job, *, until_ms: float, waits_for: Job | None) -> None:
    """Do not look at the job until then, or until nothing of the job it waits for may run."""
    state.passed_over[job.job_id] = until_ms
    if waits_for is not None:
        state.passed_over_for.setdefault(waits_for.job_id, {})[job.job_id] = None


def wake(state: ClusterState, settled: JobId) -> None:
    """Nothing of this job may run any more: who was passed over for it is looked at again."""
    for job_id in state.passed_over_for.pop(settled, {}):
        state.passed_over.pop(job_id, None)


def could_run(state: ClusterState, job: Job, refusing: Collection[HostId] = ()) -> bool:
    """Whether the hosts that are counted on, all free and without `refusing`, could run the job."""
    if refusing:
        return _could_run(
            job, {h: facts for h, facts in state.counted_on.items() if h not in refusing}
        )
    shape = shape_of(job)
    if shape not in state.could_run:
        state.could_run[shape] = _could_run(job, state.counted_on)
    return state.could_run[shape]


def _could_run(job: Job, hosts: dict[HostId, HostRegistered]) -> bool:
    return place(job.spec, range(job.spec.num_nodes), hosts) is not None


def shape_of(job: Job) -> object:
    """What placement sees of a job: jobs of one shape can run on the same hosts."""
    groups = tuple(
        (len(group.nodes), group.vcpus, group.memory_mib, group.gpus) for group in job.spec.groups
    )
    return job.spec.instance_type, groups
