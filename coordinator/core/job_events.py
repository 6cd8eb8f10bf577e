"""The durable facts of jobs. The rules for all facts are in `events.py`, which has them all.

No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.core.definition import JobSpec
from coordinator.core.ids import HostId, JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    node_index: int
    host_id: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted:
    job_id: JobId
    job_queue: str
    spec: JobSpec
    waits_for: tuple[JobId, ...] = ()
    client_token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPended:
    job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class DependencyEnded:
    """A job that this one waited for has SUCCEEDED."""

    job_id: JobId
    dependency: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQueued:
    job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementBlocked:
    """Since now the job cannot be placed for the reason that `code` names. The time is that of the
    machine's clock since its boot, so that it means the same after a restart on that boot. Only
    the newest reason counts, and hosts that come and go change it again and again: it may replace
    the entry before it (`folding.py`)."""

    job_id: JobId
    code: str
    boot_id: str
    boot_ms: int
    replaces: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GangReserved:
    """A free host for every node: all or none. Uses up no attempt yet. The lease and the stop
    grace are what these hosts are told (older releases did not journal them)."""

    job_id: JobId
    attempt: int
    placements: tuple[Placement, ...]
    lease_seconds: int | None = None
    stop_grace_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePrepared:
    """The host voted yes; `private_ipv4` is the address that the node will have there."""

    job_id: JobId
    attempt: int
    node_index: int
    private_ipv4: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRefused:
    """The host voted no, or did not answer in time; it is handed back. `retry_after_ms` is when
    this job may be offered the host again."""

    job_id: JobId
    attempt: int
    node_index: int
    host_id: HostId
    reason: str
    permanent: bool = False
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReplaced:
    """Another host takes the place of one that refused."""

    job_id: JobId
    attempt: int
    node_index: int
    host_id: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The newest that a host said against a job, and how often it has refused it."""

    reason: str
    permanent: bool
    retry_after_ms: int
    """On the wall clock."""
    count: int = 1
    not_started: bool = False
    """It voted yes, and then the main could not be started there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GangAbandoned:
    """All hosts of the vote are handed back; the attempt's number is used again. `votes` counts
    the votes that were given up for it so far, and the rest is what is left of them: a journal
    keeps this in place of the newest `replaces` entries of its stream (`folding.py`). 0 votes in
    what older releases wrote: the entries of the vote are still there, and say it all."""

    job_id: JobId
    attempt: int
    reason: str
    votes: int = 0
    refusals: dict[HostId, Refusal] = field(default_factory=dict)
    started_at_ms: int = 0
    """Of the job; 0 also when a main was to start in the vote."""
    replaces: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRefused:
    """Enough hosts say that the job can start nowhere: the attempt is used up, nobody ran."""

    job_id: JobId
    attempt: int
    reason: str
    status_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted:
    """All voted yes: the main node, and it alone, is launched."""

    job_id: JobId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MainNotStarted:
    """The main's container could not be started and nothing of it ran: its host is handed back,
    and the others vote on with the same attempt."""

    job_id: JobId
    attempt: int
    node_index: int
    host_id: HostId
    reason: str
    permanent: bool = False
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildrenLaunched:
    """The main node runs and its address is known: every child is launched."""

    job_id: JobId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRunning:
    job_id: JobId
    attempt: int
    node_index: int
    private_ipv4: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BarrierLifted:
    """Every node runs: the children's commands may start."""

    job_id: JobId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStopRequested:
    """A user asked for this child alone to end."""

    job_id: JobId
    attempt: int
    node_index: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeExited:
    """The container ended, or could not be started (`exit_code` None, `reason` says why)."""

    job_id: JobId
    attempt: int
    node_index: int
    exit_code: int | None
    reason: str
    status_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLost:
    """The node's host is gone; its container may still run until it is released or fenced."""

    job_id: JobId
    attempt: int
    node_index: int
    status_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUnclean:
    """The host cannot prove that nothing is left; it is quarantined until it can."""

    job_id: JobId
    attempt: int
    node_index: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReleased:
    """Nothing of the node is left on its host; `proof` says how that is known."""

    job_id: JobId
    attempt: int
    node_index: int
    proof: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStopRequested:
    """The attempt must end: a timeout, a barrier or a user. The first cause wins and is kept.
    `may_retry`: the job may be tried again afterwards."""

    job_id: JobId
    attempt: int
    cause: str
    by_user: bool
    may_retry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded:
    """The main node has ended, and so has the attempt; children are being stopped."""

    job_id: JobId
    attempt: int
    exit_code: int | None
    reason: str
    status_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRetried:
    job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSucceeded:
    job_id: JobId
    status_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed:
    job_id: JobId
    status_reason: str
    cancelled: bool = False
    terminated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSetAside:
    """A row of the job could not be read, so all its rows were set aside by `repair`. What is said
    here is what the others say: empty or None when that is lost too. `host_ids` may have something
    of it left."""

    job_id: JobId
    reason: str
    job_queue: str = ""
    spec: JobSpec | None = None
    client_token: str | None = None
    host_ids: tuple[HostId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFoundOnHost:
    """An agent has something of a job that was set aside."""

    job_id: JobId
    host_id: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLeftHost:
    """Nothing of a job that was set aside is left on the host; `proof` says how that is known."""

    job_id: JobId
    host_id: HostId
    proof: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobArchived:
    """Ended, and gone from every host: its final record is written and it leaves memory."""

    job_id: JobId
