"""One delivery of a node's output: a stream of its own on the connection of a session.

It ends with its connection, and it may break alone. The coordinator's end is its own `LogRelay`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from agent.core.assignment import NodeKey
from muster.v1 import agent_service_pb2 as pb
from tests.sim.sim_spool import PIECE_BYTES

if TYPE_CHECKING:
    from tests.sim.network import Session


class _Broken(Exception):
    """What gRPC raises when a stream does not come to its end."""


class LogStream:
    def __init__(self, session: Session, request: pb.LogRequest) -> None:
        self.session = session
        self.world = session.world
        self.request = request
        self.host = session.agent.host
        self.key = NodeKey(
            job_id=request.job_id, attempt=request.attempt, node_index=request.node_index
        )
        self._spool = self.host.spools.get(self.key)
        self._at = request.offset
        self._until: int | None = None
        """Where it ends; None: where the output does."""
        self._open_at_agent = True
        self._cut = False
        self._last_ms = 0
        self._arrived: asyncio.Queue[pb.DeliverLogRequest | _Broken | None] = asyncio.Queue()

    # the agent's end

    def begin(self) -> None:
        """It does as `agent.logs` does: the first message names the request, and the last says that
        it is all."""
        self.world.at(self._arrival(), self._arrive_opened)
        if self._spool is None or not self.host.tails_read.get(self.key, True):
            self._send(error="this host does not have the node's output, or cannot read it")
            self.end_at_agent()
            return
        if self._at < 0:
            self._at = max(self._spool.end + self._at, 0)
        if not self.request.follow:
            self._until = self._spool.end
        self._spool.readers[self._pump] = None
        self._send(offset=self._at)
        self._pump()

    def _pump(self) -> None:
        assert self._spool is not None
        if not (self._open_at_agent and self.session.open_at_agent):
            self.leave()
            return
        until = self._spool.end if self._until is None else self._until
        while self._at < until:
            data = self._spool.read(self._at, min(PIECE_BYTES, until - self._at))
            self._send(offset=self._at, data=data)
            self._at += len(data)
        if self._until is not None or self._spool.is_finished:
            self._send(complete=True)
            self.end_at_agent()

    def _send(self, **members: object) -> None:
        piece = pb.DeliverLogRequest(request_id=self.request.request_id, **members)  # type: ignore[arg-type]
        self.world.at(self._arrival(), lambda: self._arrive(piece))

    def end_at_agent(self) -> None:
        """In order: what it has sent arrives."""
        if self._open_at_agent:
            self.leave()
            self.world.at(self._arrival(), lambda: self._arrive(None))

    def leave(self) -> None:
        """It reads no further."""
        self._open_at_agent = False
        if self._spool is not None:
            self._spool.readers.pop(self._pump, None)

    # the line

    def _arrival(self) -> int:
        delay_ms = self.world.delay(self.world.knobs.delay_ms)
        self._last_ms = max(self._last_ms, self.world.now + delay_ms, self.host.stalled_until_ms)
        return self._last_ms

    def _gets_through(self) -> bool:
        return not self._cut and self.session.gets_through()

    def _arrive_opened(self) -> None:
        if self._gets_through():
            self.world.coordinator.hear(self._opened)

    def _arrive(self, piece: pb.DeliverLogRequest | None) -> None:
        if self._gets_through():
            self.world.coordinator.hear(lambda: self._arrived.put_nowait(piece))

    def break_off(self, *, notice_ms: int) -> None:
        """It breaks, and its connection does not: what is in flight is lost."""
        self._cut = True
        self.world.after(int(self.world.rng.random() * notice_ms), self.leave)
        notice = int(self.world.rng.random() * notice_ms)
        self.world.after(notice, lambda: self.world.coordinator.hear(self.break_at_coordinator))

    # the coordinator's end

    def _opened(self) -> None:
        if self.session.open_at_coordinator:
            self.world.coordinator.reads.loop.start(self._deliver())

    def break_at_coordinator(self) -> None:
        self._arrived.put_nowait(_Broken())

    async def _deliver(self) -> None:
        try:
            await self.world.coordinator.reads.relay.deliver(self._pieces())
        except _Broken:
            return
        # Its reader has gone, or all has been delivered: the agent learns that the call is over.
        self.world.after(self.world.delay(self.world.knobs.delay_ms), self.leave)

    async def _pieces(self) -> AsyncIterator[pb.DeliverLogRequest]:
        while (piece := await self._arrived.get()) is not None:
            if isinstance(piece, _Broken):
                raise piece
            yield piece
