"""What the hosts could run, were they all free: whether waiting can help a job at all.

Counted are hosts that are connected, or have been silent or unusable for less than the cluster's
verdict; not those that an operator drains. No I/O.
"""

from __future__ import annotations

from collections.abc import Collection

from coordinator.core.events import HostRegistered
from coordinator.core.ids import HostId
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


class Capacity:
    """The hosts that are counted on, for one scheduling pass. Jobs of the same shape are looked at
    once."""

    def __init__(self, state: ClusterState, settings: Settings) -> None:
        self._hosts = {
            host_id: state.hosts[host_id].facts
            for host_id in state.hosts
            if is_counted_on(state, settings, host_id)
        }
        self._known: dict[object, bool] = {}

    def could_run(self, job: Job, refusing: Collection[HostId]) -> bool:
        """Whether these hosts, all free and without those that refuse the job now, could run it."""
        if refusing:
            return _could_run(job, {h: f for h, f in self._hosts.items() if h not in refusing})
        shape = _shape(job)
        if shape not in self._known:
            self._known[shape] = _could_run(job, self._hosts)
        return self._known[shape]


def _could_run(job: Job, hosts: dict[HostId, HostRegistered]) -> bool:
    return place(job.spec, range(job.spec.num_nodes), hosts) is not None


def _shape(job: Job) -> object:
    groups = tuple(
        (len(group.nodes), group.vcpus, group.memory_mib, group.gpus) for group in job.spec.groups
    )
    return job.spec.instance_type, groups
