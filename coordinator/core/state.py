"""What the coordinator knows: data only, changed by `evolve.py` alone.

Everything here but `Presence` is rebuilt from the journal. Dicts keep insertion order and are
iterated in it; nothing iterates a set. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.core.definition import JobDefinition, JobSpec, NodeGroup
from coordinator.core.events import HostRegistered, TimeLimitAction
from coordinator.core.ids import HostId, JobId, NodeKey, SessionId
from coordinator.core.inputs import HostHello
from coordinator.core.job_events import Refusal
from coordinator.core.states import JobState, NodeState, Progress


@dataclass(slots=True, kw_only=True)
class NodeRun:
    """One node of one attempt. Times are 0 until they are known."""

    node_index: int
    host_id: HostId
    state: NodeState
    since_ms: int
    launched_at_ms: int = 0
    started_at_ms: int = 0
    stopped_at_ms: int = 0
    private_ipv4: str = ""
    """Promised by its host's vote; from RUNNING on what the container has."""
    promised_ipv4: str = ""
    """Where its peers are told to look for it: a vote without an address means the host's own."""
    exit_code: int | None = None
    reason: str = ""
    status_reason: str = ""
    stop_reason: str | None = None
    """Set when a user asked for this child alone to end."""
    unclean_reason: str = ""
    released: bool = False
    """Proven: nothing of it is left on its host. Never set on intent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """Where all nodes of an attempt are, by node index, and how many processes each takes."""

    main_node: int
    addresses: tuple[str, ...]
    host_ids: tuple[HostId, ...]
    slots: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One try of the whole gang. `started` uses the number up; before it, hosts only vote."""

    number: int
    reserved_at_ms: int
    lease_seconds: int | None = None
    stop_grace_seconds: int | None = None
    """What its hosts were told; None in journals of older releases. Read `lease.py`."""
    nodes: dict[int, NodeRun] = field(default_factory=dict)
    prepared: int = 0
    """How many nodes are PREPARED; kept so that a vote costs the same for 2 and 1000 nodes."""
    unreleased: int = 0
    """How many nodes are not released, for the same reason."""
    up: int = 0
    """How many nodes have come to run, also those that have ended since."""
    promised: dict[str, int] = field(default_factory=dict)
    """Which node an address is promised to; empty once started, as the gang then says it."""
    started: bool = False
    gang: Gang | None = None
    """Set once all have voted; kept, so that telling every node of every other costs one pass."""
    barrier_lifted: bool = False
    stop_cause: str | None = None
    stop_may_retry: bool = False
    over: bool = False
    exit_code: int | None = None
    reason: str = ""
    status_reason: str = ""
    started_at_ms: int = 0
    stopped_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Since when a job cannot be placed for one reason: on the clock since the boot `boot_id`."""

    code: str
    boot_id: str
    boot_ms: int


@dataclass(slots=True, kw_only=True)
class Job:
    """`order` is its place in line for ever: a retry does not go to the back."""

    job_id: JobId
    job_queue: str
    spec: JobSpec
    order: int
    created_at_ms: int
    state: JobState
    client_token: str | None = None
    waits_for: dict[JobId, None] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    refusals: dict[HostId, Refusal] = field(default_factory=dict)
    blocked: Blocked | None = None
    """Since when it cannot be placed; kept only in queues with time limits."""
    foldable: int | None = 0
    """How many of the newest entries of its stream a vote that is given up now stands for; None
    when something else has happened since the vote began. Read `folding.py`."""
    is_blocked_last: bool = False
    """The newest entry of its stream is a PlacementBlocked."""
    abandoned_votes: int = 0
    """How many votes were given up since the last attempt."""
    started_at_ms: int = 0
    stopped_at_ms: int = 0
    status_reason: str = ""
    cancelled: bool = False
    terminated: bool = False
    set_aside: str = ""
    """Why the job is UNREADABLE; empty for every other job."""
    may_be_on: dict[HostId, None] = field(default_factory=dict)
    """Hosts that may have something of an UNREADABLE job left."""

    @property
    def current(self) -> Attempt | None:
        """The attempt that votes or runs now."""
        return self.attempts[-1] if self.attempts and not self.attempts[-1].over else None

    @property
    def permanent_refusals(self) -> int:
        """How many hosts say that the job can start nowhere."""
        return sum(refusal.permanent for refusal in self.refusals.values())

    @property
    def unsettled(self) -> bool:
        """Something of an attempt that is over may still be on a host."""
        return any(attempt.over and attempt.unreleased for attempt in self.attempts)

    @property
    def is_being_stopped(self) -> bool:
        """Its attempt runs although somebody or something has asked for its end."""
        attempt = self.current
        return attempt is not None and attempt.started and attempt.stop_cause is not None

    def node(self, key: NodeKey) -> NodeRun | None:
        if not 1 <= key.attempt <= len(self.attempts):
            return None
        return self.attempts[key.attempt - 1].nodes.get(key.node_index)

    def group_of(self, node_index: int) -> NodeGroup:
        return next(group for group in self.spec.groups if node_index in group.nodes)


@dataclass(slots=True, kw_only=True)
class Queue:
    name: str
    priority: int
    enabled: bool
    deleting: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    time_limits: tuple[TimeLimitAction, ...] = ()
    runnable: list[tuple[int, JobId]] = field(default_factory=list)
    """RUNNABLE jobs with no hosts reserved, by `order`."""
    live: dict[JobId, None] = field(default_factory=dict)
    """Its jobs that are still in memory."""


@dataclass(slots=True, kw_only=True)
class Revision:
    definition: JobDefinition
    active: bool
    changed_at_ms: int


@dataclass(slots=True, kw_only=True)
class Host:
    """`holds` are the nodes placed here that are not yet both over and released; a host with one
    takes no other."""

    facts: HostRegistered
    draining: bool = False
    drain_reason: str = ""
    holds: dict[NodeKey, None] = field(default_factory=dict)
    stopped_at_ms: int = 0
    """When its agent said goodbye; 0 when it has not, or is back."""
    goes_on: dict[NodeKey, None] = field(default_factory=dict)
    """What runs on without its agent. No time that passes says anything of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How long a node had run at a moment of the coordinator's clock."""

    key: NodeKey
    ms: int
    at_ms: int


