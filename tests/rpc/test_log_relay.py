"""Output on its way through the coordinator: a reader that leaves must not strand a delivery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

from coordinator.core.ids import JobId, NodeKey
from coordinator.rpc.log_relay import LogRelay
from coordinator.rpc.outbox import Outbox
from muster.v1 import agent_service_pb2 as pb

KEY = NodeKey(JobId("5b4d50f8-0000-4000-8000-000000000000"), 1, 0)


async def test_a_reader_that_leaves_frees_a_delivery_that_waits_for_it() -> None:
    relay, outbox = LogRelay(), Outbox()
    offered = asyncio.Event()

    async def pieces(request_id: str) -> AsyncIterator[pb.DeliverLogRequest]:
        for offset in range(100):
            if offset == 10:
                offered.set()
            yield pb.DeliverLogRequest(request_id=request_id, offset=offset, data=b"x")

    reader = relay.read(outbox, KEY, offset=0, follow=True)
    async with aclosing(cast("AsyncGenerator[tuple[int, bytes]]", reader)) as output:
        first = asyncio.ensure_future(anext(output))
        [asked] = await outbox.take()
        delivery = asyncio.create_task(relay.deliver(pieces(asked.log_request.request_id)))
        assert await first == (0, b"x")
        # The relay holds as much as it may, and the delivery waits for room.
        await asyncio.wait((delivery,), timeout=0.05)
        assert not delivery.done()
        assert not offered.is_set()
    async with asyncio.timeout(5):
        assert await delivery is False
