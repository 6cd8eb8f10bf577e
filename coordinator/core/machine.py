"""The coordinator as a pure machine: inputs and a time in, facts and effects out.

`step` is the only way to change it, and it never waits, sends, reads a clock or draws a number.
Must not import anything outside `coordinator.core`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from coordinator.core import (
    admission,
    barrier,
    ending,
    hello,
    hosts,
    lineage,
    placing,
    reservation,
    silence,
)
from coordinator.core import inputs as i
from coordinator.core.derive import assignments
from coordinator.core.effects import Assignment, Reply, SendAssignments, Stamped, Step
from coordinator.core.errors import NotFound, Rejected
from coordinator.core.events import ClusterKeyMade, CoordinatorStarted, QueueCreated
from coordinator.core.evolve import evolve
from coordinator.core.ids import HostId, JobId, SessionId
from coordinator.core.invariants import check
from coordinator.core.listening import Listening
from coordinator.core.scheduler import schedule
from coordinator.core.settings import DEFAULT_QUEUE, Settings
from coordinator.core.state import ClusterState, Ended, Presence
from coordinator.core.timers import Timers
from coordinator.core.turn import Turn

_PASSES_MAX = 100
"""A scheduling pass can call for another; more than this many mean that policy goes in circles."""


class Machine:
    """Decide, evolve, derive. One owner calls it; nothing here is safe for two."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = ClusterState()
        self.timers = Timers()
        self._listening = Listening(0, settings.pulse_ms)
        self._generation = 0
        self._told: dict[HostId, tuple[SessionId, tuple[Assignment, ...]]] = {}
        """The list that each host was sent last, and in which session."""
        self._token: tuple[lineage.Seen, bytes] | None = None
        """The newest token, kept because most heartbeats find no new entry."""

    def replay(self, history: Iterable[Stamped], ended: Iterable[tuple[JobId, Ended]]) -> None:
        """Rebuild the durable state; called once, before anything else."""
        for job_id, job in ended:
            self.state.ended[job_id] = job
            if job.client_token is not None:
                self.state.tokens[job.client_token] = job_id
        for stamped in history:
            evolve(self.state, stamped.event, stamped.at_ms)

    def start(
        self,
        now: int,
        *,
        wall_ms: int | None = None,
        boot_id: str = "",
        life_id: str = "",
        new_key: str = "",
        position: int = 0,
        accepts_older: bool = False,
    ) -> Step:
        """Begin a new life: a larger epoch, a fresh lease for every host, the default queue.

        `boot_id` names the boot that `now` counts on from; `wall_ms` is as for `step`. `life_id`
        and `new_key` are random text in hexadecimal: the key is taken when the journal has none.
        `position` is the number of the journal's newest entry. `accepts_older`: an operator says
        that this journal counts, although hosts may have seen a newer one; not at two starts in a
        row, since a flag that is left where it was given would take the next journal unasked.
        """
        self._listening = Listening(now, self.settings.pulse_ms)
        turn = self._turn(now, wall_ms)
        self.state.boot_id = boot_id
        first = self.state.epoch == 0
        self.state.position = position
        self.state.accepts_older = accepts_older and not self.state.was_to_accept
        turn.emit(
            CoordinatorStarted(
                epoch=self.state.epoch + 1,
                life_id=life_id,
                position=position,
                accepts_older=accepts_older,
            )
        )
        if new_key and not self.state.cluster_key:
            turn.emit(ClusterKeyMade(key=new_key))
        if first and DEFAULT_QUEUE not in self.state.queues:
            turn.emit(QueueCreated(name=DEFAULT_QUEUE, priority=1))
        self._generation = self.state.epoch << 40
        for host_id in self.state.hosts:
            # Nobody was listening, so silence until now says nothing about a host.
            self.state.presence[host_id] = Presence(last_contact_ms=now, asked_ms=now)
            self.timers.arm("host", host_id, now + self.settings.lost_after_ms)
        for job_id in self.state.jobs:
            self.timers.arm("job", job_id, now)
        self.timers.arm("definitions", "", now)
        placing.await_hosts(turn)
        return turn.step

    def step(
        self,
        inputs: Sequence[i.Input],
        now: int,
        *,
        wall_ms: int | None = None,
        heard_until_ms: int | None = None,
    ) -> Step:
        """Take inputs in order, then place jobs and recompute what hosts should run.

        `replies[k]` of the result answers `inputs[k]`: a value, or the Rejected that refused it;
        a refused input has changed nothing. `now` is milliseconds and never decreases. `wall_ms` is
        what people call now, and may be stepped (default: `now`). All that had arrived until
        `heard_until_ms` is among the inputs of this step or of earlier ones (default: until `now`).
        """
        self._listening.mark(now if heard_until_ms is None else heard_until_ms, now_ms=now)
        turn = self._turn(now, wall_ms)
        for given in inputs:
            facts = len(turn.step.events)
            try:
                turn.step.replies.append(_HANDLERS[type(given)](turn, given))
            except Rejected as rejected:
                if len(turn.step.events) != facts:
                    raise AssertionError(f"{given} was refused half done") from rejected
                turn.step.replies.append(rejected)
        self._settle(turn)
        return turn.step

    def _turn(self, now: int, wall_ms: int | None) -> Turn:
        wall = now if wall_ms is None else wall_ms
        self.state.now_ms, self.state.wall_ms = now, wall
        return Turn(self.state, self.settings, self.timers, self._listening, now=now, wall=wall)

    def next_deadline(self) -> int | None:
        """When to call `step` with a Tick at the latest; None when nothing is waited for. Where
        there are hosts that is soon: to know whether it listens, the shell must come round."""
        deadline = self.timers.next_ms
        if not self.state.presence:
            return deadline
        pulse = self._listening.next_mark_ms
        return pulse if deadline is None else min(deadline, pulse)

    @property
    def missed_ms(self) -> int:
        """How long the coordinator has not listened since its start."""
        return self._listening.missed_ms

    def token(self, position: int) -> bytes:
        """What hosts are told of a journal whose newest durable entry has this number. Empty while
        nothing may start: it would take the place of what they know of a newer journal."""
        state = self.state
        state.position = position
        if not (state.may_start and state.cluster_key and state.life_id):
            return b""
        seen = lineage.Seen(life_id=state.life_id, position=position)
        if self._token is None or self._token[0] != seen:
            self._token = seen, lineage.token(state.cluster_key, seen)
        return self._token[1]

    def check(self, *, replayed: bool = False) -> None:
        """Raise InvariantViolation when the state is impossible. `replayed`: the events may be an
        older release's."""
        check(self.state, replayed=replayed)

    def forget(self, job_ids: Sequence[JobId]) -> None:
        """Retention is over: the journal has deleted these jobs."""
        for job_id in job_ids:
            ended = self.state.ended.pop(job_id, None)
            if ended is not None and ended.client_token is not None:
                self.state.tokens.pop(ended.client_token, None)

    def _settle(self, turn: Turn) -> None:
        """Policy runs until nothing calls for more; then every touched host gets its list."""
        for _ in range(_PASSES_MAX):
            if not turn.reschedule:
                break
            turn.reschedule = False
            schedule(turn)
        else:
            raise AssertionError("scheduling does not come to rest")
        ending.archive_settled(turn)
        admission.drop_empty_queues(turn)
        for host_id, even_unchanged in turn.dirty_hosts.items():
            self._send_assignments(turn, host_id, even_unchanged=even_unchanged)

    def _send_assignments(self, turn: Turn, host_id: HostId, *, even_unchanged: bool) -> None:
        """A session loses nothing that is sent on it, so a list that it has is not sent again."""
        presence = self.state.presence.get(host_id)
        if presence is None or presence.session_id is None:
            self._told.pop(host_id, None)
            return
        session_id = presence.session_id
        wanted = assignments(self.state, self.settings, host_id)
        if self._told.get(host_id) == (session_id, wanted) and not even_unchanged:
            return
        self._told[host_id] = session_id, wanted
        self._generation += 1
        turn.effect(
            SendAssignments(session_id=session_id, generation=self._generation, assignments=wanted)
        )


