"""What facts of the coordinator, definitions, queues and hosts do to the state; `evolve.py` has
those of jobs.

No policy here. Must not import a module that decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.core import events as e
from coordinator.core.state import ClusterState, Host, Queue, Revision


def _coordinator_started(state: ClusterState, event: e.CoordinatorStarted, at_ms: int) -> None:
    state.epoch = event.epoch
    state.life_id = event.life_id
    state.was_to_accept = event.accepts_older
    before = next(reversed(state.lives), "")
    # A start of an older release says no position, and then the next one that does counts.
    if event.position and before and state.lives[before] is None:
        state.lives[before] = event.position
    if event.life_id:
        state.lives[event.life_id] = None


def _cluster_key_made(state: ClusterState, event: e.ClusterKeyMade, at_ms: int) -> None:
    state.cluster_key = event.key


def _older_journal_accepted(state: ClusterState, event: e.OlderJournalAccepted, at_ms: int) -> None:
    state.given_up[event.life_id] = None


def _definition_registered(state: ClusterState, event: e.DefinitionRegistered, at_ms: int) -> None:
    definition = event.definition
    name = definition.job_definition_name
    revisions = state.definitions.setdefault(name, {})
    revisions[definition.revision] = Revision(
        definition=definition, active=True, changed_at_ms=at_ms
    )
    state.last_revision[name] = definition.revision


def _definition_deregistered(
    state: ClusterState, event: e.DefinitionDeregistered, at_ms: int
) -> None:
    revision = state.definitions[event.name][event.revision]
    revision.active = False
    revision.changed_at_ms = at_ms


def _definition_forgotten(state: ClusterState, event: e.DefinitionForgotten, at_ms: int) -> None:
    del state.definitions[event.name][event.revision]


def _queue_created(state: ClusterState, event: e.QueueCreated, at_ms: int) -> None:
    state.queues[event.name] = Queue(
        name=event.name,
        priority=event.priority,
        enabled=event.enabled,
        tags=dict(event.tags),
        time_limits=event.time_limits,
    )


def _queue_updated(state: ClusterState, event: e.QueueUpdated, at_ms: int) -> None:
    queue = state.queues[event.name]
    queue.priority = event.priority
    queue.enabled = event.enabled
    queue.time_limits = event.time_limits


def _queue_deleting(state: ClusterState, event: e.QueueDeleting, at_ms: int) -> None:
    state.queues[event.name].deleting = True


def _queue_deleted(state: ClusterState, event: e.QueueDeleted, at_ms: int) -> None:
    del state.queues[event.name]


def _host_registered(state: ClusterState, event: e.HostRegistered, at_ms: int) -> None:
    host = state.hosts.get(event.host_id)
    if host is None:
        state.hosts[event.host_id] = Host(facts=event)
    else:
        host.facts = event


def _host_drained(state: ClusterState, event: e.HostDrained, at_ms: int) -> None:
    host = state.hosts[event.host_id]
    host.draining, host.drain_reason = True, event.reason


def _host_resumed(state: ClusterState, event: e.HostResumed, at_ms: int) -> None:
    host = state.hosts[event.host_id]
    host.draining, host.drain_reason = False, ""


def _agent_stopped(state: ClusterState, event: e.AgentStopped, at_ms: int) -> None:
    host = state.hosts[event.host_id]
    host.stopped_at_ms, host.goes_on = at_ms, dict.fromkeys(event.goes_on)


def _agent_returned(state: ClusterState, event: e.AgentReturned, at_ms: int) -> None:
    host = state.hosts[event.host_id]
    host.stopped_at_ms, host.goes_on = 0, {}


def _host_forgotten(state: ClusterState, event: e.HostForgotten, at_ms: int) -> None:
    del state.hosts[event.host_id]


EVOLVE_CLUSTER: dict[type, Callable[[ClusterState, Any, int], None]] = {
    e.CoordinatorStarted: _coordinator_started,
    e.ClusterKeyMade: _cluster_key_made,
    e.OlderJournalAccepted: _older_journal_accepted,
    e.DefinitionRegistered: _definition_registered,
    e.DefinitionDeregistered: _definition_deregistered,
    e.DefinitionForgotten: _definition_forgotten,
    e.QueueCreated: _queue_created,
    e.QueueUpdated: _queue_updated,
    e.QueueDeleting: _queue_deleting,
    e.QueueDeleted: _queue_deleted,
    e.HostRegistered: _host_registered,
    e.HostDrained: _host_drained,
    e.HostResumed: _host_resumed,
    e.AgentStopped: _agent_stopped,
    e.AgentReturned: _agent_returned,
    e.HostForgotten: _host_forgotten,
}
