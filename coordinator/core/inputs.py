"""What can arrive at the machine. Names, times and ids come with it: the core never asks.

No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.core.definition import JobDefinition, Submission
from coordinator.core.events import TimeLimitAction
from coordinator.core.identity import UNKNOWN_MACHINE, MachineId
from coordinator.core.ids import HostId, JobId, NodeKey, SessionId
from coordinator.core.states import Progress

# from users


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterDefinition:
    """Replies with the JobDefinition and its revision."""

    definition: JobDefinition
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeregisterDefinition:
    name: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Replies with the job's id. `new_job_id` is a fresh UUID, used if a job is made."""

    submission: Submission
    size_bytes: int
    new_job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    job_id: JobId
    node_index: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminate:
    job_id: JobId
    node_index: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateQueue:
    name: str
    priority: int
    enabled: bool = True
    tags: dict[str, str] = field(default_factory=dict)
    time_limits: tuple[TimeLimitAction, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateQueue:
    """A member that is None changes nothing."""

    name: str
    priority: int | None = None
    enabled: bool | None = None
    time_limits: tuple[TimeLimitAction, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteQueue:
    name: str


# from operators


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainHost:
    host_id: HostId
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeHost:
    host_id: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceHost:
    host_id: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetHost:
    host_id: HostId


# from agents


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All that an agent knows of one node; holds everything that it said before."""

    key: NodeKey
    progress: Progress
    private_ipv4: str = ""
    exit_code: int | None = None
    reason: str = ""
    permanent: bool = False
    unclean_reason: str = ""
    was_up: bool = False
    """The container ran at some time, also when it has ended since."""
    ran_ms: int | None = None
    """How long the container has run, by the host's clock since boot; None when it does not run,
    or its agent does not say."""
    not_started: bool = False
    """It has certainly failed to start: nothing of it ran."""
    lease_ended: bool = False
    """It was stopped because its lease ran out."""
    log_tail: bytes | None = None
    log_tail_offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostHello:
    session_id: SessionId
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
    observed: tuple[Observation, ...] = ()
    unusable_reason: str = ""
    incarnation: int = 0
    """Grows with each Hello of the agent, over its restarts."""
    journal_token: bytes = b""
    """What the host has seen of the journal (`lineage.py`); empty when its agent does not say."""
    machine: MachineId = UNKNOWN_MACHINE
    previous_boot_id: str = ""
    """The boot that the agent's ledger knew when the agent began; empty when it knew none."""
    answers_inquiries: bool = False
    is_attached: bool = False
    """The agent has looked at its host for the nodes of `cluster_id`: what it does not name is not
    there."""
    cluster_id: str = ""
    """What its agent belonged to when it began; empty when it belonged to none, or does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostHeartbeat:
    session_id: SessionId
    seq: int
    wall_ms: int = 0
    """The host's wall clock when it was sent; 0 when its agent does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    session_id: SessionId
    seq: int
    observations: tuple[Observation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostGoodbye:
    """The agent stops in order, and these nodes go on without it."""

    session_id: SessionId
    goes_on: tuple[NodeKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded:
    """The stream closed. By itself this means nothing: only silence makes a host lost."""

    session_id: SessionId


# from the journal


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSeen:
    """How the coordinator's disk is."""

    shortage: str
    """Why nothing should be written that can wait; empty when there is room."""


# from time


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A deadline that `Machine.next_deadline` named may have passed."""


Input = (
    RegisterDefinition
    | DeregisterDefinition
    | Submit
    | Cancel
    | Terminate
    | CreateQueue
    | UpdateQueue
    | DeleteQueue
    | DrainHost
    | ResumeHost
    | FenceHost
    | ForgetHost
    | HostHello
    | HostHeartbeat
    | HostReport
    | HostGoodbye
    | SessionEnded
    | RoomSeen
    | Tick
)
