"""What the coordinator's shell does between its inbox and its journal, without a loop or a disk.

`daemon.py` runs it on asyncio and sqlite, `tests/sim` on a heap and a list: both call the same, so
that the simulator sees what the daemon does. Must not import asyncio, `rpc` or an adapter of the
journal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar, cast

from coordinator.core import clocks
from coordinator.core import inputs as i
from coordinator.core.effects import SendHeartbeatAck, Stamped, Step
from coordinator.core.errors import InvariantViolation
from coordinator.core.events import ALL_EVENTS, Event, stream_of
from coordinator.core.evolve_set_aside import UNREADABLE, unknown_spec
from coordinator.core.folding import replaced_by
from coordinator.core.ids import JobId, SessionId
from coordinator.core.machine import Machine
from coordinator.core.settings import Settings
from coordinator.core.state import Ended, Job
from coordinator.core.states import JobState
from coordinator.journal.codec import CodecError, EventCodec, decode, encode
from coordinator.journal.port import Batch, EndedJob, Entry, LogTail, Record, Replay

T = TypeVar("T")

INBOX_MAX = 20_000
"""Room for every host of a large cluster to report a few times while one commit is slow."""
BATCH_MAX = 1_000
"""Inputs in one step: enough to share a commit, few enough to answer in time."""
RETENTION_PERIOD_MS = 3_600_000
CLOCK_PERIOD_MS = 10_000
"""How soon the wall clock is looked at again after the agents' clocks did not confirm it."""
FORGET_AT_ONCE = 200
ROOM_PERIOD_MS = 1_000
"""How often the room on the disk is looked at, and how soon a full disk is tried again."""

# The union of the event classes is a type to mypy and no class to ask for at run time.
CODEC: EventCodec[Event] = EventCodec(cast("Sequence[type[Event]]", ALL_EVENTS))


