"""What one agent knows of the nodes it was given: data only. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from agent.core.assignment import Assignment, Desired, FoundLease, NodeKey, Progress

RETRY_FIRST_MS = 1_000
RETRY_MAX_MS = 60_000


class Work(StrEnum):
    """What the engine is doing for a slot right now; one verb at a time, but for WAIT."""

    IDLE = "IDLE"
    PREPARE = "PREPARE"
    START = "START"
    LIFT = "LIFT"
    STOP = "STOP"
    REMOVE = "REMOVE"


@dataclass(slots=True, kw_only=True)
class Slot:
    """One node on this host, from its assignment until it is released.

    The members up to `unclean_reason` are in the ledger, written before the engine is asked to
    act on them; the rest is of this process alone.
    """

    key: NodeKey
    desired: Desired
    assignment: Assignment | None
    """None for a container that was found and that no assignment named."""
    progress: Progress = Progress.ASSIGNED
    started_at_ms: int = 0
    private_ipv4: str = ""
    """Promised with the vote; from RUNNING on what the container has. Empty: the host's."""
    exit_code: int | None = None
    reason: str = ""
    permanent: bool = False
    stopped_at_ms: int = 0
    up_boot_ms: int | None = None
    """When the container came up, on the host's clock since its boot; while it is STARTING, when
    that began. None before."""
    start_is_doubtful: bool = False
    """A start of it was begun whose outcome nobody knows: it may have run."""
    not_started: bool = False
    """The container has certainly failed to start."""
    lease_over: bool = False
    """Its lease ran out before anybody else asked for its end."""
    lease_ended: bool = False
    """It was stopped because its lease ran out; one whose lease is over may have ended before."""
    found_lease: FoundLease | None = None
    """Of a container that was found, until an assignment names it."""
    found_boot_ms: int = 0
    """When it was found, on the host's clock since its boot."""
    held: bool = False
    """Started, or being started, with its command waiting in the container."""
    unclean_reason: str = ""

    work: Work = Work.IDLE
    waiting: bool = False
    """The engine's `wait` runs for this slot."""
    known: bool = True
    """The newest assignments of this session name it; else it is stopped after a grace."""
    confirmed: bool = False
    """Assignments that came to this process name it. Nothing is started on the word of a ledger
    alone: the coordinator may have given the node up while the agent was away."""
    retry_at_ms: int | None = None
    """When to ask the engine again for what failed."""
    failures: int = 0

    @property
    def may_run(self) -> bool:
        """Something of it may be on the host: it may never be forgotten without proof."""
        return Progress.STARTING <= self.progress < Progress.RELEASED

    def retry_later(self, now_ms: int) -> None:
        """The engine failed: ask it again after a pause, which doubles."""
        self.failures += 1
        pause_ms = min(RETRY_FIRST_MS * 2 ** min(self.failures - 1, 16), RETRY_MAX_MS)
        self.retry_at_ms = now_ms + pause_ms

    def keeps_promise(self, assignment: Assignment) -> bool:
        """Whether the node's own address, if it has one, is the one that its gang was told."""
        gang = assignment.gang
        if gang is None or not self.private_ipv4:
            return True
        return gang.addresses[self.key.node_index] == self.private_ipv4


@dataclass(slots=True, kw_only=True)
class AgentState:
    slots: dict[NodeKey, Slot] = field(default_factory=dict)
    attached: bool = False
    """The engine has said what it still has. Until then only stops are asked of it."""
    generation: int = 0
    connected: bool = False
    heartbeats: dict[int, int] = field(default_factory=dict)
    """seq -> when it was sent, for those not yet acknowledged."""
    last_contact_ms: int = 0
    """When the newest acknowledged heartbeat was *sent*: the coordinator cannot have counted
    from any earlier moment, so the lease ends here first."""
    journal_token: bytes = b""
    """The newest that was seen of the coordinator's journal; each Hello says it."""
    next_report: int = 1
    released: dict[NodeKey, int] = field(default_factory=dict)
    """Released slot -> the first report of this session that told it; forgotten only once that is
    acknowledged, so that an assignment repeated after a lost report never starts a node again."""
    unknown_since_ms: int | None = None
    """Since when a connected session names none of some slots."""
