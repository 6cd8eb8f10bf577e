"""The durable facts: the journal's vocabulary, in past tense.

One class a fact; the class name is its kind in the journal, so a class is never renamed and a
member is never removed. A new member has a default: old journals do not have it. What is only true
while this process lives is `state.Presence`. The facts of jobs are in `job_events.py`. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.core.definition import JobDefinition
from coordinator.core.identity import UNKNOWN_MACHINE, MachineId
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.job_events import (
    AttemptEnded,
    AttemptRefused,
    AttemptStarted,
    AttemptStopRequested,
    BarrierLifted,
    ChildrenLaunched,
    DependencyEnded,
    GangAbandoned,
    GangReserved,
    JobArchived,
    JobFailed,
    JobFoundOnHost,
    JobLeftHost,
    JobPended,
    JobQueued,
    JobRetried,
    JobSetAside,
    JobSubmitted,
    JobSucceeded,
    MainNotStarted,
    NodeExited,
    NodeLost,
    NodePrepared,
    NodeRefused,
    NodeReleased,
    NodeReplaced,
    NodeRunning,
    NodeStopRequested,
    NodeUnclean,
    PlacementBlocked,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimitAction:
    """jobStateTimeLimitActions: cancel a job stuck at the head of its queue."""

    reason: str
    state: str
    max_time_seconds: int
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorStarted:
    """`epoch` counts starts; it makes every generation of this start larger than all before.
    `life_id` is random, and `position` the number of the newest entry before this one: read
    `lineage.py`. `accepts_older`: it was given `--accept-older-journal`."""

    epoch: int
    life_id: str = ""
    position: int = 0
    accepts_older: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterKeyMade:
    """The key that proves tokens to be of this cluster; made once, and never shown."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OlderJournalAccepted:
    """By an operator's word at this start: what a host has seen of that life, up to that entry, and
    this journal does not know, is given up."""

    life_id: str
    host_id: HostId
    position: int


# definitions and queues


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionRegistered:
    definition: JobDefinition


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionDeregistered:
    name: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionForgotten:
    """An INACTIVE revision outlived its retention; its number is still never used again."""

    name: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCreated:
    name: str
    priority: int
    enabled: bool = True
    tags: dict[str, str] = field(default_factory=dict)
    time_limits: tuple[TimeLimitAction, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueUpdated:
    """The whole of what can change, as it is after the update."""

    name: str
    priority: int
    enabled: bool
    time_limits: tuple[TimeLimitAction, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDeleting:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDeleted:
    name: str


# hosts


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRegistered:
    """An agent said who it is, and something of it was new."""

    host_id: HostId
    agent_uuid: str
    boot_id: str
    version: str
    engine: str
    instance_type: str
    vcpus: int
    memory_mib: int
    gpus: int
    private_ipv4: str
    labels: dict[str, str] = field(default_factory=dict)
    machine: MachineId = UNKNOWN_MACHINE


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDrained:
    host_id: HostId
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostResumed:
    host_id: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStopped:
    """An agent said that it stops in order, and which of its nodes go on without it, if any. Its
    silence says nothing of those until it is back, or an operator fences the host."""

    host_id: HostId
    goes_on: tuple[NodeKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentReturned:
    """An agent that had stopped in order is back, and what went on without it has leases again."""

    host_id: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class HostForgotten:
    """An operator said that the host will not come back; nothing of ours could run there."""

    host_id: HostId


JobEvent = (
    JobSubmitted
    | JobPended
    | DependencyEnded
    | JobQueued
    | PlacementBlocked
    | GangReserved
    | NodePrepared
    | NodeRefused
    | NodeReplaced
    | GangAbandoned
    | AttemptRefused
    | AttemptStarted
    | MainNotStarted
    | ChildrenLaunched
    | NodeRunning
    | BarrierLifted
    | NodeStopRequested
    | NodeExited
    | NodeLost
    | NodeUnclean
    | NodeReleased
    | AttemptStopRequested
    | AttemptEnded
    | JobRetried
    | JobSucceeded
    | JobFailed
    | JobSetAside
    | JobFoundOnHost
    | JobLeftHost
    | JobArchived
)
ClusterEvent = (
    CoordinatorStarted
    | ClusterKeyMade
    | OlderJournalAccepted
    | DefinitionRegistered
    | DefinitionDeregistered
    | DefinitionForgotten
    | QueueCreated
    | QueueUpdated
    | QueueDeleting
    | QueueDeleted
    | HostRegistered
    | HostDrained
    | HostResumed
    | AgentStopped
    | AgentReturned
    | HostForgotten
)
Event = JobEvent | ClusterEvent

ALL_EVENTS: tuple[type, ...] = (*ClusterEvent.__args__, *JobEvent.__args__)


def stream_of(event: Event) -> str:
    """The journal stream an event belongs to."""
    match event:
        case CoordinatorStarted() | ClusterKeyMade() | OlderJournalAccepted():
            return "coordinator"
        case DefinitionRegistered():
            return f"definition/{event.definition.job_definition_name}"
        case DefinitionDeregistered() | DefinitionForgotten():
            return f"definition/{event.name}"
        case QueueCreated() | QueueUpdated() | QueueDeleting() | QueueDeleted():
            return f"queue/{event.name}"
        case HostRegistered() | HostDrained() | HostResumed() | HostForgotten():
            return f"host/{event.host_id}"
        case AgentStopped() | AgentReturned():
            return f"host/{event.host_id}"
        case _:
            return f"job/{event.job_id}"
