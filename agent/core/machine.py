"""The agent as a pure machine: assignments and engine results in, engine verbs and reports out.

One slot per node of an attempt. Its progress only grows, what is wanted of it only moves forward,
and it leaves only when the engine has proven that nothing is left. Times are milliseconds of the
host's monotonic clock, given by the shell. Must not import anything outside `agent.core`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from agent.core import inputs as i
from agent.core import lease
from agent.core.assignment import Assignment, ContainerSpec, Desired, NodeKey, Progress
from agent.core.effects import (
    Attached,
    CancelPrepare,
    Effect,
    ForgetSlot,
    KeepContact,
    KeepSlot,
    KeepToken,
    Lift,
    Prepare,
    Remove,
    Report,
    SetLease,
    Start,
    Stop,
    Wait,
)
from agent.core.lease import UNKNOWN_GRACE_MS
from agent.core.state import AgentState, Slot, Work

UNKNOWN = "MusterUnknownContainerError: the coordinator does not know this container"
FORGOTTEN = "CannotStartContainerError: its gang was told another address by older files"
_RANK = {Desired.PREPARE: 0, Desired.RUN: 1, Desired.STOP: 2}


class Machine:
    """Owns the slots. `step` is the only way to change it."""

    def __init__(
        self, slots: Sequence[Slot] = (), last_contact_ms: int = 0, journal_token: bytes = b""
    ) -> None:
        """`last_contact_ms` is what leases count from until there is another contact: what the
        ledger knows, else the time of this start. `journal_token` is what the ledger knows."""
        self.state = AgentState(
            slots={slot.key: slot for slot in slots},
            last_contact_ms=last_contact_ms,
            journal_token=journal_token,
        )
        self._effects: list[Effect] = []
        self._now = 0

    def step(self, given: i.Input, now: int) -> list[Effect]:
        """Take one input. The shell must make KeepSlot and ForgetSlot durable before it acts on
        any effect after them in the list."""
        self._effects = []
        self._now = now
        match given:
            case i.Started():
                self._started(given)
            case i.LinkUp():
                self._link_up()
            case i.LinkDown():
                self._link_down()
            case i.HeartbeatSent():
                self.state.heartbeats[given.seq] = given.at_ms
            case i.HeartbeatAcked():
                self._acked(given.seq)
            case i.JournalSeen():
                self.state.journal_token = given.token
                self._effects.append(KeepToken(token=given.token))
            case i.ReportAcked():
                self._report_acked(given.seq)
            case i.AssignmentsReceived():
                self._assign(given)
            case i.Tick():
                self._tick()
            case i.Prepared() | i.PrepareFailed():
                self._voted(given)
            case i.StartedUp() | i.StartFailed():
                self._launched(given)
            case i.Lifted() | i.LiftFailed():
                self._lifted(given)
            case i.Ended():
                self._ended(given)
            case i.WaitFailed():
                self._wait_failed(given)
            case i.Stopped() | i.StopFailed():
                self._stopped(given)
            case i.Removed() | i.RemoveFailed():
                self._removed(given)
            case _:
                assert_never(given)
        return self._effects

    def leases(self) -> list[SetLease]:
        """The lease of each node that may run: what its holder must know before anybody hears of
        this start. A goodbye may have suspended it."""
        contact_ms = self.state.last_contact_ms
        return [lease.told(slot, contact_ms) for slot in self._slots() if lease.is_held(slot)]

    def next_deadline(self) -> int | None:
        """When to call `step` with a Tick at the latest."""
        deadlines = [slot.retry_at_ms for slot in self.state.slots.values() if slot.retry_at_ms]
        if self.state.unknown_since_ms is not None:
            deadlines.append(self.state.unknown_since_ms + UNKNOWN_GRACE_MS)
        deadlines += [at for at in map(self._lease_ends, self.state.slots.values()) if at]
        return min(deadlines, default=None)

    # contact and lease

    def _started(self, given: i.Started) -> None:
        """Hold the ledger against what the engine still has; then go on where it stopped."""
        self.state.attached = True
        told_ms = lease.contact_ms(given.managed, self._now)
        if told_ms > self.state.last_contact_ms:
            self.state.last_contact_ms = told_ms
            self._effects.append(KeepContact(last_contact_ms=told_ms))
        running = {managed.key: managed for managed in given.managed}
        for slot in list(self.state.slots.values()):
            found = running.pop(slot.key, None)
            if given.rebooted and slot.may_run and slot.progress < Progress.EXITED:
                # exit_code stays None: the end was not seen by anybody.
                self._advance(slot, Progress.EXITED, stopped_at_ms=given.wall_ms)
            elif slot.progress is Progress.RUNNING and found is None:
                slot.reason = "MusterLostContainerError: the engine no longer has the container"
                self._advance(slot, Progress.EXITED, stopped_at_ms=given.wall_ms)
            elif slot.progress < Progress.STARTING and found is not None:
                # The ledger is an older copy, and what it says is of before its start was begun.
                running[slot.key] = found
            elif slot.progress is Progress.STARTING and found is not None and found.started_at_ms:
                up_boot_ms = self._came_up(found, given.wall_ms, slot.up_boot_ms or 0)
                self._up(slot, found.started_at_ms, found.private_ipv4, up_boot_ms)
            elif slot.progress is Progress.STARTING:
                # The agent before this one may have begun it.
                slot.start_is_doubtful = True
            elif slot.progress is Progress.RUNNING and found is not None and not slot.up_boot_ms:
                # The ledger is of an older release.
                slot.up_boot_ms = self._came_up(found, given.wall_ms)
        for slot in self.state.slots.values():
            self._renew(slot)
        for key, found in running.items():
            self._adopt(key, found, given.wall_ms)
        for slot in list(self.state.slots.values()):
            self._go_on(slot)
        self._effects.append(Attached())

    def _came_up(self, found: i.Found, wall_ms: int, not_before_ms: int = 0) -> int:
        """When a container came up unseen. The wall clock is all there is, and may have been set
        since: not before the start or the boot, so that no clock makes a young job old."""
        return max(self._now - max(wall_ms - found.started_at_ms, 0), not_before_ms)

    def _adopt(self, key: NodeKey, found: i.Found, wall_ms: int) -> None:
        """A container with our labels that the ledger does not know: report it, start nothing."""
        slot = Slot(
            key=key,
            desired=Desired.RUN,
            assignment=None,
            progress=Progress.RUNNING if found.started_at_ms else Progress.STARTING,
            started_at_ms=found.started_at_ms,
            up_boot_ms=self._came_up(found, wall_ms) if found.started_at_ms else None,
            private_ipv4=found.private_ipv4,
            start_is_doubtful=not found.started_at_ms,
            found_lease=found.lease,
            found_boot_ms=self._now,
            known=False,
        )
        self.state.slots[key] = slot
        self._effects.append(KeepSlot(slot=slot))
        self._renew(slot)

    def _link_up(self) -> None:
        """A new session: its generations start anew, and all is told again. Report numbers go on,
        so that no acknowledgement of an older report is taken for one of a newer."""
        self.state.connected = True
        self._acked(i.HELLO_SEQ)
        self.state.generation = 0
        self._report(*self.state.slots.values())

    def _link_down(self) -> None:
        self.state.connected = False
        self.state.unknown_since_ms = None
        self.state.heartbeats.clear()
        self.state.released.clear()

    def _report_acked(self, seq: int) -> None:
        for key in [key for key, told in self.state.released.items() if told <= seq]:
            del self.state.released[key], self.state.slots[key]
            self._effects.append(ForgetSlot(key=key))

    def _acked(self, seq: int) -> None:
        sent_at = self.state.heartbeats.pop(seq, None)
        if sent_at is None:
            return
        for older in [s for s in self.state.heartbeats if s < seq]:
            del self.state.heartbeats[older]
        if sent_at > self.state.last_contact_ms:
            self.state.last_contact_ms = sent_at
            self._effects.append(KeepContact(last_contact_ms=sent_at))
            for slot in self.state.slots.values():
                self._renew(slot)

    def _lease_ends(self, slot: Slot) -> int | None:
        """When the slot's container stops by itself for want of contact; None when never. Nothing
        runs by a vote, and nothing will without new contact, so a vote has no lease."""
        if slot.desired is not Desired.RUN or slot.progress >= Progress.EXITED:
            return None
        if not self.state.attached:
            # The ledger's last contact may be that of an older copy. Its holder has the newest.
            return None
        return lease.ends_at_ms(slot, self.state.last_contact_ms)

    def _renew(self, slot: Slot) -> None:
        """Tell the holder when the lease ends now. What is to be stopped keeps its last one."""
        if lease.is_held(slot) and slot.desired is Desired.RUN:
            self._effects.append(lease.told(slot, self.state.last_contact_ms))

    def _tick(self) -> None:
        for slot in list(self.state.slots.values()):
            lease_ends = self._lease_ends(slot)
            if lease_ends is not None and self._now >= lease_ends:
                slot.lease_over = True
                if not slot.may_run:
                    lease.end(slot)
                self._want(slot, Desired.STOP)
            if slot.retry_at_ms is not None and self._now >= slot.retry_at_ms:
                slot.retry_at_ms = None
                self._go_on(slot)
        since = self.state.unknown_since_ms
        if since is not None and self._now >= since + UNKNOWN_GRACE_MS:
            self.state.unknown_since_ms = None
            for slot in list(self.state.slots.values()):
                if not slot.known:
                    slot.reason = slot.reason or UNKNOWN
                    self._want(slot, Desired.STOP)

    # what is wanted

    def _assign(self, given: i.AssignmentsReceived) -> None:
        """Take over a full list; an older generation is ignored (omicron's rule)."""
        if given.generation <= self.state.generation:
            return
        if not self.state.attached:
            # Of another there may still be something here; the next session says it all again.
            for assignment in given.assignments:
                slot = self.state.slots.get(assignment.key)
                if slot is not None and assignment.desired is Desired.STOP:
                    self._want(slot, Desired.STOP)
            return
        self.state.generation = given.generation
        named = {assignment.key: assignment for assignment in given.assignments}
        for slot in list(self.state.slots.values()):
            slot.known = slot.key in named
            slot.confirmed = slot.known
            if not slot.known and not slot.may_run:
                self._want(slot, Desired.STOP)
        unknown = any(not s.known and s.desired is not Desired.STOP for s in self._slots())
        if not unknown:
            self.state.unknown_since_ms = None
        elif self.state.unknown_since_ms is None:
            self.state.unknown_since_ms = self._now
        for assignment in given.assignments:
            self._take(assignment)

    def _slots(self) -> list[Slot]:
        return list(self.state.slots.values())

    def _take(self, assignment: Assignment) -> None:
        slot = self.state.slots.get(assignment.key)
        if slot is None:
            slot = Slot(key=assignment.key, desired=assignment.desired, assignment=assignment)
            slot.confirmed = True
            self.state.slots[assignment.key] = slot
            if assignment.desired is Desired.STOP:
                # Nothing of it was ever here, or all of it is gone: only say so.
                slot.progress = Progress.RELEASED
                self._report(slot)
                return
            self._effects.append(KeepSlot(slot=slot))
            self._go_on(slot)
        elif slot.progress is Progress.RELEASED:
            self._report(slot)
        elif assignment.desired is Desired.STOP:
            slot.assignment = slot.assignment or assignment
            if slot.unclean_reason:
                slot.retry_at_ms = None
            self._want(slot, Desired.STOP)
            self._go_on(slot)
        elif _RANK[assignment.desired] >= _RANK[slot.desired]:
            slot.assignment = assignment
            slot.desired = assignment.desired
            self._effects.append(KeepSlot(slot=slot))
            self._renew(slot)
            self._go_on(slot)

    def _want(self, slot: Slot, desired: Desired) -> None:
        if _RANK[desired] <= _RANK[slot.desired]:
            return
        slot.desired = desired
        slot.retry_at_ms = None
        self._effects.append(KeepSlot(slot=slot))
        if slot.work is Work.PREPARE:
            self._effects.append(CancelPrepare(key=slot.key))
        self._go_on(slot)

    # one step nearer to what is wanted

    def _go_on(self, slot: Slot) -> None:
        """Ask the engine for the next verb, if it has none in hand."""
        if slot.retry_at_ms is not None:
            return
        if not self.state.attached:
            # An engine that does not answer is no reason for a job to outlive its lease.
            if slot.desired is Desired.STOP and slot.may_run and slot.work is Work.IDLE:
                self._stop(slot)
            return
        if slot.progress is Progress.RUNNING and not slot.waiting:
            slot.waiting = True
            self._effects.append(Wait(key=slot.key, began_at_ms=slot.started_at_ms))
        if slot.work is not Work.IDLE or slot.progress is Progress.RELEASED:
            return
        stopping = slot.desired is Desired.STOP
        if slot.progress is Progress.EXITED or (stopping and not slot.may_run):
            self._begin(slot, Work.REMOVE, Remove(key=slot.key))
        elif stopping:
            self._stop(slot)
        elif slot.confirmed and slot.assignment is not None and slot.assignment.spec is not None:
            self._launch(slot, slot.assignment, slot.assignment.spec)

    def _launch(self, slot: Slot, assignment: Assignment, spec: ContainerSpec) -> None:
        spec = replace(spec, stop_grace_seconds=assignment.stop_grace_seconds)
        if slot.progress is Progress.ASSIGNED:
            self._begin(slot, Work.PREPARE, Prepare(key=slot.key, spec=spec))
        elif slot.desired is not Desired.RUN:
            return
        elif slot.progress is Progress.PREPARED and not slot.keeps_promise(assignment):
            # It may also have run, before those files were brought back.
            slot.reason = FORGOTTEN
            self._advance(slot, Progress.EXITED)
            self._go_on(slot)
        elif slot.progress in (Progress.PREPARED, Progress.STARTING):
            # Written down before it is done: after a crash the container is looked for, and a
            # slot that never got this far is known not to run. One that may have been started to
            # wait is never started otherwise.
            slot.held = slot.held or assignment.hold
            slot.up_boot_ms = slot.up_boot_ms or self._now
            self._advance(slot, Progress.STARTING)
            self._renew(slot)
            start = Start(
                key=slot.key,
                spec=replace(spec, address=slot.private_ipv4),
                gang=assignment.gang,
                hold=slot.held,
                lease_seconds=assignment.lease_seconds,
            )
            self._begin(slot, Work.START, start)
        elif slot.progress is Progress.RUNNING and slot.held and not assignment.hold:
            self._begin(slot, Work.LIFT, Lift(key=slot.key))

    def _stop(self, slot: Slot) -> None:
        effect: Effect = Stop(key=slot.key, grace_seconds=lease.grace_seconds(slot))
        if slot.lease_over:
            effect = lease.ending(slot, self.state.last_contact_ms, self._now)
        self._begin(slot, Work.STOP, effect)

    def _begin(self, slot: Slot, work: Work, effect: Effect) -> None:
        slot.work = work
        self._effects.append(effect)

    def _advance(self, slot: Slot, progress: Progress, *, stopped_at_ms: int = 0) -> None:
        if progress > slot.progress:
            slot.progress = progress
            slot.stopped_at_ms = stopped_at_ms or slot.stopped_at_ms
            self._effects.append(KeepSlot(slot=slot))
            self._report(slot)

    def _up(self, slot: Slot, started_at_ms: int, private_ipv4: str, up_boot_ms: int) -> None:
        slot.started_at_ms = started_at_ms
        slot.up_boot_ms = up_boot_ms
        slot.private_ipv4 = private_ipv4 or slot.private_ipv4
        self._advance(slot, Progress.RUNNING)

    def _report(self, *slots: Slot) -> None:
        if not (slots and self.state.connected):
            return
        seq = self.state.next_report
        self.state.next_report += 1
        for slot in slots:
            if slot.progress is Progress.RELEASED:
                self.state.released.setdefault(slot.key, seq)
        self._effects.append(Report(seq=seq, slots=slots))

    # what the engine says

    def _voted(self, given: i.Prepared | i.PrepareFailed) -> None:
        slot = self.state.slots[given.key]
        slot.work = Work.IDLE
        if isinstance(given, i.Prepared):
            slot.private_ipv4 = given.private_ipv4
            self._advance(slot, Progress.PREPARED)
        else:
            slot.reason, slot.permanent = given.reason, given.permanent
            self._advance(slot, Progress.REFUSED)
        self._go_on(slot)

    def _launched(self, given: i.StartedUp | i.StartFailed) -> None:
        slot = self.state.slots[given.key]
        slot.work = Work.IDLE
        if isinstance(given, i.StartedUp):
            slot.failures = 0
            self._up(slot, given.started_at_ms, given.private_ipv4, self._now)
        elif given.uncertain:
            # The engine did not answer: the container may or may not run. Ask again, never assume.
            slot.start_is_doubtful = True
            self._effects.append(KeepSlot(slot=slot))
            slot.retry_later(self._now)
        else:
            slot.reason, slot.permanent = given.reason, given.permanent
            slot.not_started = given.not_started and not slot.start_is_doubtful
            if slot.lease_over:
                # Nothing is wrong with the host or the job: contact was.
                lease.end(slot)
                slot.not_started = False
            self._advance(slot, Progress.EXITED, stopped_at_ms=given.wall_ms)
        self._go_on(slot)

    def _lifted(self, given: i.Lifted | i.LiftFailed) -> None:
        slot = self.state.slots[given.key]
        slot.work = Work.IDLE
        if isinstance(given, i.Lifted):
            slot.held = False
            self._effects.append(KeepSlot(slot=slot))
        else:
            slot.retry_later(self._now)
        self._go_on(slot)

    def _ended(self, given: i.Ended) -> None:
        slot = self.state.slots.get(given.key)
        if slot is None:
            return
        slot.waiting = False
        if slot.progress < Progress.EXITED:
            slot.exit_code = given.exit_code
            if given.lease_ended and (slot.lease_over or slot.desired is Desired.RUN):
                lease.end(slot)
            # A reason that is there already is why we stopped it.
            slot.reason = slot.reason or given.reason
            self._advance(slot, Progress.EXITED, stopped_at_ms=given.stopped_at_ms)
        self._go_on(slot)

    def _wait_failed(self, given: i.WaitFailed) -> None:
        slot = self.state.slots.get(given.key)
        if slot is not None:
            slot.waiting = False
            slot.retry_later(self._now)

    def _stopped(self, given: i.Stopped | i.StopFailed) -> None:
        slot = self.state.slots[given.key]
        slot.work = Work.IDLE
        if slot.progress is Progress.EXITED:
            # It ended while it was being stopped; whether by that no longer matters.
            self._go_on(slot)
        elif isinstance(given, i.StopFailed):
            self._unclean(slot, given.reason)
        elif slot.progress is Progress.STARTING:
            # It was stopped before it came up: nothing will ever say how it ended.
            if slot.lease_over:
                lease.end(slot)
            self._advance(slot, Progress.EXITED, stopped_at_ms=given.wall_ms)
            self._go_on(slot)
        # A running one is still waited for, and its exit code comes by Ended.

    def _removed(self, given: i.Removed | i.RemoveFailed) -> None:
        slot = self.state.slots[given.key]
        slot.work = Work.IDLE
        if isinstance(given, i.RemoveFailed):
            self._unclean(slot, given.reason)
            return
        slot.unclean_reason = ""
        self._advance(slot, Progress.RELEASED)

    def _unclean(self, slot: Slot, reason: str) -> None:
        """The host cannot be proven clean: say so with the evidence, and go on trying."""
        if reason != slot.unclean_reason:
            slot.unclean_reason = reason
            self._effects.append(KeepSlot(slot=slot))
            self._report(slot)
        slot.retry_later(self._now)
