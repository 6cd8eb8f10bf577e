"""What the agent's shell does between its inbox and its ledger, without a loop or a disk.

`daemon.py` runs it on asyncio and sqlite, `tests/sim` on a heap and a dict: both call the same, so
that the simulator sees what the daemon does. Must not import asyncio or an adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.core import inputs as i
from agent.core.assignment import NodeKey, Progress
from agent.core.effects import Effect, ForgetSlot, KeepSlot
from agent.core.machine import Machine
from agent.core.state import Slot
from agent.ledger.port import Ledger, LedgerContents, LedgerError


def step(machine: Machine, inputs: Sequence[i.Input], now_ms: int) -> list[Effect]:
    """Step all that is there. A deadline that has come is looked at last, and also when the inbox
    is never empty: a lease ends on time."""
    deadline_ms = machine.next_deadline()
    if deadline_ms is not None and deadline_ms <= now_ms:
        inputs = [*inputs, i.Tick()]
    return [effect for given in inputs for effect in machine.step(given, now_ms)]


class LeaseStore(Protocol):
    """Where the leases of nodes are for their holders; see `lease_file.Leases`."""

    def set(self, name: str, ends_at_ms: int | None, grace_seconds: int) -> None:
        """The lease of the node of that name ends then, or never. Raises OSError."""
        ...


def begin(ledger: Ledger, contents: LedgerContents, leases: LeaseStore, now_ms: int) -> Machine:
    """The machine of a start of the agent. All leases run before anybody hears of it: from its
    Hello on the coordinator counts too."""
    contact_ms = _last_contact_ms(ledger, contents, now_ms)
    machine = Machine(contents.slots, contact_ms, contents.journal_token)
    for lease in machine.leases():
        leases.set(lease.key.name, lease.ends_at_ms, lease.grace_seconds)
    return machine


def owner(host_id: str, machine: str) -> str:
    """Whose a ledger is: a copy of it on another machine is nobody's there."""
    return f"host {host_id} on machine {machine}"


def join(ledger: Ledger, before: str, cluster_id: str, coordinator: str) -> None:
    """From now on this agent is of that cluster. LedgerError for one that was of another: it has to
    begin anew, since what it holds is nothing to this coordinator."""
    ledger.keep_cluster(cluster_id)
    if before:
        raise LedgerError(
            f"the coordinator at {coordinator} is of another cluster than the one that this agent "
            "served before: what runs here is left to its lease, and the next start of the agent "
            "serves the other cluster. If that coordinator was started without its journal, stop "
            "it and bring the journal back; if it is the wrong one, correct the setting "
            "`coordinator` of this agent: what runs is found again while its lease lasts (it was "
            f"cluster {before}, this is {cluster_id})"
        )


def suspend_leases(machine: Machine, ledger: Ledger, leases: LeaseStore) -> None:
    """The coordinator knows that what runs goes on without its agent: nobody ends it before the
    next start, which begins its lease anew."""
    ledger.keep_contact(None)
    for lease in machine.leases():
        leases.set(lease.key.name, None, lease.grace_seconds)


def _last_contact_ms(ledger: Ledger, contents: LedgerContents, now_ms: int) -> int:
    """What leases count from until there is another contact. Where the ledger knows of none they
    begin with this start, which is written down: a later start must not begin anew."""
    if contents.last_contact_ms is not None:
        # It may be another boot's where the ledger lost its memory of boots.
        return min(contents.last_contact_ms, now_ms)
    ledger.keep_contact(now_ms)
    return now_ms


@dataclass(slots=True)
class LedgerChange:
    """What one batch of effects makes durable, all of it before any effect is acted on."""

    keep: dict[NodeKey, Slot] = field(default_factory=dict)
    forget: dict[NodeKey, None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.keep or self.forget)


def ledger_change(effects: Iterable[Effect]) -> LedgerChange:
    """The last word on a slot counts: it may be forgotten and made anew in one batch."""
    change = LedgerChange()
    for effect in effects:
        if isinstance(effect, KeepSlot):
            change.keep[effect.slot.key] = effect.slot
            change.forget.pop(effect.slot.key, None)
        elif isinstance(effect, ForgetSlot):
            change.forget[effect.key] = None
            change.keep.pop(effect.key, None)
    return change


class TailsTold:
    """Whose last output the open session has been sent. Once a session is enough: a tail is large,
    and the coordinator keeps it when it acknowledges the report."""

    def __init__(self) -> None:
        self._told: dict[NodeKey, None] = {}

    def is_due(self, slot: Slot) -> bool:
        """Whether the tail goes with a report of the slot that is made now; true once."""
        if slot.progress < Progress.EXITED or not slot.started_at_ms or slot.key in self._told:
            return False
        self._told[slot.key] = None
        return True

    def begin_session(self) -> None:
        """The session before may have ended before its reports arrived."""
        self._told.clear()

    def forget(self, keys: Iterable[NodeKey]) -> None:
        for key in keys:
            self._told.pop(key, None)
