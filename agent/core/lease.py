"""The lease of a node: how long it may run without contact, and how it ends then.

The agent's machine says when; who ends the node is the engine and, without the agent, the lease's
holder. Must not import anything outside `agent.core`.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.assignment import Progress
from agent.core.effects import EndLease, SetLease
from agent.core.inputs import Found
from agent.core.state import Slot

UNKNOWN_GRACE_MS = 60_000
"""How long a container that the coordinator does not name goes on: long enough for an operator to
notice that a coordinator came up with the wrong data directory."""
DEFAULT_GRACE_SECONDS = 30
LEASE_OVER = "MusterLeaseError: no contact with the coordinator for {seconds} s"


def is_held(slot: Slot) -> bool:
    """Whether the lease has a holder who has to know when it ends."""
    return slot.may_run and slot.progress < Progress.EXITED and not slot.lease_over


def ends_at_ms(slot: Slot, last_contact_ms: int) -> int | None:
    """When the lease ends, if there is no contact after that one; None is never."""
    found = slot.found_lease if slot.assignment is None else None
    if found is not None and last_contact_ms <= slot.found_boot_ms:
        # What it was told before it was found: nothing newer is known.
        return found.ends_at_ms
    lease_ms = _lease_ms(slot)
    return last_contact_ms + lease_ms if lease_ms else None


def told(slot: Slot, last_contact_ms: int) -> SetLease:
    """What the lease's holder has to know."""
    ends = ends_at_ms(slot, last_contact_ms)
    return SetLease(key=slot.key, ends_at_ms=ends, grace_seconds=grace_seconds(slot))


def ending(slot: Slot, last_contact_ms: int, now_ms: int) -> EndLease:
    """With what is left of the grace: others count it from the end of the lease, whenever this
    agent gets to it."""
    grace = grace_seconds(slot)
    left_ms = (ends_at_ms(slot, last_contact_ms) or now_ms) + 1000 * grace - now_ms
    return EndLease(key=slot.key, grace_seconds=min(max(-(-left_ms // 1000), 0), grace))


def end(slot: Slot) -> None:
    """This is why the node ends: a code of its own, should it have one, says nothing of the job."""
    slot.lease_ended = True
    slot.reason = LEASE_OVER.format(seconds=_lease_ms(slot) // 1000)


def grace_seconds(slot: Slot) -> int:
    """From SIGTERM to SIGKILL."""
    if slot.assignment is not None:
        return slot.assignment.stop_grace_seconds
    return slot.found_lease.grace_seconds if slot.found_lease else DEFAULT_GRACE_SECONDS


def _lease_ms(slot: Slot) -> int:
    """0 is for ever."""
    if slot.assignment is None and slot.found_lease is not None:
        return 1000 * slot.found_lease.seconds
    if slot.assignment is None:
        # Found, and nobody has said for how long it may run without contact.
        return UNKNOWN_GRACE_MS
    return 1000 * slot.assignment.lease_seconds


def contact_ms(managed: Sequence[Found], now_ms: int) -> int:
    """The newest contact that the holders of what was found show. A ledger may be an older copy, or
    gone; a holder has the deadline that the newest contact gave it. Of one that a goodbye has taken
    away the lease begins anew now."""
    leases = [found.lease for found in managed if found.lease is not None and found.lease.seconds]
    told = [
        now_ms if each.ends_at_ms is None else each.ends_at_ms - 1000 * each.seconds
        for each in leases
    ]
    return min(max(told, default=0), now_ms)
