"""Whom the coordinator has heard, and when: what silence is held against, worked out anew.

What a session says is a sign of its host when the session is open, or certainly will be. A Hello
that has to wait, or is refused, is none.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from coordinator.core.effects import SendWelcome, Step
from coordinator.core.ids import HostId, SessionId
from muster.v1 import agent_service_pb2 as pb

if TYPE_CHECKING:
    from tests.sim.network import Session
    from tests.sim.sim_coordinator import SimCoordinator
    from tests.sim.sim_host import SimHost


Memory = tuple[dict[HostId, "SimHost"], dict[HostId, "Session"]]


class Hearing:
    def __init__(self, coordinator: SimCoordinator) -> None:
        self._coordinator = coordinator
        self.speakers: dict[HostId, SimHost] = {}
        """The machine that was last welcomed as each host."""
        self.heard_at_ms: dict[HostId, int] = {}
        """When each host was heard last, by the world."""
        self._heard_ms: dict[HostId, list[int]] = {}
        """When each host's messages came out of its socket, by `awake_ms`."""
        self._newest: dict[HostId, Session] = {}

    def remembered(self) -> Memory:
        """Who has spoken for which host, as a journal knows it."""
        return dict(self.speakers), dict(self._newest)

    def go_back(self, memory: Memory) -> None:
        """The journal that knew this is back."""
        self.speakers, self._newest = dict(memory[0]), dict(memory[1])

    def message(self, session: Session, message: pb.AgentMessage) -> None:
        """It came, and is taken in. A message of an older session is no sign of its host."""
        host_id = session.agent.host.host_id
        if message.HasField("hello"):
            session.incarnation = message.hello.incarnation
            if self._goes_on(host_id, session):
                self._newest[host_id] = session
        if self._newest.get(host_id) is session:
            self._heard(host_id)

    def withdrawn(self, host_id: HostId, session_id: SessionId) -> None:
        """Its Hello is refused for want of room, and so it was not heard."""
        newest = self._newest.get(host_id)
        if newest is not None and newest.session_id == session_id and self._heard_ms.get(host_id):
            self._heard_ms[host_id].pop()

    def welcomed(self, step: Step, sessions: dict[SessionId, Session]) -> None:
        """What a step has opened is heard with it at the latest."""
        for effect in step.effects:
            if not isinstance(effect, SendWelcome) or effect.session_id not in sessions:
                continue
            session = sessions[effect.session_id]
            host = session.agent.host
            if self._newest.get(host.host_id) is not session:
                self._newest[host.host_id] = session
                self._heard(host.host_id)
            if self.speakers.get(host.host_id) is not host:
                host.world.note(f"{host.name} speaks for {host.host_id} from now on")
                self.speakers[host.host_id] = host

    def silent_ms(self, host_id: HostId, told_until_ms: int, since_ms: int) -> int:
        """For how long it was awake, from `since_ms` on, and had heard nothing of a host, of all
        that it has been told of."""
        heard_ms = self._heard_ms.setdefault(host_id, [])
        told = bisect_right(heard_ms, told_until_ms)
        since_ms = max(heard_ms[told - 1] if told else 0, since_ms)
        del heard_ms[: max(told - 1, 0)]
        return told_until_ms - since_ms

    def _goes_on(self, host_id: HostId, session: Session) -> bool:
        """Whether its Hello certainly opens it at once: it is of the agent that was heard last,
        with the same files, in the same boot."""
        last = self._newest.get(host_id)
        return (
            last is not None
            and last.agent.directory is session.agent.directory
            and last.agent.boot_id == session.agent.boot_id
            and last.incarnation < session.incarnation
        )

    def _heard(self, host_id: HostId) -> None:
        coordinator = self._coordinator
        self._heard_ms.setdefault(host_id, []).append(coordinator.awake_ms())
        self.heard_at_ms[host_id] = coordinator.world.now