def _end(turn: Turn, given: i.Cancel | i.Terminate) -> None:
    job = ending.find_job(turn, given.job_id)
    if job is None:
        return
    index = given.node_index
    if index is not None and not (job.spec.is_multinode and index < job.spec.num_nodes):
        raise NotFound(f"Job {job.job_id}#{index} does not exist")
    whole = index is None or index == job.spec.main_node
    if isinstance(given, i.Cancel):
        if whole:
            ending.cancel_job(turn, job, given.reason)
    elif whole:
        ending.terminate_job(turn, job, given.reason)
    elif index is not None:
        ending.terminate_child(turn, job, index, given.reason)


def _room(turn: Turn, given: i.RoomSeen) -> None:
    turn.state.shortage = given.shortage


def _tick(turn: Turn, given: i.Tick) -> None:
    for kind, name in turn.timers.due(turn.now):
        match kind:
            case "host" if name in turn.state.hosts:
                silence.check_host(turn, HostId(name))
            case "job" if name in turn.state.jobs:
                job = turn.state.jobs[JobId(name)]
                ending.check_timeout(turn, job)
                barrier.check_barrier(turn, job)
                reservation.check_votes(turn, job)
            case "hello" if name in turn.state.waiting:
                hello.check_waiting(turn, SessionId(name))
            case "schedule":
                turn.reschedule = True
            case "placing":
                placing.check_wait(turn)
            case "definitions":
                admission.forget_definitions(turn)


_HANDLERS: dict[type, Callable[[Turn, Any], Reply]] = {
    i.RegisterDefinition: admission.register_definition,
    i.DeregisterDefinition: admission.deregister_definition,
    i.Submit: admission.submit,
    i.Cancel: _end,
    i.Terminate: _end,
    i.CreateQueue: admission.create_queue,
    i.UpdateQueue: admission.update_queue,
    i.DeleteQueue: admission.delete_queue,
    i.DrainHost: hosts.drain,
    i.ResumeHost: hosts.resume,
    i.FenceHost: hosts.fence,
    i.ForgetHost: hosts.forget,
    i.HostHello: hello.hello,
    i.HostHeartbeat: hosts.heartbeat,
    i.HostReport: hosts.report,
    i.HostGoodbye: hosts.goodbye,
    i.SessionEnded: hosts.session_ended,
    i.RoomSeen: _room,
    i.Tick: _tick,
}
