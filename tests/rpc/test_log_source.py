"""A reader that leaves is known at once: its host is told to stop delivering."""

from __future__ import annotations

import asyncio

from coordinator.core.ids import SessionId
from coordinator.rpc.log_relay import LogRelay
from coordinator.rpc.log_source import read_log
from coordinator.rpc.outbox import Outbox
from muster.v1 import agent_service_pb2 as pb
from tests.fakes.cluster import FakeCluster, FakeHosts
from tests.rpc.conftest import Client, one_that_runs


async def test_a_reader_that_leaves_ends_the_delivery(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    job_id = await one_that_runs(client, hosts)
    relay, outbox = LogRelay(), Outbox()
    outboxes: dict[SessionId, Outbox] = {hosts.by_id["h-1"].session_id: outbox}
    output = read_log(cluster, relay, outboxes, hosts.key(job_id, 0), offset=0, follow=True)
    first = asyncio.ensure_future(anext(output))
    [asked] = await outbox.take()
    request_id = asked.log_request.request_id
    relay._open[request_id]._pieces.put_nowait(
        pb.DeliverLogRequest(request_id=request_id, offset=0, data=b"x")
    )
    assert await first == (0, b"x")
    await output.aclose()
    assert [message.log_cancel.request_id for message in outbox.take_now()] == [request_id]
