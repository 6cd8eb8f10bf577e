"""The work of the agent's shell, in order. Ledger effects become durable before any engine or
report effect that follows them is acted on. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.assignment import ContainerSpec, Gang, NodeKey
from agent.core.state import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepSlot:
    """Write the slot's durable members to the ledger, as they are when this is handled."""

    slot: Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetSlot:
    key: NodeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepContact:
    """Remember when the lease of everything here was last renewed."""

    last_contact_ms: int


@dataclass(frozen=True, slots=True)
class Attached:
    """What is here is known from now on: the host can be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLease:
    """Tell whoever holds the node's lease when it ends, on the host's clock since boot; None is
    never. Comes before the node is started, and is done as soon as it is told."""

    key: NodeKey
    ends_at_ms: int | None
    grace_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepToken:
    """Remember the newest that was seen of the coordinator's journal."""

    token: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    key: NodeKey
    spec: ContainerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelPrepare:
    """Nobody needs it any more; answered by PrepareFailed as any other."""

    key: NodeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """`gang` is None only for a gang that an older coordinator did not tell. `hold`: the command
    waits in its container for Lift. `lease_seconds` is for who finds the node; 0 is for ever."""

    key: NodeKey
    spec: ContainerSpec
    gang: Gang | None
    hold: bool
    lease_seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    key: NodeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """`began_at_ms` is when it came up, as the engine said then: a later start is not its own."""

    key: NodeKey
    began_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    key: NodeKey
    grace_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLease:
    """As Stop, of a node whose lease is over: how it ends is then no result of its own.
    `grace_seconds` is what is left of the grace, which began with the end of the lease."""

    key: NodeKey
    grace_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    key: NodeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Tell the coordinator all that is known of these slots."""

    seq: int
    slots: tuple[Slot, ...]


Effect = (
    KeepSlot
    | ForgetSlot
    | KeepContact
    | Attached
    | SetLease
    | KeepToken
    | Prepare
    | CancelPrepare
    | Start
    | Lift
    | Wait
    | Stop
    | EndLease
    | Remove
    | Report
)
