"""What can arrive at the agent's machine. `wall_ms` is milliseconds since 1970 on the host's clock,
for people to read; decisions use the machine's own `now`. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.assignment import Assignment, FoundLease, NodeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A container that the engine has at the agent's start; `started_at_ms` 0 if it never ran."""

    key: NodeKey
    started_at_ms: int = 0
    private_ipv4: str = ""
    lease: FoundLease | None = None
    """None for a node of an older release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What the engine still has, once it answers."""

    managed: tuple[Found, ...]
    rebooted: bool
    wall_ms: int


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Welcome has come: a session is open."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    pass


HELLO_SEQ = 0
"""A Hello is a session's heartbeat number 0, and Welcome its acknowledgement: the lease runs anew
before the first assignment of the session comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatSent:
    """`at_ms` is when it was sent, on the machine's clock: by the time that this is handled the
    coordinator may have had it for long, and may count the lease from then."""

    seq: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAcked:
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSeen:
    """How new the coordinator's journal is, as it says itself; opaque, and never empty."""

    token: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportAcked:
    """All reports of this session up to `seq` are durable."""

    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentsReceived:
    generation: int
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`private_ipv4` is the address that the container will have; empty for the host's."""

    key: NodeKey
    private_ipv4: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareFailed:
    key: NodeKey
    reason: str
    permanent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedUp:
    key: NodeKey
    started_at_ms: int
    private_ipv4: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFailed:
    """`uncertain`: the engine did not answer, so the container may or may not run. `not_started`:
    nothing of it ever ran. `permanent`: no other host would do better."""

    key: NodeKey
    reason: str
    uncertain: bool
    wall_ms: int
    not_started: bool = False
    permanent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifted:
    """The command that waited in its container has been let go."""

    key: NodeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftFailed:
    key: NodeKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """`lease_ended`: it did not end by itself, but because its lease was over."""

    key: NodeKey
    exit_code: int | None
    reason: str
    stopped_at_ms: int
    lease_ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitFailed:
    key: NodeKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    key: NodeKey
    wall_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopFailed:
    key: NodeKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """Proven: the container, its processes and its files are gone."""

    key: NodeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveFailed:
    key: NodeKey
    reason: str


Input = (
    Started
    | LinkUp
    | LinkDown
    | HeartbeatSent
    | HeartbeatAcked
    | JournalSeen
    | ReportAcked
    | AssignmentsReceived
    | Tick
    | Prepared
    | PrepareFailed
    | StartedUp
    | StartFailed
    | Lifted
    | LiftFailed
    | Ended
    | WaitFailed
    | Stopped
    | StopFailed
    | Removed
    | RemoveFailed
)
