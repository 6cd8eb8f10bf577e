"""The agent's imperative shell: inbox -> machine -> ledger -> engine and link.

One task owns the machine; engine verbs run in tasks of their own, and what they return comes back
as the next input. What a step writes to the ledger is durable before the engine or the
coordinator hears of it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from agent import notify, shell, whereabouts
from agent.admission import Admission
from agent.convert import ProtocolError, goodbye, journal_seen, machine, node_report, told
from agent.core import effects as f
from agent.core import inputs as i
from agent.core.assignment import Desired, NodeKey
from agent.core.machine import Machine
from agent.core.marks import Marks
from agent.core.state import Slot
from agent.engine.port import Engine, EngineError, Managed
from agent.host.machine import MachineId
from agent.kit import Kit
from agent.lease_file import Leases
from agent.lease_file import now_ms as boot_ms
from agent.ledger.port import Ledger, LedgerContents
from agent.link import Link
from agent.logs import LogDesk
from agent.options import Endpoint, TlsFiles
from agent.verbs import Verbs, wall_ms
from agent.whereabouts import Whereabouts
from muster.v1 import agent_service_pb2 as pb

logger = logging.getLogger(__name__)

T = TypeVar("T")

ENGINE_PAUSE_FIRST_SECONDS = 0.5
ENGINE_PAUSE_MAX_SECONDS = 30.0

_FAILURES = (i.PrepareFailed, i.StartFailed, i.LiftFailed, i.StopFailed, i.RemoveFailed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this host is; fixed for the life of the process."""

    host_id: str
    agent_uuid: str
    boot_id: str
    version: str
    private_ipv4: str
    resources: pb.Resources
    labels: dict[str, str]
    machine: MachineId

    @property
    def owner(self) -> str:
        """Whose a ledger is."""
        return shell.owner(self.host_id, self.machine.digest)


