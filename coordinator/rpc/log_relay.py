"""Output of nodes from agents to readers: the coordinator keeps none of it on the way.

A slow reader slows the agent's own stream, by gRPC's flow control, and nothing else. A reader
never waits for a host that will not answer: a delivery ends with its agent's session, and a reader
that has heard nothing for a while asks whether the host is still there. So three things end it
that a stream cannot tell: the host is lost while its connection stays open (a process that hangs, a
cable that was cut), a newer session has taken over, the session has ended.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from coordinator.core.ids import HostId, NodeKey, SessionId
from coordinator.core.state import ClusterState
from coordinator.rpc.outbox import Outbox
from coordinator.rpc.ports import Unreachable
from muster.v1 import agent_service_pb2 as pb

ANSWER_SECONDS = 10.0
"""How long an agent may take to begin delivering before it counts as out of reach for now."""
QUIET_SECONDS = 10.0
"""How long a delivery may be quiet before its reader asks whether the host is still there. A host
that is lost is known as lost to all its readers so much later at most; a thousand quiet readers ask
a hundred times a second together, which is less than a thousand hosts beat."""
_PIECES_AHEAD = 4


def away(state: ClusterState, host_id: HostId, session_id: SessionId | None) -> Unreachable | None:
    """Why a host cannot deliver on a session; None when it can."""
    host, presence = state.hosts.get(host_id), state.presence.get(host_id)
    is_here = presence is not None and presence.is_here
    # An agent that is back may not have looked at its host yet, and has the output nevertheless.
    if host is not None and host.stopped_at_ms and not is_here:
        return Unreachable(f"the agent of host {host_id} was stopped", is_passing=True)
    if presence is not None and presence.lost:
        return Unreachable(f"host {host_id} is lost: it has been silent for too long")
    if presence is None or presence.session_id is None:
        return Unreachable(f"host {host_id} is not connected", is_passing=True)
    if presence.session_id != session_id:
        return Unreachable(f"host {host_id} has connected anew", is_passing=True)
    return None


Away = Callable[[], Awaitable[Unreachable | None]]


class _Delivery:
    """The pieces that an agent has delivered and its reader has not taken yet: a few at most."""

    def __init__(self, host_id: HostId) -> None:
        self.host_id = host_id
        self._pieces: asyncio.Queue[pb.DeliverLogRequest | None] = asyncio.Queue(_PIECES_AHEAD)
        self.has_ended = False
        self.error: Unreachable | None = None
        """Why it ended before all was delivered."""

    async def put(self, piece: pb.DeliverLogRequest) -> None:
        """Wait for room."""
        await self._pieces.put(piece)

    def end(self, error: Unreachable | None = None) -> None:
        """No more comes; what waits here is still taken. The first reason counts."""
        if self.has_ended:
            return
        self.has_ended, self.error = True, error
        if self._pieces.empty():
            # Wakes a reader that waits; who comes later sees that it has ended.
            self._pieces.put_nowait(None)

    async def take(self, limit_seconds: float) -> pb.DeliverLogRequest | None:
        """The next piece; None at the end. TimeoutError when neither comes in time."""
        if self.has_ended and self._pieces.empty():
            return None
        async with asyncio.timeout(limit_seconds):
            return await self._pieces.get()

    def drop(self) -> None:
        """Make room for a delivery that waits for some, so that it sees that nobody reads."""
        while not self._pieces.empty():
            self._pieces.get_nowait()


class LogRelay:
    """Open requests by id, and by the session that they were sent on."""

    def __init__(self) -> None:
        self._open: dict[str, _Delivery] = {}
        self._of: dict[Outbox, dict[str, None]] = {}
        self._numbers = itertools.count(1)

    async def read(
        self,
        outbox: Outbox,
        host_id: HostId,
        key: NodeKey,
        *,
        offset: int,
        follow: bool,
        away: Away,
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Pieces of one node's output. Raises Unreachable when the agent does not deliver, or not
        to the end. `away` is asked while the delivery is quiet: why the host cannot be reached on
        this session, None when it can be."""
        request_id = f"{key.job_id}-{next(self._numbers)}"
        delivery = _Delivery(host_id)
        self._open[request_id] = delivery
        self._of.setdefault(outbox, {})[request_id] = None
        request = pb.LogRequest(
            request_id=request_id,
            job_id=key.job_id,
            attempt=key.attempt,
            node_index=key.node_index,
            offset=offset,
            follow=follow,
        )
        try:
            if not outbox.put_log(pb.CoordinatorMessage(log_request=request)):
                why = f"host {host_id} has too many log requests waiting"
                raise Unreachable(why, is_passing=True)
            piece = await _first(delivery)
            while piece is not None:
                yield piece.offset, piece.data
                piece = await _next(delivery, away)
            if delivery.error is not None:
                raise delivery.error
        finally:
            del self._open[request_id]
            del self._of[outbox][request_id]
            if not self._of[outbox]:
                del self._of[outbox]
            delivery.drop()
            cancel = pb.LogCancel(request_id=request_id)
            outbox.put_log(pb.CoordinatorMessage(log_cancel=cancel))

    async def deliver(self, requests: AsyncIterator[pb.DeliverLogRequest]) -> bool:
        """Take in one delivery; False when its reader has gone."""
        delivery: _Delivery | None = None
        try:
            async for piece in requests:
                delivery = self._open.get(piece.request_id)
                if delivery is None or delivery.has_ended:
                    return False
                if piece.HasField("error"):
                    why = f"host {delivery.host_id} cannot deliver: {piece.error}"
                    delivery.end(Unreachable(why))
                elif piece.complete:
                    delivery.end()
                else:
                    await delivery.put(piece)
        finally:
            if delivery is not None:
                why = f"host {delivery.host_id} broke off the delivery"
                delivery.end(Unreachable(why, is_passing=True))
        return True

    def end(self, outbox: Outbox) -> None:
        """The session is over: whoever reads through it gets what has come, and then why."""
        for request_id in self._of.get(outbox, ()):
            delivery = self._open[request_id]
            why = f"the session of host {delivery.host_id} has ended"
            delivery.end(Unreachable(why, is_passing=True))


async def _first(delivery: _Delivery) -> pb.DeliverLogRequest | None:
    try:
        return await delivery.take(ANSWER_SECONDS)
    except TimeoutError:
        why = f"host {delivery.host_id} did not answer within {ANSWER_SECONDS:.0f} s"
        # A host that stalls answers soon, or is lost before long; who follows asks again.
        raise Unreachable(why, is_passing=True) from None


async def _next(delivery: _Delivery, away: Away) -> pb.DeliverLogRequest | None:
    while True:
        try:
            return await delivery.take(QUIET_SECONDS)
        except TimeoutError:
            if (why := await away()) is not None:
                raise why from None
