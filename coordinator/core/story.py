"""What happened to a job, told to people: one sentence an event; and to the cluster, for its log.

Kinds are the events' own names, so that watchers can match on them. No I/O.
"""

from __future__ import annotations

from typing import assert_never

from coordinator.core import events as e
from coordinator.core.names import clip

_HOSTS_SHOWN = 5
_REFUSALS_SHOWN = 3
_REASON_CHARS = 200


def tell(event: e.JobEvent) -> tuple[str, str, int | None]:
    """(kind, sentence, node index or None for the whole job)."""
    return type(event).__name__, _sentence(event), getattr(event, "node_index", None)


def _sentence(event: e.JobEvent) -> str:
    match event:
        case e.JobSubmitted(spec=spec):
            plural = "" if spec.num_nodes == 1 else "s"
            nodes = f"{spec.num_nodes} node{plural}" if spec.is_multinode else "one container"
            definition = f"{spec.definition_name}:{spec.definition_revision}"
            return f"submitted to job queue {event.job_queue}: {definition}, {nodes}"
        case e.JobPended():
            return "waits for the jobs it depends on"
        case e.DependencyEnded():
            return f"job {event.dependency} has SUCCEEDED"
        case e.JobQueued():
            return "stands in line for a host for every node"
        case e.PlacementBlocked():
            return f"cannot be placed: {event.code}"
        case e.GangReserved():
            return f"attempt {event.attempt}: reserved, and asked to prepare: {_hosts(event)}"
        case e.NodePrepared():
            return "its host is ready"
        case e.NodeRefused():
            return f"host {event.host_id} is handed back: {event.reason}"
        case e.NodeReplaced():
            return f"host {event.host_id} takes over, and is asked to prepare"
        case e.GangAbandoned():
            return f"attempt {event.attempt}: all hosts are handed back: {_votes(event)}"
        case e.AttemptRefused():
            return f"attempt {event.attempt} ended: {_end(None, event.reason, event.status_reason)}"
        case e.AttemptStarted():
            return f"attempt {event.attempt}: every host is ready, so the main node starts"
        case e.MainNotStarted():
            return (
                f"attempt {event.attempt}: could not be started on host {event.host_id}, which is "
                f"handed back: {event.reason}"
            )
        case e.ChildrenLaunched():
            return "the main node runs, so its children start"
        case e.NodeRunning():
            return f"runs{f' at {event.private_ipv4}' if event.private_ipv4 else ''}"
        case e.BarrierLifted():
            return "every node runs, so the children's commands start"
        case e.NodeStopRequested():
            return f"a user stops this node: {event.reason}"
        case e.NodeExited():
            return f"ended: {_end(event.exit_code, event.reason, event.status_reason)}"
        case e.NodeLost():
            return f"lost: {event.status_reason}"
        case e.NodeUnclean():
            return f"its host cannot be cleaned up: {event.reason}"
        case e.NodeReleased():
            return f"its host is free of it: {event.proof}"
        case e.AttemptStopRequested():
            return f"attempt {event.attempt} is being stopped: {event.cause}"
        case e.AttemptEnded():
            end = _end(event.exit_code, event.reason, event.status_reason)
            return f"attempt {event.attempt} ended: {end}"
        case e.JobRetried():
            return "is tried again"
        case e.JobSucceeded() | e.JobFailed():
            return event.status_reason
        case e.JobSetAside():
            return f"UNREADABLE: {event.reason}"
        case e.JobFoundOnHost():
            return f"host {event.host_id} has something of it"
        case e.JobLeftHost():
            return f"host {event.host_id} is free of it: {event.proof}"
        case e.JobArchived():
            return "nothing of it is left on any host"
        case _:
            assert_never(event)


def tell_cluster(event: e.ClusterEvent) -> str:
    """For the log. Of a definition its name alone: its environment is the user's, and logs have
    other readers."""
    match event:
        case e.CoordinatorStarted():
            return f"start {event.epoch} with this journal"
        case e.ClusterKeyMade():
            return "the cluster has a key from now on"
        case e.OlderJournalAccepted():
            return (
                f"what host {event.host_id} has seen of start {event.life_id}, up to entry "
                f"{event.position}, is given up"
            )
        case e.DefinitionRegistered(definition=definition):
            return f"{definition.job_definition_name}:{definition.revision}"
        case e.DefinitionDeregistered() | e.DefinitionForgotten():
            return f"{event.name}:{event.revision}"
        case e.QueueCreated() | e.QueueUpdated():
            state = "ENABLED" if event.enabled else "DISABLED"
            return f"queue={event.name} {state} priority={event.priority}"
        case e.QueueDeleting() | e.QueueDeleted():
            return f"queue={event.name}"
        case e.HostRegistered():
            return (
                f"host={event.host_id} at {event.private_ipv4}, {event.instance_type}, "
                f"{event.engine}, {event.vcpus} vCPUs, {event.memory_mib} MiB, {event.gpus} GPUs; "
                f"agent {event.version} uuid={event.agent_uuid} boot={event.boot_id}"
            )
        case e.HostDrained():
            return f"host={event.host_id} gets no new work: {event.reason or 'no reason given'}"
        case e.AgentStopped():
            on = ", ".join(map(str, event.goes_on)) or "nothing"
            return f"host={event.host_id} its agent was stopped in order; what goes on there: {on}"
        case e.HostResumed() | e.AgentReturned() | e.HostForgotten():
            return f"host={event.host_id}"
        case _:
            assert_never(event)


def _hosts(event: e.GangReserved) -> str:
    hosts = [placement.host_id for placement in event.placements]
    more = len(hosts) - _HOSTS_SHOWN
    return ", ".join(hosts[:_HOSTS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _votes(event: e.GangAbandoned) -> str:
    """Why, and what is left of this vote and those before it."""
    told = [event.reason]
    if event.votes > 1:
        told.append(f"this was vote {event.votes}")
    newest = sorted(event.refusals.items(), key=lambda each: -each[1].retry_after_ms)
    for host_id, refusal in newest[:_REFUSALS_SHOWN]:
        times = "" if refusal.count == 1 else f" {refusal.count} times, at last"
        told.append(f"host {host_id} refused{times}: {clip(refusal.reason, _REASON_CHARS)}")
    more = len(newest) - _REFUSALS_SHOWN
    if more > 0:
        told.append(f"and {more} more host{'' if more == 1 else 's'} refused")
    return "; ".join(told)


def _end(exit_code: int | None, reason: str, status_reason: str) -> str:
    code = "" if exit_code is None else f"exit code {exit_code}"
    return "; ".join(filter(None, (code, reason, status_reason)))
