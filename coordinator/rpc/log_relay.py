"""Output of nodes from agents to readers: the coordinator keeps none of it on the way.

A slow reader slows the agent's own stream, by gRPC's flow control, and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

from coordinator.core.ids import NodeKey
from coordinator.rpc.outbox import Outbox
from coordinator.rpc.ports import Unreachable
from muster.v1 import agent_service_pb2 as pb

ANSWER_SECONDS = 10.0
"""How long an agent may take to begin delivering before it counts as out of reach."""
_PIECES_AHEAD = 4


class _End:
    """The delivery is over; `error` says why nothing came."""

    def __init__(self, error: str = "") -> None:
        self.error = error


class LogRelay:
    """Open requests by id."""

    def __init__(self) -> None:
        self._open: dict[str, asyncio.Queue[pb.DeliverLogRequest | _End]] = {}
        self._numbers = itertools.count(1)

    async def read(
        self, outbox: Outbox, key: NodeKey, *, offset: int, follow: bool
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Pieces of one node's output. Unreachable when the agent does not deliver."""
        request_id = f"{key.job_id}-{next(self._numbers)}"
        queue: asyncio.Queue[pb.DeliverLogRequest | _End] = asyncio.Queue(_PIECES_AHEAD)
        self._open[request_id] = queue
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
                raise Unreachable("the host has too many log requests waiting")
            async for piece in self._pieces(queue):
                yield piece
        finally:
            del self._open[request_id]
            while not queue.empty():
                # Makes room for a delivery that waits for some; then it sees that nobody reads.
                queue.get_nowait()
            cancel = pb.LogCancel(request_id=request_id)
            outbox.put_log(pb.CoordinatorMessage(log_cancel=cancel))

    async def _pieces(
        self, queue: asyncio.Queue[pb.DeliverLogRequest | _End]
    ) -> AsyncIterator[tuple[int, bytes]]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                item = await queue.get()
        except TimeoutError:
            raise Unreachable(f"the host did not answer within {ANSWER_SECONDS:.0f} s") from None
        while not isinstance(item, _End):
            if item.HasField("error"):
                raise Unreachable(item.error)
            yield item.offset, item.data
            item = await queue.get()
        if item.error:
            raise Unreachable(item.error)

    async def deliver(self, requests: AsyncIterator[pb.DeliverLogRequest]) -> bool:
        """Take in one delivery; False when its reader has gone."""
        queue: asyncio.Queue[pb.DeliverLogRequest | _End] | None = None
        end = _End("the host broke off the delivery")
        try:
            async for piece in requests:
                queue = self._open.get(piece.request_id)
                if queue is None:
                    return False
                if piece.complete:
                    end = _End()
                else:
                    await queue.put(piece)
        finally:
            if queue is not None:
                await queue.put(end)
        return True