@dataclass(slots=True, kw_only=True)
class Presence:
    """What is known of a host only while this process lives; never journaled."""

    last_contact_ms: int
    """When the newest heartbeat was handled; at a start, the start itself (a fresh lease). Times
    here are on the coordinator's clock."""
    session_id: SessionId | None = None
    incarnation: int = 0
    """Of the newest Hello; an older one is late, or of an older copy of the agent's ledger."""
    waiting: SessionId | None = None
    """A session that waits to be opened."""
    seen: bool = False
    lost: bool = False
    away: bool = False
    """Silent for longer than the cluster's verdict: nobody waits for its capacity."""
    verdict_at_ms: int | None = None
    """When what runs on a lost host counts as failed, as long as the coordinator listens on."""
    unusable_reason: str = ""
    unusable_since_ms: int = 0
    wall_less_clock_ms: int | None = None
    """What its wall clock said less what the coordinator's clock said then, so that a step of the
    coordinator's own wall clock shows at once; None when its agent has not said."""
    asked_ms: int = 0
    """When the host was last asked for a vote."""
    ran: Ran | None = None
    blamed: dict[str, JobId] = field(default_factory=dict)
    """Of each definition the newest job whose main failed to start here, and then ran on another
    host."""
    strays: dict[NodeKey, None] = field(default_factory=dict)
    """What the agent holds although nothing places it there: it must let go first."""
    kept: dict[NodeKey, Progress] = field(default_factory=dict)
    """What the agent has and is let be, and how far it is: nodes of UNREADABLE jobs, and what an
    older journal does not know."""
    owed_ack: int | None = None
    """The newest report of the session that is durable and not acknowledged yet."""

    @property
    def is_here(self) -> bool:
        """Whether its agent is connected, and heard."""
        return self.session_id is not None and not self.lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A Hello that contradicts the session before, and since when it waits. Read `hello.py`."""

    hello: HostHello
    since_ms: int
    is_asked: bool = False
    """Its agent has been asked whether it is still there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A job that has left memory: dependencies and client tokens still ask for it."""

    state: JobState
    client_token: str | None
    stopped_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outrun:
    """A host has seen more than this journal knows: of that life, up to that entry."""

    host_id: HostId
    life_id: str
    position: int
    is_known: bool
    """The journal knows the life, though not all of it."""


@dataclass(slots=True, kw_only=True)
class ClusterState:
    epoch: int = 0
    cluster_key: str = field(default="", repr=False)
    """Tells tokens of this cluster from others (`lineage.py`); for no log, reply or story."""
    life_id: str = ""
    """Of the newest start; empty while it is that of an older release."""
    lives: dict[str, int | None] = field(default_factory=dict)
    """The starts that have an id, in order, and the number of the newest entry that each can have
    told of; None for the newest."""
    given_up: dict[str, None] = field(default_factory=dict)
    """Starts of a newer journal that an operator has given up."""
    was_to_accept: bool = False
    """Whether the newest start was given `--accept-older-journal`."""
    next_order: int = 1
    definitions: dict[str, dict[int, Revision]] = field(default_factory=dict)
    last_revision: dict[str, int] = field(default_factory=dict)
    queues: dict[str, Queue] = field(default_factory=dict)
    hosts: dict[HostId, Host] = field(default_factory=dict)
    jobs: dict[JobId, Job] = field(default_factory=dict)
    ended: dict[JobId, Ended] = field(default_factory=dict)
    tokens: dict[str, JobId] = field(default_factory=dict)
    dependents: dict[JobId, dict[JobId, None]] = field(default_factory=dict)
    presence: dict[HostId, Presence] = field(default_factory=dict)
    sessions: dict[SessionId, HostId] = field(default_factory=dict)
    waiting: dict[SessionId, Waiting] = field(default_factory=dict)
    set_aside: dict[JobId, None] = field(default_factory=dict)
    """Jobs that are UNREADABLE."""
    leaving: dict[str, dict[JobId, None]] = field(default_factory=dict)
    """Ended jobs of which something may still be on a host, by job name."""
    passed_over: dict[JobId, float] = field(default_factory=dict)
    """Jobs that stand in line and hold up nobody, as no capacity would help them now, and until
    when nobody need look at them again: on the coordinator's clock, infinite when only something
    that happens can change it. `capacity.refresh` and `wake` bring them back."""
    passed_over_for: dict[JobId, dict[JobId, None]] = field(default_factory=dict)
    """Of these the jobs that wait until nothing of another job, or of their own, may still run."""
    counted_on: dict[HostId, HostRegistered] = field(default_factory=dict)
    could_run: dict[object, bool] = field(default_factory=dict)
    waiting_codes: dict[object, str] = field(default_factory=dict)
    """The hosts that waiting counts on, which shapes of jobs these could run, and why others wait.
    Read `capacity.py`."""
    shortage: str = ""
    """Why the journal should get nothing that can wait; empty when it has room."""
    position: int = 0
    """The number of the newest durable entry, as of the last token that was asked for."""
    hosts_awaited: int = 0
    """How many hosts must call yet before anything is placed after the start."""
    outrun: Outrun | None = None
    """The first host that has seen a newer journal. Read `placing.py`."""
    accepts_older: bool = False
    """An operator has said at this start, and not at the one before it, that this journal counts,
    whatever hosts have seen."""
    astray: dict[JobId, dict[tuple[HostId, NodeKey], None]] = field(default_factory=dict)
    """What runs of a job where this journal does not place it. Read `astray.py`."""
    boot_id: str = ""
    now_ms: int = 0
    wall_ms: int = 0
    """The coordinator's clock and the wall clock at the last step. All from `passed_over` on is of
    this process alone."""

    @property
    def may_start(self) -> bool:
        """Whether anything new may be placed or launched now."""
        return self.outrun is None and not self.hosts_awaited

    def wall_of(self, at_ms: int) -> int:
        """What people call the moment that the coordinator's clock calls `at_ms`."""
        return at_ms + self.wall_ms - self.now_ms
