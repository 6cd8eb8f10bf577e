"""The coordinator's shell without asyncio: the real machine on a journal in memory.

Keeps the order of `coordinator.daemon`: step all that is queued, commit, then answer and send. It
can die between any two of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from coordinator.core import inputs as i
from coordinator.core.effects import Stamped, Step
from coordinator.core.errors import Rejected
from coordinator.core.events import ALL_EVENTS, Event, stream_of
from coordinator.core.explain import status_reason
from coordinator.core.ids import JobId, SessionId
from coordinator.core.machine import Machine
from coordinator.core.replacement import replaced_by
from coordinator.core.state import ClusterState, Ended, Job
from coordinator.core.states import JobState
from coordinator.journal.codec import EventCodec, encode
from coordinator.journal.memory import MemoryJournal
from coordinator.journal.port import Batch, Entry, LogTail, Record
from coordinator.rpc import agent_convert
from muster.v1 import agent_service_pb2 as pb
from tests.sim.knobs import SETTINGS, SKEW_MAX
from tests.sim.network import Session

if TYPE_CHECKING:
    from tests.sim.world import World

Answer = Callable[[object], None]
CODEC: EventCodec[Event] = EventCodec(cast("Sequence[type[Event]]", ALL_EVENTS))
EPOCH_MS = 1_700_000_000_000


class SimCoordinator:
    def __init__(self, world: World) -> None:
        self.world = world
        self.journal = MemoryJournal()
        self.machine = Machine(SETTINGS)
        self.rate = 1 + world.rng.uniform(-SKEW_MAX, SKEW_MAX)
        self.life = 0
        """Counts starts; what belongs to an earlier one is void."""
        self.alive = False
        self._busy = False
        self._uncommitted = False
        self._scheduled_ms: int | None = None
        self._inbox: list[tuple[i.Input, Answer | None]] = []
        self._sessions: dict[SessionId, Session] = {}
        self._session_count = 0

    def clock(self) -> int:
        return EPOCH_MS + int(self.world.now * self.rate)

    # life and death

    def start(self) -> None:
        self.life += 1
        self.alive = True
        self._busy = self._uncommitted = False
        self._scheduled_ms = None
        self._inbox, self._sessions = [], {}
        self.machine = self.replayed()
        self.machine.check()
        step = self.machine.start(self.clock())
        self._commit(step)
        self.world.note(f"coordinator starts, epoch {self.machine.state.epoch}")
        self._wake()

    def crash(self) -> None:
        """The process is gone: what was committed is known, and what was not never was."""
        self.world.note(f"coordinator dies{', with a step not committed' * self._uncommitted}")
        if not self._uncommitted:
            self.compare_with_replay()
        self.alive = False
        self.life += 1
        self.journal = self.journal.reopened()
        for session in self._sessions.values():
            session.break_off(notice_ms=2_000 if self.world.chance(0.9) else 30_000)

    def replayed(self) -> Machine:
        replay = self.journal.replay_now()
        machine = Machine(SETTINGS)
        machine.replay(
            [
                Stamped(at_ms=entry.at_ms, event=CODEC.decode(entry.kind, entry.body))
                for entry in replay.entries
            ],
            [
                (
                    JobId(ended.job_id),
                    Ended(
                        state=JobState(ended.status),
                        client_token=ended.client_token,
                        stopped_at_ms=ended.stopped_at_ms,
                    ),
                )
                for ended in replay.ended
            ],
        )
        return machine

    def compare_with_replay(self) -> None:
        live, replayed = _durable(self.machine.state), _durable(self.replayed().state)
        for name, value in live.items():
            if value != replayed[name]:
                self.world.fail(f"replay differs in {name}:\nlive {value}\nnow  {replayed[name]}")

    def knows_durably(self, job_id: JobId) -> bool:
        facts = self.journal._facts
        return f"job/{job_id}" in facts.open or f"job/{job_id}" in facts.closed

    # the loop

    def take(self, given: i.Input, answer: Answer | None = None) -> None:
        if self.alive:
            self._inbox.append((given, answer))
            self._wake()

    def _later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        """Unless it is dead by then."""
        life = self.life
        self.world.after(delay_ms, lambda: callback() if self.life == life else None)

    def _wake(self) -> None:
        if self._busy:
            return
        if self._inbox:
            self._busy = True
            self._later(self.world.delay(1), self._step)
            return
        deadline = self.machine.next_deadline()
        if deadline is None:
            return
        due_ms = int((deadline - EPOCH_MS) / self.rate) + 1
        if self._scheduled_ms is None or due_ms < self._scheduled_ms:
            self._scheduled_ms = due_ms
            self._later(due_ms - self.world.now, self._deadline)

    def _deadline(self) -> None:
        self._scheduled_ms = None
        if self._busy:
            return
        deadline = self.machine.next_deadline()
        if deadline is not None and deadline <= self.clock():
            self._inbox.append((i.Tick(), None))
        self._wake()

    def _step(self) -> None:
        batch, self._inbox = self._inbox, []
        step = self.machine.step([given for given, _ in batch], self.clock())
        if step.events:
            self.machine.check()
            self.world.promises.after_step(step)
        if step.events or step.tails or step.archived:
            self._uncommitted = True
            self._later(self.world.delay(2), lambda: self._durable(batch, step))
        else:
            self._publish(batch, step)

    def _durable(self, batch: list[tuple[i.Input, Answer | None]], step: Step) -> None:
        self._commit(step)
        self._uncommitted = False
        if self.world.chance(0.02):
            self.compare_with_replay()
        self._later(self.world.delay(1), lambda: self._publish(batch, step))

    def _commit(self, step: Step) -> None:
        entries = []
        for stamped in step.events:
            kind, body = CODEC.encode(stamped.event)
            self.world.note(f"fact {kind} {body}")
            replaces, replaces_from = replaced_by(stamped.event)
            entries.append(
                Entry(
                    stream=stream_of(stamped.event),
                    at_ms=stamped.at_ms,
                    kind=kind,
                    body=body,
                    replaces=replaces,
                    replaces_from=replaces_from,
                )
            )
        self.journal.append_now(
            Batch(
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
        )
        self.world.promises.durable(step)

    def _publish(self, batch: list[tuple[i.Input, Answer | None]], step: Step) -> None:
        for (given, answer), reply in zip(batch, step.replies, strict=True):
            if isinstance(reply, Rejected):
                self.world.note(f"refused {type(given).__name__}: {reply}")
            if answer is not None:
                answer(reply)
        for effect in step.effects:
            session = self._sessions.get(effect.session_id)
            if session is not None:
                session.put(effect)
        self._busy = False
        self._wake()

    # sessions

    def dialled(self, session: Session) -> None:
        self._sessions[session.session_id] = session

    def new_session_id(self) -> SessionId:
        self._session_count += 1
        return SessionId(f"s{self._session_count}")

    def receive(self, session: Session, message: pb.AgentMessage) -> None:
        host_id = session.agent.host.host_id
        match message.WhichOneof("body"):
            case "hello":
                hello = agent_convert.hello(session.session_id, message.hello)
                self.world.note(f"{host_id} hello {session.session_id} {_seen(hello.observed)}")
                self.take(hello)
            case "heartbeat":
                seq = message.heartbeat.seq
                self.take(i.HostHeartbeat(session_id=session.session_id, seq=seq))
            case _:
                report = agent_convert.report(session.session_id, message.report)
                self.world.note(f"{host_id} report {report.seq} {_seen(report.observations)}")
                self.take(report)

    def session_ended(self, session: Session) -> None:
        self._sessions.pop(session.session_id, None)
        self.take(i.SessionEnded(session_id=session.session_id))

    # for the end and for people

    def unrest(self) -> list[str]:
        if not self.alive:
            return ["the coordinator is down"]
        if self._busy:
            return ["the coordinator steps"]
        state = self.machine.state
        found = [f"job {job.job_id} is {job.state}" for job in state.jobs.values()]
        found += [f"{h} holds {list(host.holds)}" for h, host in state.hosts.items() if host.holds]
        found += [
            f"{host_id} has strays {list(presence.strays)}"
            for host_id, presence in state.presence.items()
            if presence.strays
        ]
        return found

    def describe(self) -> list[str]:
        state = self.machine.state
        lines = []
        for job in state.jobs.values():
            why = status_reason(state, SETTINGS, job) or ""
            lines.append(f"  {job.job_id} {job.state} {job.status_reason} {why}")
            for attempt in job.attempts:
                over = "over" if attempt.over else "started" if attempt.started else "votes"
                nodes = ", ".join(
                    f"{n.node_index}@{n.host_id} {n.state}{' released' * n.released}"
                    for n in attempt.nodes.values()
                )
                lines.append(f"    attempt {attempt.number} {over}: {nodes}")
        return lines


def _seen(observations: Sequence[i.Observation]) -> str:
    return "; ".join(f"{seen.key} {seen.progress.name}" for seen in observations)


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


def _durable(state: ClusterState) -> dict[str, Any]:
    """What a replay must rebuild. A job's `order` counts open jobs, so only ranks compare."""
    ranks = {order: rank for rank, order in enumerate(sorted(j.order for j in state.jobs.values()))}
    return {
        "jobs": {
            job_id: replace(job, order=ranks[job.order]) for job_id, job in state.jobs.items()
        },
        "queues": {
            name: replace(queue, runnable=[(ranks[order], job) for order, job in queue.runnable])
            for name, queue in state.queues.items()
        },
        "hosts": state.hosts,
        "definitions": state.definitions,
        "last_revision": state.last_revision,
        "ended": state.ended,
        "tokens": state.tokens,
        "dependents": state.dependents,
        "epoch": state.epoch,
    }