class Daemon:
    """One host's agent. `run` goes on until it is cancelled; containers outlive it."""

    def __init__(
        self,
        *,
        identity: Identity,
        coordinator: Endpoint,
        tls: TlsFiles | None,
        engine: Engine,
        ledger: Ledger,
        logs: LogDesk,
        admission: Admission,
        kit: Kit,
        leases: Leases,
    ) -> None:
        self._identity = identity
        self._engine = engine
        self._ledger = ledger
        self._logs = logs
        self._kit = kit
        self._leases = leases
        self._verbs = Verbs(engine, admission, kit, leases, self._mark, self._engine_is_gone)
        self._coordinator = str(coordinator)
        self._link = Link(coordinator, tls, self)
        self._inbox: asyncio.Queue[i.Input] = asyncio.Queue()
        self._machine = Machine()
        self._incarnation = 0
        """Counts Hellos, in this start and over all before: a late one must be known as older."""
        self._previous_boot_id = ""
        self._cluster_id = ""
        self._is_in_cluster = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._preparing: dict[NodeKey, asyncio.Task[None]] = {}
        self._tails_told = shell.TailsTold()
        self._heartbeats: asyncio.Task[None] | None = None
        self._unusable_reason = "the agent is starting"
        self._offered: frozenset[str] = frozenset()
        """Optional messages that the coordinator of the open session understands."""
        self._goodbye: asyncio.Future[None] | None = None
        self._watchdog = notify.Watchdog()
        self.ready = asyncio.Event()
        """Set once what ran before is re-attached, or the engine has not answered: readiness for
        systemd, which must not end an agent for want of an engine."""

    async def run(self) -> None:
        contents = await asyncio.to_thread(
            self._ledger.open, self._identity.boot_id, self._identity.owner
        )
        self._incarnation = contents.incarnation << 32
        self._previous_boot_id = contents.boot_id
        self._cluster_id = contents.cluster_id
        self._machine = shell.begin(self._ledger, contents, self._leases, boot_ms())
        try:
            # Everything runs in this group: a defect in any part ends the agent, loudly, and
            # systemd starts it again, while what it runs goes on.
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._link.run(), name="link")
                self._tasks.create_task(self._reattach(contents), name="reattach")
                await self._own_machine()
        finally:
            self._kit.close()
            await self._logs.close()
            await self._engine.close()
            self._leases.close()
            self._ledger.close()

    async def say_goodbye(self, limit_seconds: float) -> None:
        """Tell the coordinator that this agent stops and which nodes go on without it, if any, and
        the log what becomes of them. When it could not be told in time, the coordinator takes this
        host for a silent one. From here on nothing is started."""
        # Also one whose start is in hand: it may come up when this process has gone.
        goes_on = [slot.key for slot in self._machine.state.slots.values() if slot.may_run]
        is_told = await self._is_told(goes_on, limit_seconds)
        if is_told and goes_on:
            shell.suspend_leases(self._machine, self._ledger, self._leases)
            logger.info("the coordinator knows that what runs here goes on")
        elif goes_on:
            logger.warning(
                "the coordinator could not be told that this agent stops: what runs here ends when "
                "its lease is over, unless an agent is started here before: %s",
                ", ".join(key.name for key in goes_on),
            )

    async def _is_told(self, goes_on: list[NodeKey], limit_seconds: float) -> bool:
        """Whether the goodbye is durable at the coordinator."""
        if self._heartbeats is None or "goodbye" not in self._offered:
            return False
        self._goodbye = asyncio.get_running_loop().create_future()
        self._link.send(pb.AgentMessage(goodbye=goodbye(goes_on)))
        try:
            async with asyncio.timeout(limit_seconds):
                await self._goodbye
        except TimeoutError:
            return False
        return True

    async def _reattach(self, contents: LedgerContents) -> None:
        """Look at what is here, until the engine answers: before that nothing is known, so the
        machine starts nothing, and the coordinator is told why."""
        version = await self._answered(self._engine.probe)
        logger.info("engine: name=%s version=%s", self._engine.name, version)
        here = await self._answered(functools.partial(self._look, contents))
        for each in here.ours:
            word = "runs" if each.running else "has ended"
            logger.info("found here: node=%s, which %s", each.key.name, word)
        await asyncio.to_thread(self._kit.keep_only, here.keys)
        await asyncio.to_thread(self._logs.finish_others, here.keys)
        self._leases.keep_only([key.name for key in here.keys])
        self._take(
            i.Started(
                managed=tuple(map(self._found, here.ours)),
                rebooted=contents.boot_id not in ("", self._identity.boot_id),
                wall_ms=wall_ms(),
            )
        )

    async def _look(self, contents: LedgerContents) -> Whereabouts:
        """What is here and ours, once nothing of ours is left that the engine does not have."""
        known, who = [slot.key for slot in contents.slots], self._identity
        while True:
            found = await whereabouts.find(self._engine, who.host_id)
            if found.is_undecided(known, self._cluster_id):
                self._unusable(whereabouts.UNDECIDED, logging.WARNING)
                self.ready.set()
                await self._is_in_cluster.wait()
            here = whereabouts.sort(
                *(found, known, contents.elsewhere),
                cluster_id=self._cluster_id,
                machine=who.machine.digest,
            )
            if not here.strange:
                return here
            self._unusable(here.words, logging.WARNING)
            self.ready.set()
            await whereabouts.outwait(here.strange)

    def _found(self, managed: Managed) -> i.Found:
        return whereabouts.taken_over(managed, self._leases.ends_ms(managed.key.name))

    async def _answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the engine until it answers; the coordinator is told why the host cannot be used."""
        pause = ENGINE_PAUSE_FIRST_SECONDS
        while True:
            try:
                return await ask()
            except EngineError as error:
                self._unusable(error.reason)
            except OSError as error:
                # This host cannot be looked at, as without a free descriptor.
                self._unusable(f"MusterHostError: {error}")
            self.ready.set()
            await asyncio.sleep(pause * (0.5 + random.random() / 2))
            pause = min(2 * pause, ENGINE_PAUSE_MAX_SECONDS)

    def _unusable(self, reason: str, level: int = logging.ERROR) -> None:
        """`level` is a warning for what passes by itself."""
        if reason != self._unusable_reason:
            logger.log(level, "the host cannot be used: %s", reason)
            self._unusable_reason = reason
            self._link.restart()

    def _usable(self) -> None:
        if self._unusable_reason:
            logger.info("the host can be used now")
        self._unusable_reason = ""
        # The session that is open said that the host cannot be used.
        self._link.restart()

    def _engine_is_gone(self, reason: str) -> None:
        """What runs goes on, or not; who looks at the hosts should know, and nothing new come."""
        if not self._unusable_reason:
            self._unusable(reason)
            self._tasks.create_task(self._await_engine(), name="await engine")

    async def _await_engine(self) -> None:
        version = await self._answered(self._engine.probe)
        logger.info("engine is back: name=%s version=%s", self._engine.name, version)
        self._usable()

    def _take(self, given: i.Input) -> None:
        if isinstance(given, _FAILURES):
            logger.warning("%s: node=%s %s", type(given).__name__, given.key.name, given.reason)
        elif isinstance(given, i.Ended):
            logger.info(
                "Ended: node=%s exit_code=%s %s", given.key.name, given.exit_code, given.reason
            )
        self._inbox.put_nowait(given)

    async def _own_machine(self) -> None:
        while True:
            effects = await self._next_effects()
            change = shell.ledger_change(effects)
            self._tails_told.forget(change.forget)
            if change:
                keep, forget = list(change.keep.values()), list(change.forget)
                await asyncio.to_thread(self._ledger.save, keep, forget)
            if change.forget:
                in_use = list(self._machine.state.slots)
                await asyncio.to_thread(self._logs.prune, in_use)
            for effect in effects:
                self._act(effect)
            self._watchdog.turned()

    async def _next_effects(self) -> list[f.Effect]:
        """Wait for inputs, the next deadline or the watchdog; step all that is there."""
        deadline = self._machine.next_deadline()
        timeout = None if deadline is None else max(0.0, (deadline - boot_ms()) / 1000)
        try:
            async with asyncio.timeout(self._watchdog.wait_seconds(timeout)):
                inputs = [await self._inbox.get()]
        except TimeoutError:
            inputs = []
        while not self._inbox.empty():
            inputs.append(self._inbox.get_nowait())
        return shell.step(self._machine, inputs, boot_ms())

    def _act(self, effect: f.Effect) -> None:
        if isinstance(effect, f.Prepare | f.Start | f.Stop | f.EndLease | f.Remove):
            slot = self._machine.state.slots.get(effect.key)
            why = slot.reason if slot is not None else ""
            logger.info("%s: node=%s %s", type(effect).__name__, effect.key.name, why)
        match effect:
            case f.Report():
                self._report(effect)
            case f.KeepContact():
                # A goodbye that is known forgets all contacts, also one that comes after it.
                if self._goodbye is None:
                    self._ledger.keep_contact(effect.last_contact_ms)
            case f.Attached():
                self._usable()
                self.ready.set()
            case f.SetLease():
                self._set_lease(effect)
            case f.KeepToken():
                self._ledger.keep_token(effect.token)
            case f.Prepare():
                task = self._begin(
                    effect.key, "prepare", functools.partial(self._verbs.prepare, effect)
                )
                self._preparing[effect.key] = task
                task.add_done_callback(functools.partial(self._prepare_ended, effect.key))
            case f.CancelPrepare():
                if effect.key in self._preparing:
                    self._preparing[effect.key].cancel()
            case f.Start():
                self._begin(effect.key, "start", functools.partial(self._verbs.start, effect))
            case f.Lift():
                self._begin(effect.key, "lift", functools.partial(self._verbs.lift, effect))
            case f.Wait():
                self._begin(effect.key, "wait", functools.partial(self._verbs.wait, effect))
            case f.Stop():
                self._begin(effect.key, "stop", functools.partial(self._verbs.stop, effect))
            case f.EndLease():
                work = functools.partial(self._verbs.end_lease, effect)
                self._begin(effect.key, "end lease", work)
            case f.Remove():
                self._begin(effect.key, "remove", functools.partial(self._verbs.remove, effect))
            case f.KeepSlot() | f.ForgetSlot():
                pass  # done, before everything else

    def _set_lease(self, effect: f.SetLease) -> None:
        # A goodbye that is known suspends all leases, also those told after it.
        if self._goodbye is not None:
            return
        try:
            self._leases.set(effect.key.name, effect.ends_at_ms, effect.grace_seconds)
        except OSError as error:
            # Its holder ends it by what it was told before, which is sooner.
            logger.error("cannot renew a lease: node=%s %s", effect.key.name, error)

    def _begin(
        self, key: NodeKey, verb: str, work: Callable[[], Awaitable[i.Input]]
    ) -> asyncio.Task[None]:
        async def run() -> None:
            self._take(await work())

        return self._tasks.create_task(run(), name=f"{verb} {key.name}")

    def _prepare_ended(self, key: NodeKey, task: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step runs nothing of its own, so that a
        cancelled prepare is answered here."""
        self._preparing.pop(key, None)
        slot = self._machine.state.slots.get(key)
        if task.cancelled() and slot is not None and slot.desired is Desired.STOP:
            self._take(i.PrepareFailed(key=key, reason="no longer wanted", permanent=False))

    # the link's owner

    def hello(self) -> pb.Hello:
        self._take(i.HeartbeatSent(seq=i.HELLO_SEQ, at_ms=boot_ms()))
        self._incarnation += 1
        self._tails_told.begin_session()
        who = self._identity
        return pb.Hello(
            host_id=who.host_id,
            agent_uuid=who.agent_uuid,
            boot_id=who.boot_id,
            incarnation=self._incarnation,
            version=who.version,
            capabilities=["logs", "inquiry"],
            resources=who.resources,
            labels=who.labels,
            private_ipv4_address=who.private_ipv4,
            # With their output: the coordinator may let go of a node by this message.
            observed=[self._node(slot) for slot in self._machine.state.slots.values()],
            unusable_reason=self._unusable_reason,
            journal_token=self._machine.state.journal_token,
            machine=machine(who.machine),
            previous_boot_id=self._previous_boot_id,
            is_attached=self._machine.state.attached,
            cluster_id=self._cluster_id,
        )

    def journal_seen(self, message: pb.CoordinatorMessage) -> None:
        seen = journal_seen(message)
        if seen is not None:
            self._take(seen)

    def welcome(self, message: pb.Welcome) -> None:
        logger.info("session open: session=%s", message.session_id)
        if message.cluster_id not in ("", self._cluster_id):
            self._join(message.cluster_id)
        self._offered = frozenset(message.capabilities)
        self._take(i.LinkUp())
        period_seconds = max(message.heartbeat_period_ms, 10) / 1000
        self._heartbeats = self._tasks.create_task(self._beat(period_seconds), name="heartbeats")

    def _join(self, cluster_id: str) -> None:
        """From now on what is started is of this cluster. An agent that was of another one has to
        begin anew: what it holds is nothing to this coordinator."""
        before, self._cluster_id = self._cluster_id, cluster_id
        shell.join(self._ledger, before, cluster_id, self._coordinator)
        self._is_in_cluster.set()

    def _mark(self, start: f.Start) -> Marks:
        return Marks(
            cluster_id=self._cluster_id,
            host_id=self._identity.host_id,
            machine=self._identity.machine.digest,
            lease_seconds=start.lease_seconds,
            grace_seconds=start.spec.stop_grace_seconds,
        )

    async def _beat(self, period_seconds: float) -> None:
        seq = 0
        while True:
            seq += 1
            self._take(i.HeartbeatSent(seq=seq, at_ms=boot_ms()))
            self._link.send(pb.AgentMessage(heartbeat=pb.Heartbeat(seq=seq, wall_ms=wall_ms())))
            # Jitter keeps a thousand agents that came back together from beating together.
            await asyncio.sleep(period_seconds * random.uniform(0.8, 1.0))

    def message(self, message: pb.CoordinatorMessage) -> None:
        given = told(message)
        body = message.WhichOneof("body")
        if self._goodbye is not None and body == "assignments":
            return  # the coordinator sent it before it heard the goodbye
        if given is not None:
            self._take(given)
        elif body == "inquiry":
            self._link.send(pb.AgentMessage(hello=self.hello()))
        elif body == "goodbye_ack":
            if self._goodbye is not None and not self._goodbye.done():
                self._goodbye.set_result(None)
        elif body == "log_request":
            self._logs.deliver(self._link, message.log_request)
        elif body == "log_cancel":
            self._logs.cancel(message.log_cancel.request_id)
        else:
            raise ProtocolError(f"unexpected message {body}")

    def disconnected(self, reason: str) -> None:
        if self._heartbeats is not None:
            self._heartbeats.cancel()
            self._heartbeats = None
        self._take(i.LinkDown())

    def _report(self, effect: f.Report) -> None:
        report = pb.StatusReport(seq=effect.seq)
        for slot in effect.slots:
            report.nodes.append(self._node(slot))
        self._link.send(pb.AgentMessage(report=report))

    def _node(self, slot: Slot) -> pb.NodeReport:
        node = node_report(slot, self._identity.private_ipv4, boot_ms())
        if self._tails_told.is_due(slot):
            tail = self._logs.tail(slot.key)
            if tail is not None:
                node.log_tail_offset, node.log_tail = tail
        return node