class Inbox(Generic[T]):
    """What waits for the machine, in the order in which it came, with the time of each arrival."""

    def __init__(self, batch_max: int = BATCH_MAX) -> None:
        self._batch_max = batch_max
        self._waiting: deque[tuple[int, T]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[T]:
        return (item for _, item in self._waiting)

    def has_room(self, *, for_agents: bool) -> bool:
        """Half is for agents alone: no crowd of callers may keep a heartbeat out."""
        return len(self._waiting) < (INBOX_MAX if for_agents else INBOX_MAX // 2)

    def put(self, item: T, now_ms: int) -> None:
        """Queue without a bound: who may be refused asks `has_room` before."""
        self._waiting.append((now_ms, item))

    def take(self, now_ms: int) -> tuple[list[T], int]:
        """The next batch, and until when all that had arrived has been taken with it."""
        waiting = self._waiting
        batch = [waiting.popleft()[1] for _ in range(min(len(waiting), self._batch_max))]
        return batch, waiting[0][0] if waiting else now_ms

    def withdraw(self, which: Callable[[T], bool] = lambda item: True) -> list[T]:
        """Take out everything, or what `which` names; the rest keeps its order."""
        found = [item for _, item in self._waiting if which(item)]
        self._waiting = deque(pair for pair in self._waiting if not which(pair[1]))
        return found


class Hold:
    """What goes on while the events of a step cannot be made durable, for want of room.

    The step has changed the machine, and nobody may see that: its effects and replies wait, and so
    does everything that came after it. The same batch is appended until it goes in. Heartbeats
    alone are acknowledged meanwhile, since an acknowledgement shows nothing of the state.

    No lease is endangered. A host counts its lease from when it sent a heartbeat that was
    acknowledged. The machine hears of that heartbeat later, which only makes its own count longer;
    and it hears of it first of all (`end`), before any deadline is looked at. If the coordinator
    dies instead, every host has a fresh lease at its next start.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._beats: dict[SessionId, i.HostHeartbeat] = {}

    def begin(self) -> None:
        self.is_on = True

    def beat(self, machine: Machine, given: i.HostHeartbeat) -> SendHeartbeatAck | None:
        """Take a heartbeat; its acknowledgement, or None when a newer session took over."""
        if given.session_id not in machine.state.sessions:
            return None
        # Its host's clock is compared with ours when the machine takes it, which is later.
        self._beats[given.session_id] = replace(given, wall_ms=0)
        return SendHeartbeatAck(session_id=given.session_id, seq=given.seq)

    def end(self) -> list[i.HostHeartbeat]:
        """The step is durable. The heartbeats that the next step must take before all else."""
        self.is_on = False
        beats = list(self._beats.values())
        self._beats.clear()
        return beats


class Retention:
    """When records of ended jobs are deleted: looked at once an hour, a bounded piece at a time.
    What is deleted does not come back, so the wall clock must be confirmed by the agents' clocks.
    """

    def __init__(self, keep_ms: int) -> None:
        self._keep_ms = keep_ms
        self._next_ms = 0

    def is_due(self, now_ms: int) -> bool:
        return now_ms >= self._next_ms

    def ended_before_ms(self, machine: Machine, now_ms: int) -> int | None:
        """What ended before this time of the wall clock may go; None while nobody confirms it."""
        if not clocks.agree(machine.state, machine.settings):
            self._next_ms = now_ms + CLOCK_PERIOD_MS
            return None
        return machine.state.wall_ms - self._keep_ms

    def postpone(self, now_ms: int) -> None:
        """It could not be done now."""
        self._next_ms = now_ms + RETENTION_PERIOD_MS

    def deleted(self, count: int, now_ms: int) -> None:
        """So many have gone; as many as could go at once mean that there may be more."""
        if count < FORGET_AT_ONCE:
            self._next_ms = now_ms + RETENTION_PERIOD_MS


def step(
    machine: Machine, inputs: Sequence[i.Input], now_ms: int, wall_ms: int, heard_until_ms: int
) -> Step:
    """One step of the machine. A deadline that has come is looked at last, after what came in."""
    deadline_ms = machine.next_deadline()
    if deadline_ms is not None and deadline_ms <= now_ms:
        inputs = [*inputs, i.Tick()]
    return machine.step(inputs, now_ms, wall_ms=wall_ms, heard_until_ms=heard_until_ms)


class UnreadableEntry(Exception):
    """The journal cannot be replayed: an entry cannot be decoded or does not fit what came before,
    or all of them together are impossible. The message names the entry when there is one."""


def replayed(settings: Settings, replay: Replay) -> Machine:
    """The machine that a journal makes. Raises UnreadableEntry."""
    machine = Machine(settings)
    reading: Entry | None = None

    def read() -> Iterator[Stamped]:
        nonlocal reading
        for reading in replay.entries:
            yield stamped(reading)

    ended = [(JobId(job.job_id), _ended(job)) for job in replay.ended]
    try:
        machine.replay(read(), ended)
    except Exception as error:  # evolve refuses what does not fit by many types
        if reading is None:
            raise
        where = f"row {reading.seq} of {reading.stream} ({reading.kind})"
        raise UnreadableEntry(f"{where} cannot be read: {type(error).__name__}: {error}") from error
    try:
        machine.check(replayed=True)
    except InvariantViolation as error:
        raise UnreadableEntry(
            f"each row can be read, but together they describe an impossible state: {error}"
        ) from error
    return machine


def stamped(entry: Entry) -> Stamped:
    """CodecError for an entry that cannot be read."""
    return Stamped(at_ms=entry.at_ms, event=CODEC.decode(entry.kind, entry.body))


def _ended(job: EndedJob) -> Ended:
    return Ended(
        state=JobState(job.status),
        client_token=job.client_token,
        stopped_at_ms=job.stopped_at_ms,
    )


def batch_of(step: Step) -> Batch | None:
    """What one step makes durable, all in one commit; None when it changed nothing durable."""
    if not (step.events or step.tails or step.archived):
        return None
    entries = []
    for stamped in step.events:
        kind, body = CODEC.encode(stamped.event)
        entries.append(
            Entry(
                stream=stream_of(stamped.event),
                at_ms=stamped.at_ms,
                kind=kind,
                body=body,
                replaces=replaced_by(stamped.event),
            )
        )
    return Batch(
        entries=entries,
        tails=[
            LogTail(
                job_id=tail.key.job_id,
                node_index=tail.key.node_index,
                attempt=tail.key.attempt,
                offset=tail.offset,
                data=tail.data,
            )
            for tail in step.tails
        ],
        records=[_record(job) for job in step.archived],
        closed=[f"job/{job.job_id}" for job in step.archived]
        + [entry.stream for entry in entries if entry.kind == "QueueDeleted"],
    )


def job_of(record: Record) -> Job:
    """The job of a final record. One that cannot be read is told as UNREADABLE, with what stands
    beside it: a listing must not fail for one job in it."""
    try:
        return decode(Job, record.body)
    except CodecError as error:
        reason = f"its final record cannot be read: {error}"
        return Job(
            job_id=JobId(record.job_id),
            job_queue=record.job_queue,
            spec=replace(
                unknown_spec(),
                job_name=record.job_name,
                definition_name=record.definition_name,
                definition_revision=record.definition_revision,
            ),
            order=0,
            created_at_ms=record.created_at_ms,
            state=JobState(record.status),
            stopped_at_ms=record.stopped_at_ms,
            status_reason=f"{UNREADABLE}: {reason}",
            set_aside=reason,
        )


def _record(job: Job) -> Record:
    return Record(
        job_id=job.job_id,
        job_queue=job.job_queue,
        job_name=job.spec.job_name,
        definition_name=job.spec.definition_name,
        definition_revision=job.spec.definition_revision,
        status=job.state.value,
        created_at_ms=job.created_at_ms,
        stopped_at_ms=job.stopped_at_ms,
        client_token=job.client_token,
        body=encode(job),
    )
