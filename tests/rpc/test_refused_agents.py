"""What operators are shown of agents that may not speak for a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from coordinator.core import inputs as i
from coordinator.core.errors import DuplicateAgent
from coordinator.core.ids import SessionId
from coordinator.rpc.agent_service import AgentService
from coordinator.rpc.host_service import HostService
from coordinator.rpc.log_relay import LogRelay
from coordinator.rpc.outbox import Outbox
from coordinator.rpc.refused import RefusedAgents
from muster.v1 import agent_service_pb2 as pb
from muster.v1.agent_service_pb2_grpc import AgentServiceStub, add_AgentServiceServicer_to_server
from muster.v1.host_service_pb2 import ListHostsRequest
from muster.v1.host_service_pb2_grpc import HostServiceStub, add_HostServiceServicer_to_server
from tests.fakes.cluster import FakeCluster
from tests.rpc.conftest import refusal


class Refusing:
    """A daemon that lets nobody speak for a host."""

    log_relay = LogRelay()

    async def ask(self, given: i.Input) -> object:
        raise DuplicateAgent("host id h-1 belongs to another machine")

    def tell(self, given: i.Input) -> None: ...

    def attach(self, session_id: SessionId, outbox: Outbox) -> None: ...

    def detach(self, session_id: SessionId) -> None: ...


def hello(host_id: str, address: str = "10.0.0.9") -> pb.Hello:
    return pb.Hello(
        host_id=host_id, agent_uuid="u", boot_id="b", version="1", private_ipv4_address=address
    )


async def test_a_refused_agent_is_shown_with_the_reason(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    refused = RefusedAgents()
    server = grpc.aio.server()
    add_AgentServiceServicer_to_server(AgentService(Refusing(), refused), server)
    add_HostServiceServicer_to_server(HostService(cluster, refused), server)
    address = f"unix:{tmp_path / 'coordinator.sock'}"
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            for _ in range(2):
                call = cast("Any", AgentServiceStub(channel)).Session()
                await call.write(pb.AgentMessage(hello=hello("h-1")))
                code, _ = await refusal(call)
                assert code is grpc.StatusCode.ALREADY_EXISTS
            listed = await cast("Any", HostServiceStub(channel)).ListHosts(ListHostsRequest())
    finally:
        await server.stop(None)
    (shown,) = listed.refused
    assert (shown.host_id, shown.private_ipv4_address) == ("h-1", "10.0.0.9")
    assert shown.reason == "host id h-1 belongs to another machine"
    assert shown.at > 0


def test_only_the_newest_are_kept_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    refused, now = RefusedAgents(), [100.0]
    monkeypatch.setattr("coordinator.rpc.refused.time.monotonic", lambda: now[0])
    for number in range(30):
        refused.note(hello(f"h-{number}"), "x" * 1_000)
    found = refused.recent()
    assert [each.host_id for each in found] == [f"h-{number}" for number in range(10, 30)]
    assert len(found[0].reason) == 503
    now[0] += 119
    refused.note(hello("h-10"), "again")
    now[0] += 2
    assert [each.host_id for each in refused.recent()] == ["h-10"]
