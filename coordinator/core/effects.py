"""The work the shell does once the events of a step are durable, and never before. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.core.container import ContainerProperties
from coordinator.core.events import Event
from coordinator.core.ids import HostId, JobId, NodeKey, SessionId
from coordinator.core.state import Gang, Job
from coordinator.core.states import Desired


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContainer:
    """What to run: complete, but for the main's address while only preparing. `properties` are
    as the user wrote them, one object for all nodes of a group; what is here beside them is what
    came of them."""

    properties: ContainerProperties
    own_variables: tuple[tuple[str, str], ...]
    """AWS's, which nobody can override; the user's are in `properties`. Apart, since a thousand
    nodes have the same thousand variables of the user's, and each a few of its own."""
    vcpus: int
    memory_mib: int
    gpus: int

    def environment(self) -> dict[str, str]:
        """All variables: the user's, then AWS's (aws-batch-spec section 14)."""
        pairs = self.properties.environment
        variables = {pair.name: pair.value or "" for pair in pairs if pair.name}
        return variables | dict(self.own_variables)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    key: NodeKey
    desired: Desired
    container: NodeContainer | None
    """None with STOP."""
    stop_grace_seconds: int
    lease_seconds: int
    gang: Gang | None = None
    """None until all have voted, and with STOP."""
    hold: bool = False
    """The command waits in its container until the start barrier is lifted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendWelcome:
    session_id: SessionId
    heartbeat_ms: int
    cluster_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAssignments:
    session_id: SessionId
    generation: int
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAck:
    session_id: SessionId
    report_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SendHeartbeatAck:
    session_id: SessionId
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SendGoodbyeAck:
    session_id: SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class SendInquiry:
    """A Hello that has waited: is its agent still there?"""

    session_id: SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseSession:
    """End a session unasked: a newer one of the same agent took over, or (`is_refusal`) it waited
    to be opened and may not be."""

    session_id: SessionId
    message: str
    is_refusal: bool = False


Effect = (
    SendWelcome
    | SendAssignments
    | SendAck
    | SendHeartbeatAck
    | SendGoodbyeAck
    | SendInquiry
    | CloseSession
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamped:
    """An event and when it became a fact."""

    at_ms: int
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The last output of a node, to be kept beside the events."""

    key: NodeKey
    offset: int
    data: bytes


Reply = object
"""What an input's sender gets: a value of the kind its input names, or a Rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A host has become lost, or was heard again after it had been; `silent_ms` until then."""

    host_id: HostId
    is_lost: bool
    silent_ms: int
    holds: tuple[NodeKey, ...]


@dataclass(slots=True, kw_only=True)
class Step:
    """What one step asks of the shell, in this order: make `events`, `tails` and `archived`
    durable in one commit; then replies and effects. `replies[i]` answers `inputs[i]`."""

    events: list[Stamped] = field(default_factory=list)
    tails: list[Tail] = field(default_factory=list)
    archived: list[Job] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    """For operators alone."""
    changed_nodes: dict[JobId, dict[int, None]] = field(default_factory=dict)
    """Which nodes of which jobs look different now; a job without nodes changed itself."""
