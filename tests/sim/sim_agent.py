"""The agent's process without asyncio: `agent.shell`, its ledger, a link and engine verbs.

It keeps the order of `agent.daemon`: step all that is queued, write the ledger, then act. One
object is one process; when it dies, what it had in hand is never heard of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent import shell, whereabouts
from agent.convert import goodbye, journal_seen, machine, node_report, told
from agent.core import effects as f
from agent.core import inputs as i
from agent.core.assignment import Desired, NodeKey, Progress
from agent.core.marks import Marks
from agent.core.state import Slot
from agent.ledger.port import LedgerError
from muster.v1 import agent_service_pb2 as pb
from tests.sim.log_stream import LogStream
from tests.sim.network import Session
from tests.sim.sim_spool import SimSpool

if TYPE_CHECKING:
    from tests.sim.sim_directory import SimDirectory
    from tests.sim.sim_host import SimHost
    from tests.sim.world import World


GOODBYE_MS = 5_000
"""As `agent.main` waits."""


class SimAgent:
    def __init__(self, world: World, host: SimHost, directory: SimDirectory) -> None:
        self.world = world
        self.host = host
        self.directory = directory
        self.alive = True
        self.hangs = False
        self._waits: list[Callable[[], None]] = []
        """What it will do when it goes on."""
        self.boot_id = host.boot_id
        owner = shell.owner(host.host_id, host.machine.digest)
        contents = directory.ledger.open(host.boot_id, owner)
        self.contents = contents
        self.machine = shell.begin(directory.ledger, contents, directory.leases, host.clock())
        self._cluster_id = contents.cluster_id
        self._attached_at_ms: int | None = None
        self._when_in_cluster: Callable[[], None] | None = None
        """It waits until it is told which cluster this is."""
        self._incarnation = contents.incarnation << 32
        self.session: Session | None = None
        self._unusable_reason = "the agent is starting"
        self.is_welcome = self._stopping = False
        self.unnamed_since_ms: dict[NodeKey, int] = {}
        """Since when the assignments of the session name a node no more, by the world."""
        self._goes_on: list[NodeKey] = []
        self._inbox: list[i.Input] = []
        self._busy = False
        self._scheduled_ms: int | None = None
        self._preparing: dict[NodeKey, object] = {}
        self._tails_told = shell.TailsTold()
        self._beats: dict[int, int] = {}
        """When each heartbeat of the session was sent."""
        self._lease_over = {slot.key: None for slot in contents.slots if slot.lease_over}
        self._progress: dict[NodeKey, tuple[Slot, Progress]] = {}
        """Of slots, not of nodes: a node may be forgotten and asked for anew."""
        world.note(f"{self.name} starts, incarnation {contents.incarnation}")
        self._later(world.delay(world.knobs.engine_ms), self._reattach)
        self._later(world.delay(200), self._dial)

    @property
    def name(self) -> str:
        """For the story."""
        is_second = self.directory is not self.host.directory
        return f"{self.host.name}{' second' * is_second} agent"

    def marks(self, start: f.Start) -> Marks:
        return Marks(
            cluster_id=self._cluster_id,
            host_id=self.host.host_id,
            machine=self.host.machine.digest,
            lease_seconds=start.lease_seconds,
            grace_seconds=start.spec.stop_grace_seconds,
        )

    def _later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        self.world.after(delay_ms, lambda: self.when_awake(callback))

    def when_awake(self, callback: Callable[[], None]) -> None:
        """Now, or when it goes on, if it lives that long."""
        if self.hangs:
            self._waits.append(callback)
        elif self.alive:
            callback()

    def hang(self) -> None:
        """Nothing of it goes on, and nothing that is sent to it is lost."""
        self.hangs = True

    def wake(self) -> None:
        self.hangs = False
        self.host.woke_at_ms = self.world.now
        waits, self._waits = self._waits, []
        for callback in waits:
            self.when_awake(callback)

    def die(self, *, notice_ms: int) -> None:
        """The process is gone; `notice_ms` is how long the coordinator may take to notice."""
        self.alive = self.hangs = False
        self._waits.clear()
        if self.session is not None:
            self.session.open_at_agent = False
            self.session.break_off(notice_ms=notice_ms)
        self.host.engine.agent_died(self)

    def stop(self) -> None:
        """In order: what runs goes on without it, once the coordinator has written that down. It
        does not wait for that for ever."""
        if not self.alive or self._stopping or self.hangs:
            return
        self._stopping = True
        self._goes_on = [slot.key for slot in self.machine.state.slots.values() if slot.may_run]
        if self.is_welcome and self.session is not None:
            self.session.send_up(pb.AgentMessage(goodbye=goodbye(self._goes_on)))
            self._later(GOODBYE_MS, lambda: self._leave(acknowledged=False))
        else:
            self._leave(acknowledged=False)

    def _leave(self, *, acknowledged: bool) -> None:
        self.die(notice_ms=100)
        self.host.goes_on = self._goes_on if acknowledged else []
        self.host.leases_rest = bool(self.host.goes_on)
        if self.host.goes_on:
            shell.suspend_leases(self.machine, self.directory.ledger, self.directory.leases)
        self.world.faults.agent_left(self.host, acknowledged=acknowledged)

    def _reattach(self) -> None:
        if self.world.faults.active and self.world.chance(self.world.knobs.engine_gone):
            self.host.disturb()
            self._unusable_reason = "the engine does not answer"
            self._later(1_000, self._reattach)
            return
        found = whereabouts.Found(self.host.engine.managed(self), running=())
        if found.is_undecided([slot.key for slot in self.contents.slots], self._cluster_id):
            self.world.note(f"{self.name} waits for its cluster")
            self._unusable_reason = whereabouts.UNDECIDED
            self._when_in_cluster = lambda: self._take_over(found)
            self._dial_anew()
        else:
            self._take_over(found)

    def _take_over(self, found: whereabouts.Found) -> None:
        here = whereabouts.sort(
            found,
            [slot.key for slot in self.contents.slots],
            self.contents.elsewhere,
            cluster_id=self._cluster_id,
            machine=self.host.machine.digest,
        )
        if here.strange:
            # Until they have ended, with their lease at the latest.
            self._unusable_reason = here.words
            self._later(1_000, self._reattach)
            return
        for key, spool in self.host.spools.items():
            if key not in here.keys:
                spool.finish()
        leases = self.directory.leases
        leases.keep_only([key.name for key in here.keys])
        self.take(
            i.Started(
                managed=tuple(
                    whereabouts.taken_over(each, leases.ends_ms(each.key.name))
                    for each in here.ours
                ),
                rebooted=self.contents.boot_id not in ("", self.host.boot_id),
                wall_ms=self.host.wall(),
            )
        )

    def _dial_anew(self) -> None:
        """The session that is open was told another reason why the host cannot be used."""
        if self.session is not None:
            self.session.hang_up()

    # the loop

    def take(self, given: i.Input) -> None:
        if self.alive:
            self._inbox.append(given)
            self._wake()

    def _wake(self) -> None:
        if self._busy:
            return
        if self._inbox:
            self._busy = True
            self._later(0, self._step)
            return
        deadline = self.machine.next_deadline()
        if deadline is None:
            return
        due_ms = self.host.world_time(deadline)
        if self._scheduled_ms is None or due_ms < self._scheduled_ms:
            self._scheduled_ms = due_ms
            self._later(due_ms - self.world.now, self._deadline)

    def _deadline(self) -> None:
        self._scheduled_ms = None
        if self._busy:
            return
        deadline = self.machine.next_deadline()
        if deadline is not None and deadline <= self.host.clock():
            self._busy = True
            self._step()
        else:
            self._wake()

    def _step(self) -> None:
        inputs, self._inbox = self._inbox, []
        effects = shell.step(self.machine, inputs, self.host.clock())
        self._check_slots()
        change = shell.ledger_change(effects)
        self._tails_told.forget(change.forget)
        if not change:
            self._act_on_all(effects)
            return

        def save() -> None:
            self.directory.ledger.save(list(change.keep.values()), list(change.forget))
            self._act_on_all(effects)

        self._later(self.world.delay(2), save)

    def _check_slots(self) -> None:
        slots = self.machine.state.slots
        for key, slot in slots.items():
            before, progress = self._progress.get(key, (slot, slot.progress))
            if slot is before and slot.progress < progress:
                self.world.fail(f"{self.host.host_id} {key.name} went back to {slot.progress}")
            if slot.desired is Desired.STOP and not slot.lease_over:
                self.host.to_stop[key] = None
            if slot.lease_over and key not in self._lease_over:
                self._lease_over[key] = None
                if self.host.runs(key):  # of what has ended the lease file may be gone
                    self.world.promises.blame.lease_over(self.host, key)
            if slot.lease_ended and key not in self.host.engine.containers:
                self.world.promises.blame.lost_by_lease(key)
        self._progress = {key: (slot, slot.progress) for key, slot in slots.items()}

    def _act_on_all(self, effects: list[f.Effect]) -> None:
        for effect in effects:
            self._act(effect)
        self._busy = False
        self._wake()

    def _act(self, effect: f.Effect) -> None:
        engine = self.host.engine
        match effect:
            case f.Report():
                self._report(effect)
            case f.KeepContact():
                if not self._stopping:
                    self.directory.ledger.keep_contact(effect.last_contact_ms)
            case f.Attached():
                self._unusable_reason, self._attached_at_ms = "", self.world.now
                self._dial_anew()
            case f.SetLease():
                if not self._stopping:
                    name, ends_at_ms = effect.key.name, effect.ends_at_ms
                    self.directory.leases.set(name, ends_at_ms, effect.grace_seconds)
            case f.KeepToken():
                self.directory.ledger.keep_token(effect.token)
            case f.Prepare():
                self._prepare(effect)
            case f.CancelPrepare():
                if self._preparing.pop(effect.key, None) is not None:
                    self.take(
                        i.PrepareFailed(key=effect.key, reason="no longer wanted", permanent=False)
                    )
            case f.Start():
                engine.start(effect, self)
            case f.Lift():
                engine.lift(effect, self.take)
            case f.Wait():
                engine.wait(effect, self.take)
            case f.Stop():
                engine.stop(effect, self)
            case f.EndLease():
                engine.end_lease(effect, self)
            case f.Remove():
                engine.remove(effect, self)
            case f.KeepSlot() | f.ForgetSlot():
                pass

    def _prepare(self, effect: f.Prepare) -> None:
        token = self._preparing[effect.key] = object()

        def answer(given: i.Input) -> None:
            if self._preparing.get(effect.key) is token:
                del self._preparing[effect.key]
                self.take(given)

        self.host.engine.prepare(effect, answer)

    # the link

    def _dial(self) -> None:
        if self.session is not None:
            return
        if self.world.now < self.host.cut_until_ms or not self.world.coordinator.alive:
            self._later(200 + self.world.delay(3_000), self._dial)
            return
        session_id = self.world.coordinator.new_session_id()
        self.session = Session(self.world, self, session_id)
        self.world.coordinator.dialled(self.session)
        self.take(i.HeartbeatSent(seq=i.HELLO_SEQ, at_ms=self.host.clock()))
        session, hello = self.session, self._hello()
        if self.world.faults.active and self.world.chance(self.world.knobs.late):
            self.world.note(f"{self.name} hello {session_id} gets stuck")
            session.give_up(hello)
        else:
            session.send_up(pb.AgentMessage(hello=hello))

    def link_ended(self, session: Session) -> None:
        if self.alive and session is self.session:
            self.world.note(f"{self.name} link of {session.session_id} is down")
            self.session, self.is_welcome = None, False
            self.take(i.LinkDown())
            self._later(20 + self.world.delay(1_000), self._dial)

    def _hello(self) -> pb.Hello:
        slots = self.machine.state.slots.values()
        self._incarnation += 1
        self._tails_told.begin_session()
        return pb.Hello(
            host_id=self.host.host_id,
            agent_uuid=self.directory.agent_uuid,
            boot_id=self.host.boot_id,
            incarnation=self._incarnation,
            version="sim",
            capabilities=["inquiry"],
            resources=pb.Resources(
                vcpus=self.host.vcpus,
                memory_mib=16_000,
                instance_type=self.host.instance_type,
                engine="sim",
            ),
            private_ipv4_address=self.host.address,
            observed=[self._node(slot) for slot in slots],
            unusable_reason=self._unusable_reason,
            journal_token=self.machine.state.journal_token,
            machine=machine(self.host.machine),
            previous_boot_id=self.contents.boot_id,
            is_attached=self.machine.state.attached,
            cluster_id=self._cluster_id,
        )

    def receive(self, session: Session, message: pb.CoordinatorMessage) -> None:
        self.when_awake(lambda: self._receive(session, message))

    def _receive(self, session: Session, message: pb.CoordinatorMessage) -> None:
        if not self.alive or session is not self.session:
            return
        seen = journal_seen(message)
        if seen is not None and self.is_welcome:
            self.take(seen)
        if message.HasField("inquiry"):
            self.take(i.HeartbeatSent(seq=i.HELLO_SEQ, at_ms=self.host.clock()))
            session.send_up(pb.AgentMessage(hello=self._hello()))
            return
        if message.HasField("goodbye_ack"):
            self._leave(acknowledged=True)
            return
        if self._stopping and message.HasField("assignments"):
            return
        if message.HasField("welcome"):
            self._welcome(session, message.welcome)
            if seen is not None and self.alive:
                self.take(seen)
            return
        if message.HasField("log_request"):
            stream = LogStream(session, message.log_request)
            session.streams[message.log_request.request_id] = stream
            stream.begin()
            return
        if message.HasField("log_cancel"):
            session.streams.pop(message.log_cancel.request_id).end_at_agent()
            return
        given = told(message)
        match given:
            case i.AssignmentsReceived():
                self._note_wishes(given)
                shown = "; ".join(f"{a.key.name} {a.desired}" for a in given.assignments)
                self.world.note(f"{self.name} assignments {given.generation}: {shown}")
            case i.HeartbeatAcked():
                self._contact(self._beats.pop(given.seq, 0))
        if given is not None:
            self.take(given)

    def _note_wishes(self, given: i.AssignmentsReceived) -> None:
        """What it may end from now on, by the word of the coordinator."""
        named = {each.key: each.desired for each in given.assignments}
        for key, desired in named.items():
            self.unnamed_since_ms.pop(key, None)
            if desired is Desired.STOP:
                self.host.told_to_stop[key] = None
        for key in self.machine.state.slots:
            if key not in named:
                self.unnamed_since_ms.setdefault(key, self.world.now)

    def _contact(self, sent_at_ms: int) -> None:
        """It has got an answer to what it sent then. From another cluster that is no contact, and
        for what an agent with other files has not found yet neither; and once it says goodbye it
        writes none down."""
        if self._stopping:
            return
        is_too_soon = self.host.changed_directory_ms >= 0 and not (
            self._attached_at_ms is not None and self._attached_at_ms <= sent_at_ms
        )
        if self._cluster_id == self.world.coordinator.cluster_id and not is_too_soon:
            self.host.contact_ms = max(self.host.contact_ms, sent_at_ms)

    def _welcome(self, session: Session, welcome: pb.Welcome) -> None:
        self.host.disturb()
        self.is_welcome = True
        self.unnamed_since_ms.clear()
        self.host.goes_on = []
        if welcome.cluster_id not in ("", self._cluster_id):
            try:
                self._join(welcome.cluster_id)
            except LedgerError as error:
                self.world.note(f"{self.name}: {error}")
                self.die(notice_ms=2_000)
                self.host.agent_failed(self)
                return
        self.take(i.LinkUp())
        self._beats.clear()
        self._contact(session.opened_at_ms)
        self._beat(session, 1, welcome.heartbeat_period_ms)

    def _join(self, cluster_id: str) -> None:
        before, self._cluster_id = self._cluster_id, cluster_id
        shell.join(self.directory.ledger, before, cluster_id, "sim")
        if self._when_in_cluster is not None:
            take_over, self._when_in_cluster = self._when_in_cluster, None
            self._later(0, take_over)

    def _beat(self, session: Session, seq: int, period_ms: int) -> None:
        if session is self.session:
            self.take(i.HeartbeatSent(seq=seq, at_ms=self.host.clock()))
            self._beats[seq] = self.world.now
            beat = pb.Heartbeat(seq=seq, wall_ms=self.host.wall())
            session.send_up(pb.AgentMessage(heartbeat=beat))
            pause_ms = int(period_ms * self.world.rng.uniform(0.8, 1.0))
            self._later(pause_ms, lambda: self._beat(session, seq + 1, period_ms))

    def _report(self, effect: f.Report) -> None:
        if self.session is not None:
            nodes = [self._node(slot) for slot in effect.slots]
            report = pb.StatusReport(seq=effect.seq, nodes=nodes)
            self.session.send_up(pb.AgentMessage(report=report))

    def _node(self, slot: Slot) -> pb.NodeReport:
        node = node_report(slot, self.host.address, self.host.clock())
        if self._tails_told.is_due(slot) and self.host.reads_tail(slot.key):
            spool = self.host.spools.get(slot.key, SimSpool(slot.key))
            node.log_tail_offset, node.log_tail = spool.tail()
        return node
