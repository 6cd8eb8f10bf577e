"""Sessions between agents and the coordinator: two ordered streams of protobuf bytes each.

A stream keeps its order or ends; it never loses a message in the middle, as TCP does not. What
was in flight when it is cut may be lost. Each end learns of a cut at its own time. What waits to be
sent downwards waits in the coordinator's own `Outbox`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from coordinator.core.effects import Effect
from coordinator.core.ids import SessionId
from coordinator.rpc.outbox import Outbox
from muster.v1 import agent_service_pb2 as pb

if TYPE_CHECKING:
    from tests.sim.log_stream import LogStream
    from tests.sim.sim_agent import SimAgent
    from tests.sim.world import World

KEEPALIVE_MS = 30_000
"""How long an end that gets no answer to its pings may go on before it gives a connection up."""


class _WakingOutbox(Outbox):
    """It wakes its session when a log request is put: no step flushes that."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__()
        self._wake = wake

    def put_log(self, message: pb.CoordinatorMessage) -> bool:
        has_room = super().put_log(message)
        self._wake()
        return has_room


class Session:
    """One connection of one agent to one life of the coordinator."""

    def __init__(self, world: World, agent: SimAgent, session_id: SessionId) -> None:
        self.world = world
        self.agent = agent
        self.session_id = session_id
        self.coordinator_life = world.coordinator.life
        self.opened_at_ms = world.now
        self.incarnation = 0
        """Of its Hello, once that has come."""
        self.open_at_agent = True
        self.open_at_coordinator = True
        self.cut = False
        self.late = False
        """What the agent had sent when it was cut still arrives: its kernel goes on trying."""
        self._last_up_ms = 0
        self._last_down_ms = 0
        self.outbox = _WakingOutbox(self._flush_soon)
        self._flushing = False
        self.streams: dict[str, LogStream] = {}
        """What is delivered on this connection, by request."""

    # agent -> coordinator

    def send_up(self, message: pb.AgentMessage) -> None:
        if self.cut or not self.open_at_agent:
            return
        data = message.SerializeToString()
        self._last_up_ms = self._arrival(self._last_up_ms)
        self.world.at(self._last_up_ms, lambda: self._arrive_up(data))

    def _arrive_up(self, data: bytes) -> None:
        if self.gets_through():
            self.world.coordinator.hear(lambda: self._received(data))

    def gets_through(self) -> bool:
        """Whether what the agent has sent still arrives."""
        is_cut = self.cut and not self.late
        return not is_cut and self.coordinator_life == self.world.coordinator.life

    def _received(self, data: bytes) -> None:
        if self.open_at_coordinator:
            self.world.coordinator.receive(self, pb.AgentMessage.FromString(data))

    # coordinator -> agent

    def put(self, effect: Effect, token: bytes = b"") -> None:
        self.outbox.put(effect, token)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            delay_ms = self.world.delay(self.world.knobs.delay_ms // 2)
            self.world.coordinator.later(delay_ms, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        messages = self.outbox.take_now()
        if self.cut:
            return
        for message in messages:
            self._last_down_ms = self._arrival(self._last_down_ms)
            self.world.at(
                self._last_down_ms, partial(self._arrive_down, message.SerializeToString())
            )
        if self.outbox.refusal is not None:
            self.refuse()

    def _arrive_down(self, data: bytes) -> None:
        if not self.cut and self.open_at_agent:
            self.agent.receive(self, pb.CoordinatorMessage.FromString(data))

    def refuse(self) -> None:
        """The coordinator ends it, in order: what it has sent arrives."""
        self._ended()
        self._last_down_ms = self._arrival(self._last_down_ms)
        self.world.at(self._last_down_ms, lambda: None if self.cut else self.end_at_agent())

    # ends

    def _arrival(self, last_ms: int) -> int:
        now = self.world.now
        arrival = max(last_ms, now + self.world.delay(self.world.knobs.delay_ms))
        return max(arrival, self.agent.host.stalled_until_ms)

    def end_at_agent(self) -> None:
        if self.open_at_agent:
            self.open_at_agent = False
            for stream in self.streams.values():
                stream.leave()
            self.agent.link_ended(self)

    def end_at_coordinator(self) -> None:
        if self.coordinator_life == self.world.coordinator.life:
            self.world.coordinator.hear(self._ended)

    def _ended(self) -> None:
        if self.open_at_coordinator:
            self.open_at_coordinator = False
            for stream in self.streams.values():
                stream.break_at_coordinator()
            self.world.coordinator.session_ended(self)

    def hang_up(self) -> None:
        """The agent ends it, in order: what it has sent arrives."""
        self.end_at_agent()
        self._last_up_ms = self._arrival(self._last_up_ms)
        self.world.at(self._last_up_ms, self.end_at_coordinator)

    def give_up(self, hello: pb.Hello) -> None:
        """A Hello is stuck: the agent leaves the connection, and it arrives all the same."""
        rng = self.world.rng
        self.agent.host.disturb(self.world.now + 20_000)
        self._last_up_ms = self.world.now + rng.randint(1_000, 15_000)
        self.send_up(pb.AgentMessage(hello=hello))
        self.cut = self.late = True
        self.world.after(rng.randint(10, 2_000), self.end_at_agent)
        self.world.after(rng.randint(20_000, 60_000), self.end_at_coordinator)

    def unanswered(self) -> None:
        """The coordinator has not answered for too long: the agent leaves the connection, and what
        it has sent waits at the other end."""
        if not self.cut:
            self.cut = self.late = True
            self.end_at_agent()
            self.end_at_coordinator()

    def break_off(self, *, notice_ms: int) -> None:
        """All that is in flight is lost; each end notices within `notice_ms`."""
        self.cut = True
        self.late = self.world.chance(self.world.knobs.late)
        self.agent.host.disturb(self.world.now + notice_ms)
        rng = self.world.rng
        self.world.after(int(rng.random() * notice_ms), self.end_at_agent)
        self.world.after(int(rng.random() * notice_ms), self.end_at_coordinator)
