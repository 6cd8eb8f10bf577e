"""The coordinator's process without asyncio: `coordinator.shell` on a journal in memory.

It keeps the order of `coordinator.daemon`: step, commit, then send and answer. It can die between
any two of these, and it can be paused: then nothing of its own goes on, and what others send to it
waits in sockets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from coordinator import shell
from coordinator.core import inputs as i
from coordinator.core import lineage
from coordinator.core.effects import Step
from coordinator.core.errors import NoRoom, Rejected
from coordinator.core.explain import status_reason
from coordinator.core.ids import HostId, JobId, SessionId
from coordinator.core.machine import Machine
from coordinator.journal.memory import MemoryJournal
from coordinator.journal.port import JournalError, JournalFull
from coordinator.rpc import agent_convert
from muster.v1 import agent_service_pb2 as pb
from tests.sim.durable_state import durable
from tests.sim.hearing import Hearing
from tests.sim.knobs import SKEW_MAX
from tests.sim.network import Session
from tests.sim.sim_reads import SimReads

if TYPE_CHECKING:
    from tests.sim.world import World

Answer = Callable[[object], None]
Waiting = tuple[i.Input, Answer | None]
EPOCH_MS = 1_700_000_000_000
RETENTION_MS = 7 * 86_400_000
UP_BEFORE_MS = 10_000
"""How long its machine has been up when the coordinator starts for the first time on it."""


class SimCoordinator:
    def __init__(self, world: World) -> None:
        self.world = world
        self.journal = MemoryJournal()
        self.settings = world.knobs.settings(1)
        self.machine = Machine(self.settings)
        self.rate = 1 + world.rng.uniform(-SKEW_MAX, SKEW_MAX)
        self.boot = 1
        self._boot_at_ms = -UP_BEFORE_MS
        self.wall_ahead_ms = 0
        """How far what its machine calls now is ahead of the truth."""
        self.life = 0
        """Counts starts and ends; what belongs to an earlier one is void."""
        self._starts = 0
        self.cluster_id = ""
        """That of the first start; another journal may be of another cluster."""
        self.hearing = Hearing(self)
        self.is_mistaken = False
        """It runs with an older journal: what it decides is no truth (`older_journal.py`)."""
        self.alive = False
        self.started_at_ms = self.began_at_ms = 0
        """When this life began, by `awake_ms` and by the world."""
        self.slow_until_ms = 0
        """Until then a commit takes long."""
        self.taken_until_ms = 0
        """All that had come until then, by `awake_ms`, the machine has been told."""
        self._arrived_ms: deque[int] = deque()
        """When each input in the inbox came, by `awake_ms`."""
        self.paused = False
        self.pauses = 0
        self._paused_at_ms = self._paused_ms = 0
        self._slept_ms: list[tuple[int, int]] = []
        """When each of its pauses began and ended, by the world."""
        self._busy = False
        self._uncommitted = False
        self._scheduled_ms: int | None = None
        self._inbox: shell.Inbox[Waiting] = shell.Inbox()
        self._retention = shell.Retention(RETENTION_MS)
        self._hold = shell.Hold()
        self._first: list[Waiting] = []
        """What the next step takes before all that is in the inbox."""
        self._sessions: dict[SessionId, Session] = {}
        self.reads = SimReads(self)
        self._session_count = 0
        self._frozen: list[Callable[[], None]] = []
        """What of its own fell due while it was paused."""
        self._sockets: deque[Callable[[], None]] = deque()
        """What others have sent and it has not read."""

    # clocks

    def clock(self) -> int:
        """Since its machine's boot, a little fast or slow."""
        return int((self.world.now - self._boot_at_ms) * self.rate)

    def wall(self) -> int:
        return EPOCH_MS + self.world.now + self.wall_ahead_ms

    def awake_ms(self) -> int:
        """The time of the world without that in which it was paused."""
        until_ms = self._paused_at_ms if self.paused else self.world.now
        return until_ms - self._paused_ms

    def awake_since_ms(self) -> int:
        """When it last began or woke, by the world. Two pulses are no sleep that it could know."""
        longest_ms = 2 * self.settings.pulse_ms
        wakings = (end for begin, end in reversed(self._slept_ms) if end - begin > longest_ms)
        return max(next(wakings, 0), self.began_at_ms)

    def listened_ms(self, since_ms: int) -> int:
        """For how long it has listened from then on, by the world. It counts two pulses of each
        longer pause, as `core/listening.py` does."""
        since_ms = max(since_ms, self.began_at_ms)
        listened_ms = self.world.now - since_ms
        for begin_ms, end_ms in reversed(self._slept_ms):
            if end_ms <= since_ms:
                break
            slept_ms = end_ms - max(begin_ms, since_ms)
            listened_ms -= max(slept_ms - 2 * self.settings.pulse_ms, 0)
        return listened_ms

    def silent_ms(self, host_id: HostId) -> int:
        """For how long it was awake and heard nothing of a host, up to what it has been told of."""
        return self.hearing.silent_ms(host_id, self.taken_until_ms, self.started_at_ms)

    # life and death

    def start(self) -> None:
        self.life += 1
        self._starts += 1
        self.alive = True
        self.started_at_ms = self.awake_ms()
        self.began_at_ms = self.world.now
        self._busy = self._uncommitted = False
        self._scheduled_ms = None
        self._inbox = shell.Inbox(self.world.knobs.batch_max)
        self._arrived_ms.clear()
        self._sessions = {}
        self._hold, self._first = shell.Hold(), []
        self.settings = self.world.knobs.settings(self._starts)
        self.machine = shell.replayed(self.settings, self.journal.replay_now())
        self.machine.check()
        boot_id = f"coordinator-boot-{self.boot}"
        step = self.machine.start(
            self.clock(),
            wall_ms=self.wall(),
            boot_id=boot_id,
            life_id=f"{self.world.ids.getrandbits(64):016x}",
            new_key=f"{self.world.ids.getrandbits(64):016x}",
            position=self.journal.position,
        )
        self.world.note(f"coordinator starts, epoch {self.machine.state.epoch}")
        self.cluster_id = self.cluster_id or lineage.cluster_id(self.machine.state.cluster_key)
        self._busy = self._uncommitted = True
        self._make_durable([], step)

    @property
    def is_serving(self) -> bool:
        """People wait while the wrong journal is there."""
        return self.alive and not self.is_mistaken

    @property
    def is_uncommitted(self) -> bool:
        return self._uncommitted

    @property
    def is_held(self) -> bool:
        return self._hold.is_on

    def crash(self, *, reboot: bool = False) -> None:
        """The process is gone: what was committed is known, and what was not never was."""
        self.world.note(f"coordinator dies{', with a step not committed' * self._uncommitted}")
        self.unpause()
        if not self._uncommitted:
            self.compare_with_replay()
        self.alive = False
        self.life += 1
        self._frozen.clear()
        self._sockets.clear()
        self.reads.loop.close()
        self.reads = SimReads(self)
        self.world.readers.coordinator_died()
        self.journal = self.journal.reopened()
        if reboot:
            self.boot += 1
            self._boot_at_ms = self.world.now
        for session in self._sessions.values():
            session.break_off(notice_ms=2_000 if self.world.chance(0.9) else 30_000)

    def compare_with_replay(self) -> None:
        replayed = shell.replayed(self.settings, self.journal.replay_now())
        live, again = durable(self.machine.state), durable(replayed.state)
        for name, value in live.items():
            if value != again[name]:
                self.world.fail(f"replay differs in {name}:\nlive {value}\nnow  {again[name]}")

    def knows_durably(self, job_id: JobId) -> bool:
        facts = self.journal._facts
        return f"job/{job_id}" in facts.open or f"job/{job_id}" in facts.closed

    # pauses

    def pause(self) -> None:
        """SIGSTOP, a suspended machine, swap: clocks go on, nothing else of it does."""
        if self.alive and not self.paused:
            self.paused = True
            self.pauses += 1
            self._paused_at_ms = self.world.now

    def unpause(self) -> None:
        """What of its own is due comes first, and what waits in sockets a little at a time."""
        if not self.paused:
            return
        self._paused_ms += self.world.now - self._paused_at_ms
        self.paused = False
        self._slept_ms.append((self._paused_at_ms, self.world.now))
        frozen, self._frozen = self._frozen, []
        for callback in frozen:
            self.later(0, callback)
        self.later(self.world.delay(20), self._read_sockets)

    def hear(self, message: Callable[[], None]) -> None:
        """Something arrives from outside; in order with all that came before."""
        if self.paused or self._sockets:
            self._sockets.append(message)
        else:
            message()

    def _read_sockets(self) -> None:
        for _ in range(min(len(self._sockets), self.world.rng.randint(1, 4))):
            self._sockets.popleft()()
        if self._sockets:
            self.later(self.world.delay(20), self._read_sockets)

    def later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        """Unless it is dead by then; not before it wakes if it is paused."""
        life = self.life

        def due() -> None:
            if self.life == life:
                if self.paused:
                    self._frozen.append(callback)
                else:
                    callback()

        self.world.after(delay_ms, due)

    # the loop

    def take(self, given: i.Input, answer: Answer | None = None) -> None:
        """A request of somebody."""
        if self.is_serving:
            self.hear(lambda: self._put(given, answer))

    def _put(self, given: i.Input, answer: Answer | None = None) -> None:
        if self._hold.is_on and isinstance(given, i.HostHeartbeat):
            ack = self._hold.beat(self.machine, given)
            session = self._sessions.get(given.session_id)
            if ack is not None and session is not None:
                session.put(ack)
            return
        if self._hold.is_on and answer is not None:
            answer(NoRoom("the disk is full"))
            return
        self._inbox.put((given, answer), self.clock())
        self._arrived_ms.append(self.awake_ms())
        self._wake()

    def _wake(self) -> None:
        if self._busy:
            return
        if self._inbox or self._first:
            self._busy = True
            self.later(self.world.delay(1), self._step)
            return
        deadline = self.machine.next_deadline()
        if deadline is None:
            return
        due_ms = self._boot_at_ms + int(deadline / self.rate) + 1
        if self._scheduled_ms is None or due_ms < self._scheduled_ms:
            self._scheduled_ms = due_ms
            self.later(due_ms - self.world.now, self._deadline)

    def _deadline(self) -> None:
        self._scheduled_ms = None
        if self._busy:
            return
        deadline = self.machine.next_deadline()
        if deadline is not None and deadline <= self.clock():
            self._busy = True
            self._step()
        else:
            self._wake()

    def _step(self) -> None:
        now_ms = self.clock()
        batch, heard_until_ms = self._inbox.take(now_ms)
        for _ in batch:
            self._arrived_ms.popleft()
        if self.journal.shortage != self.machine.state.shortage:
            self._first.append((i.RoomSeen(shortage=self.journal.shortage), None))
        batch = [*self._first, *batch]
        self._first = []
        inputs = [given for given, _ in batch]
        # What came in the same millisecond as the first that is left may be left too.
        self.taken_until_ms = self._arrived_ms[0] - 1 if self._arrived_ms else self.awake_ms()
        step = shell.step(self.machine, inputs, now_ms, self.wall(), heard_until_ms)
        if step.events:
            self.machine.check()
        self.hearing.welcomed(step, self._sessions)
        self.world.promises.after_step(step)
        if shell.batch_of(step) is not None:
            self._uncommitted = True
            self.later(self._commit_ms(), lambda: self._make_durable(batch, step))
        else:
            self._publish(batch, step)

    def _commit_ms(self) -> int:
        if self.world.now < self.slow_until_ms:
            rest_ms = self.slow_until_ms - self.world.now + 500
            return self.world.rng.randint(*self.world.knobs.slow_commit_ms or (500, rest_ms))
        return self.world.delay(2)

    def _make_durable(self, batch: list[Waiting], step: Step) -> None:
        world = self.world
        # A disk without room fails by that alone.
        has_room = not self.journal.shortage
        if has_room and world.faults.active and world.chance(world.knobs.commit_fails):
            self._fail_commit(step)
            return
        try:
            self._commit(step)
        except JournalFull:
            self._wait_for_room(batch, step)
            return
        if self._hold.is_on:
            world.note("there is room again")
            self._first = [(beat, None) for beat in self._hold.end()]
        self._uncommitted = False
        if world.chance(0.02):
            self.compare_with_replay()
        self.later(world.delay(1), lambda: self._publish(batch, step))

    def _wait_for_room(self, batch: list[Waiting], step: Step) -> None:
        """The same is tried again; who waits for an answer to something later is refused."""
        if not self._hold.is_on:
            self.world.note("there is no room: the step is held")
            self._hold.begin()
            waiting = zip(self._arrived_ms, self._inbox, strict=True)
            self._arrived_ms = deque(at_ms for at_ms, (_, answer) in waiting if answer is None)
            for given, answer in self._inbox.withdraw(lambda waiting: waiting[1] is not None):
                if isinstance(given, i.HostHello):
                    self.hearing.withdrawn(given.host_id, given.session_id)
                if answer is not None:
                    answer(NoRoom("the disk is full"))
            self.reads.settled()
        self.later(shell.ROOM_PERIOD_MS, lambda: self._make_durable(batch, step))

    def _fail_commit(self, step: Step) -> None:
        """The caller cannot tell whether it is durable, so the process ends."""
        durable = self.world.chance(0.5)
        self.journal.fail_next_append("the disk says no", durable=durable)
        try:
            self._commit(step)
        except JournalError as error:
            self.world.note(f"{error}; {'durable' if durable else 'not durable'}")
        if durable:
            self.world.promises.durable(step)
        self.world.faults.restart_coordinator()

    def _commit(self, step: Step) -> None:
        batch = shell.batch_of(step)
        if batch is None:
            return
        self.journal.append_now(batch)
        for entry in batch.entries:
            self.world.note(f"fact {entry.kind} {entry.body}")
        self.world.promises.durable(step)

    def _publish(self, batch: list[Waiting], step: Step) -> None:
        token = self.machine.token(self.journal.position)
        for effect in step.effects:
            session = self._sessions.get(effect.session_id)
            if session is not None:
                session.put(effect, token)
        replies = step.replies[: len(batch)]  # a tick that the shell added has one too
        for (given, answer), reply in zip(batch, replies, strict=True):
            if isinstance(reply, Rejected):
                self.world.note(f"refused {type(given).__name__}: {reply}")
            if answer is not None:
                answer(reply)
        self.reads.settled()
        self._forget_old()
        self._busy = False
        self._wake()

    def _forget_old(self) -> None:
        """Looked at after every step, and no record here lives for a day: none may ever go."""
        before_ms = self._retention.ended_before_ms(self.machine, self.clock())
        if self.journal.shortage:
            return
        if before_ms is not None and self.journal.forget_now(before_ms, shell.FORGET_AT_ONCE):
            self.world.fail(f"records are deleted with the clock {self.wall_ahead_ms} ms ahead")

    # sessions

    def dialled(self, session: Session) -> None:
        self._sessions[session.session_id] = session
        self.reads.outboxes[session.session_id] = session.outbox

    def new_session_id(self) -> SessionId:
        self._session_count += 1
        return SessionId(f"s{self._session_count}")

    def receive(self, session: Session, message: pb.AgentMessage) -> None:
        """Out of the socket, into the inbox."""
        is_hello = message.HasField("hello")
        if not (is_hello and self._hold.is_on):  # for want of room it is refused, and not heard
            self.hearing.message(session, message)
        if is_hello:
            hello = agent_convert.hello(session.session_id, message.hello)
            self.world.note(
                f"{session.agent.name} hello {session.session_id} {_seen(hello.observed)}"
            )

            def answer(reply: object) -> None:
                if isinstance(reply, Rejected):
                    session.refuse()

            self._put(hello, answer)
            return
        said = agent_convert.said(session.session_id, message)
        if isinstance(said, i.HostReport):
            self.world.note(f"{session.agent.name} report {said.seq} {_seen(said.observations)}")
        self._put(said)

    def session_ended(self, session: Session) -> None:
        self._sessions.pop(session.session_id, None)
        self.reads.session_ended(session.session_id)
        self._put(i.SessionEnded(session_id=session.session_id))

    # for the end and for people

    def unrest(self) -> list[str]:
        if not self.alive:
            return ["the coordinator is down"]
        state = self.machine.state
        found = ["the coordinator steps"] if self._busy or self._sockets else []
        found += [f"job {job.job_id} is {job.state}" for job in state.jobs.values()]
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
            why = status_reason(state, self.settings, job) or ""
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
