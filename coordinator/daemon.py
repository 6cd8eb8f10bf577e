"""The coordinator's imperative shell: inbox -> machine -> journal -> effects.

One task owns the machine, so there are no locks: it takes all that is queued, steps, makes every
event durable in one commit, and only then answers and sends. A failed commit is fatal, but for one
that a full disk rolled back: then it waits for room (`shell.Hold`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from coordinator import notify, shell
from coordinator.core import clocks, lineage
from coordinator.core import inputs as i
from coordinator.core.effects import Stamped, Step
from coordinator.core.errors import Rejected
from coordinator.core.events import (
    JobEvent,
    NodeExited,
    NodePrepared,
    NodeReleased,
    NodeRunning,
)
from coordinator.core.ids import JobId, NodeKey, SessionId
from coordinator.core.machine import Machine
from coordinator.core.settings import Settings
from coordinator.core.state import ClusterState, Job
from coordinator.core.story import tell, tell_cluster
from coordinator.journal.port import Batch, Journal, JournalFull, LogTail, Record, RecordQuery
from coordinator.rpc import log_source
from coordinator.rpc.log_relay import LogRelay
from coordinator.rpc.outbox import Outbox
from coordinator.rpc.ports import Full, Overloaded, Render, Watching
from coordinator.watch import Watches

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ORDINARY = (NodePrepared, NodeRunning, NodeExited, NodeReleased)
MISSED_TOLD_MS = 5_000
"""A gap in listening that is worth a line in the log."""
READ_SECONDS = 0.01
"""How long reads may follow one another before the loop looks at everything else."""


@dataclass(slots=True)
class _Waiting:
    """One thing in the inbox: an input, or a read when there is none."""

    given: i.Input | None
    query: Callable[[ClusterState], object] | None
    reply: asyncio.Future[object] | None


def now_ms() -> int:
    """The clock that decides: milliseconds since the boot, counting suspend. A stepped wall clock
    neither ends nor stretches anything that is measured with it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _boot_id() -> str:
    """Names the boot that `now_ms` counts from."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def wall_ms() -> int:
    """What people call now: the time that facts are stamped with. It may be stepped."""
    return time.time_ns() // 1_000_000


class Daemon:
    """Owns the machine and the journal. `open`, then `run` until cancelled, then `close`."""

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        retention_days: int = 7,
        *,
        accepts_older: bool = False,
    ) -> None:
        """`accepts_older`: an operator says that this journal counts, whatever hosts have seen."""
        self.settings = settings
        self._journal = journal
        self._machine = Machine(settings)
        self._start = Step()
        self._missed_ms = 0
        self._retention = shell.Retention(retention_days * 86_400_000)
        self._clock_doubted = False
        self._inbox: shell.Inbox[_Waiting] = shell.Inbox()
        self._wake = asyncio.Event()
        self._outboxes: dict[SessionId, Outbox] = {}
        self._watches = Watches()
        self._next_room_ms = 0
        self._hold = shell.Hold()
        self._watchdog = notify.Watchdog()
        self._first: list[_Waiting] = []
        """What the next step takes before all that is in the inbox."""
        self.tell_full: Callable[[bool], Awaitable[None]] | None = None
        """Told when the disk is full (True) and when there is room again."""
        self._accepts_older = accepts_older
        self._is_outrun = False
        self.tell_placing: Callable[[bool], Awaitable[None]] | None = None
        """Told when nothing is placed any more (False), as the journal is older than another."""
        self._decoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self.log_relay = LogRelay()

    # life

    async def open(self) -> None:
        """Replay the journal and begin a new epoch, which `run` makes durable first of all: a full
        disk must not keep a start from listening. Nothing may be asked before."""
        replay = await self._journal.replay()
        self._machine = shell.replayed(self.settings, replay)
        self._start = self._machine.start(
            now_ms(),
            wall_ms=wall_ms(),
            boot_id=_boot_id(),
            life_id=secrets.token_hex(16),
            new_key=secrets.token_hex(32),
            position=self._journal.position,
            accepts_older=self._accepts_older,
        )
        logger.info(
            "replayed: events=%d open_jobs=%d ended_jobs=%d hosts=%d epoch=%d",
            len(replay.entries),
            len(self._machine.state.jobs),
            len(replay.ended),
            len(self._machine.state.hosts),
            self._machine.state.epoch,
        )
        if self._machine.state.accepts_older:
            logger.warning(
                "%s: this journal counts, whatever hosts have seen; leave it out at the next start",
                lineage.ACCEPT,
            )
        elif self._accepts_older:
            logger.error(
                "%s counts for nothing now, since it was given at the last start too; leave it out",
                lineage.ACCEPT,
            )
        waits = lineage.why_nothing_starts(self._machine.state)
        if waits:
            logger.info("%s", waits)

    async def run(self) -> None:
        """Step for ever. Raises whatever makes it impossible to go on."""
        await self._commit(self._start)
        while True:
            await self._something_to_do()
            await self._look_at_room()
            now = now_ms()
            batch, heard_until = self._inbox.take(now)
            batch = [*self._first, *batch]
            self._first = []
            inputs = [waiting.given for waiting in batch if waiting.given is not None]
            is_nobodys = not self._machine.state.presence
            step = shell.step(self._machine, inputs, now, wall_ms(), heard_until)
            self._tell_missed(self._machine.missed_ms, is_nobodys=is_nobodys)
            await self._commit(step)
            self._log(step)
            self._answer(batch, step)
            await self._tell_if_outrun()
            token = self._machine.token(self._journal.position)
            for effect in step.effects:
                outbox = self._outboxes.get(effect.session_id)
                if outbox is not None:
                    outbox.put(effect, token)
            # Before the reads: a watch that begins with one begins after this step.
            self._watches.publish(step, self._machine.state)
            await self._read(batch)
            await self._forget_old(now)
            self._watchdog.turned()

    def part(self) -> None:
        """Tell everybody that it ends: streams close, and what is queued is not answered."""
        for waiting in self._inbox.withdraw():
            if waiting.reply is not None and not waiting.reply.done():
                waiting.reply.cancel()
        for outbox in list(self._outboxes.values()):
            outbox.close()
        self._watches.close()

    async def close(self) -> None:
        self.part()
        self._decoder.shutdown(wait=False, cancel_futures=True)
        await self._journal.close()

    async def _something_to_do(self) -> None:
        """Wait for an input, the next deadline or the watchdog."""
        if self._inbox or self._first:
            return
        self._wake.clear()
        deadline = self._machine.next_deadline()
        seconds = None if deadline is None else max((deadline - now_ms()) / 1000, 0.0)
        try:
            async with asyncio.timeout(self._watchdog.wait_seconds(seconds)):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _commit(self, step: Step) -> None:
        batch = shell.batch_of(step)
        if batch is None:
            return
        try:
            await self._journal.append(batch)
        except JournalFull as full:
            await self._wait_for_room(batch, full)

    async def _wait_for_room(self, batch: Batch, full: JournalFull) -> None:
        """Append the same batch until it goes in. See `shell.Hold` for what goes on meanwhile."""
        logger.error(
            "%s; until there is room nothing is recorded, answered or shown, but heartbeats are "
            "acknowledged and jobs go on",
            full,
        )
        self._hold.begin()
        notify.status("the disk is full: jobs go on, nothing can be recorded")
        for waiting in self._inbox.withdraw(lambda waiting: waiting.reply is not None):
            if waiting.reply is not None and not waiting.reply.done():
                waiting.reply.set_exception(_no_room())
        if self.tell_full is not None:
            await self.tell_full(True)
        while self._hold.is_on:
            # Nobody tells when there is room again.
            await asyncio.sleep(shell.ROOM_PERIOD_MS / 1000)
            try:
                await self._journal.append(batch)
            except JournalFull:
                # It has answered: a coordinator that waits for room does not hang.
                self._watchdog.turned()
                continue
            self._first = [_Waiting(beat, None, None) for beat in self._hold.end()]
        if self.tell_full is not None:
            await self.tell_full(False)
        notify.status("there is room on the disk again")
        logger.info("there is room on the disk again: all that waited is recorded")

    async def _look_at_room(self) -> None:
        if now_ms() >= self._next_room_ms:
            await self._journal.measure()
            self._next_room_ms = now_ms() + shell.ROOM_PERIOD_MS
        before = self._machine.state.shortage
        shortage = self._journal.shortage
        if shortage and not before:
            logger.error("%s: no new jobs, definitions and queues are taken", shortage)
        elif before and not shortage:
            logger.info("new jobs are taken again: what kept them away is put right")
        if shortage != before:
            self._first.append(_Waiting(i.RoomSeen(shortage=shortage), None, None))

    async def _tell_if_outrun(self) -> None:
        """Once: only another start can change it."""
        state = self._machine.state
        if state.outrun is None or self._is_outrun:
            return
        self._is_outrun = True
        why = lineage.why_nothing_starts(state)
        logger.error("%s", why)
        notify.status(why)
        if self.tell_placing is not None:
            await self.tell_placing(False)

    def _tell_missed(self, missed_ms: int, *, is_nobodys: bool) -> None:
        """Say when nobody listened; where there are no hosts, nobody need come round to listen."""
        gap_ms, self._missed_ms = missed_ms - self._missed_ms, missed_ms
        if gap_ms >= MISSED_TOLD_MS and not is_nobodys:
            logger.warning(
                "did not listen for %.1f s (a pause, a suspend, or a slow disk); no host is blamed",
                gap_ms / 1000,
            )

    def _log(self, step: Step) -> None:
        """The story as operators read it. A node's ordinary steps are for debugging: there are a
        thousand of them in a large job."""
        for silence in step.silences:
            level = logging.WARNING if silence.is_lost else logging.INFO
            word = "host is lost" if silence.is_lost else "host is heard again"
            held = ", ".join(map(str, silence.holds)) or "nothing"
            seconds = silence.silent_ms / 1000
            logger.log(
                level, "%s: host=%s silent=%.1f s holds=%s", word, silence.host_id, seconds, held
            )
        for stamped in step.events:
            event = stamped.event
            if isinstance(event, JobEvent):
                kind, message, node = tell(event)
                level = logging.DEBUG if isinstance(event, _ORDINARY) else logging.INFO
                where = event.job_id if node is None else f"{event.job_id}#{node}"
                logger.log(level, "%s: job=%s %s", kind, where, message)
            else:
                logger.info("%s: %s", type(event).__name__, tell_cluster(event))

    def _answer(self, batch: list[_Waiting], step: Step) -> None:
        replies = iter(step.replies)
        for waiting in batch:
            if waiting.given is None:
                continue
            result = next(replies)
            if waiting.reply is None or waiting.reply.done():
                continue
            if isinstance(result, Rejected):
                waiting.reply.set_exception(result)
            else:
                waiting.reply.set_result(result)

    async def _read(self, batch: list[_Waiting]) -> None:
        """Last, since nobody's question may delay what the step has to send; and with pauses, in
        which nothing changes, since no step runs."""
        until = 0.0
        for waiting in batch:
            if waiting.query is None or waiting.reply is None:
                continue
            if time.monotonic() >= until:
                await asyncio.sleep(0)
                until = time.monotonic() + READ_SECONDS
            # After the pause, since whoever asked may hang up in it.
            if waiting.reply.done():
                continue
            try:
                waiting.reply.set_result(waiting.query(self._machine.state))
            except Exception as error:  # a defect in a reader's query is the reader's
                waiting.reply.set_exception(error)

    async def _forget_old(self, now: int) -> None:
        if not self._retention.is_due(now):
            return
        before_ms = self._retention.ended_before_ms(self._machine, now)
        if before_ms is None:
            self._tell_of_clock()
            return
        self._clock_doubted = False
        try:
            gone = await self._journal.forget(before_ms, shell.FORGET_AT_ONCE)
        except JournalFull as full:
            self._retention.postpone(now)
            logger.warning("no old job is deleted: %s", full)
            return
        self._machine.forget([JobId(job_id) for job_id in gone])
        self._retention.deleted(len(gone), now)

    def _tell_of_clock(self) -> None:
        distance_ms = clocks.distance_ms(self._machine.state)
        if distance_ms is not None and not self._clock_doubted:
            self._clock_doubted = True
            logger.warning(
                "no old job is deleted: the clock of this machine and its agents' clocks differ by "
                "%d s or more; set them right, for example with chrony or systemd-timesyncd",
                distance_ms // 1000,
            )

    # the cluster as the services see it (rpc.ports.Cluster)

    async def ask(self, given: i.Input) -> object:
        return await self._queue(given, None)

    async def read(self, query: Callable[[ClusterState], T]) -> T:
        return cast("T", await self._queue(None, query))

    def tell(self, given: i.Input) -> None:
        """An input nobody waits for an answer of: what agents say. Raises Overloaded."""
        if self._hold.is_on and isinstance(given, i.HostHeartbeat):
            ack = self._hold.beat(self._machine, given)
            outbox = self._outboxes.get(given.session_id)
            if ack is not None and outbox is not None:
                outbox.put(ack)
            return
        self._put(_Waiting(given, None, None))

    async def _queue(
        self, given: i.Input | None, query: Callable[[ClusterState], object] | None
    ) -> object:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._put(_Waiting(given, query, future))
        return await future

    def _put(self, waiting: _Waiting) -> None:
        if self._hold.is_on and waiting.reply is not None:
            raise _no_room()
        is_agents = waiting.reply is None or isinstance(waiting.given, i.HostHello)
        if not self._inbox.has_room(for_agents=is_agents):
            raise Overloaded(
                f"the coordinator has {len(self._inbox)} requests queued; try again shortly"
            )
        self._inbox.put(waiting, now_ms())
        self._wake.set()

    async def record(self, job_id: JobId) -> Record | None:
        return await self._journal.record(job_id)

    async def records(
        self, query: RecordQuery, *, after: tuple[int, str] | None, limit: int
    ) -> Sequence[Record]:
        return await self._journal.records(query, after=after, limit=limit)

    async def history(
        self, job_id: JobId, *, after: int, limit: int
    ) -> Sequence[tuple[int, Stamped]]:
        entries = await self._journal.history(f"job/{job_id}", after=after, limit=limit)
        return await self._decoded(
            lambda: [(number, shell.stamped(entry)) for number, entry in entries]
        )

    async def _decoded(self, work: Callable[[], T]) -> T:
        """A page of history or a large record takes long to decode; one thread does it, so that
        neither the loop nor a commit waits, however many readers ask."""
        return await asyncio.get_running_loop().run_in_executor(self._decoder, work)

    async def log_tail(self, key: NodeKey) -> LogTail | None:
        return await self._journal.log_tail(key.job_id, key.node_index, key.attempt)

    async def decode_job(self, record: Record) -> Job:
        return await self._decoded(lambda: shell.job_of(record))

    def watch(self, job_id: JobId, render: Render[T]) -> AbstractAsyncContextManager[Watching[T]]:
        return self._watches.open(job_id, render, self.read, lambda: self._journal.position)

    def read_log(
        self, key: NodeKey, *, offset: int, follow: bool
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        return log_source.read_log(
            self, self.log_relay, self._outboxes, key, offset=offset, follow=follow
        )

    # sessions

    def attach(self, session_id: SessionId, outbox: Outbox) -> None:
        self._outboxes[session_id] = outbox

    def detach(self, session_id: SessionId) -> None:
        """The stream is gone. Never refused: the machine has to know."""
        self._outboxes.pop(session_id, None)
        ended = _Waiting(i.SessionEnded(session_id=session_id), None, None)
        self._inbox.put(ended, now_ms())
        self._wake.set()


def _no_room() -> Full:
    return Full(
        "the disk of the coordinator is full, so it can record nothing, and shows nothing that is "
        "not recorded; jobs go on. Make room there, it goes on by itself"
    )
