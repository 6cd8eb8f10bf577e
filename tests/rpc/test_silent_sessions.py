"""Sessions that say nothing, and agents that say too much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from coordinator.core import inputs as i
from coordinator.core.errors import InvalidArgument
from coordinator.core.ids import SessionId
from coordinator.rpc import agent_convert, agent_service
from coordinator.rpc.agent_service import AgentService
from coordinator.rpc.log_relay import LogRelay
from coordinator.rpc.outbox import Outbox
from coordinator.rpc.refused import RefusedAgents
from muster.v1 import agent_service_pb2 as pb
from muster.v1.agent_service_pb2_grpc import (
    AgentServiceStub,
    add_AgentServiceServicer_to_server,
)
from tests.rpc.conftest import refusal

WHO: dict[str, Any] = {
    "host_id": "h",
    "agent_uuid": "u",
    "boot_id": "b",
    "private_ipv4_address": "10.0.0.1",
}


@dataclass
class Daemon:
    """Which sessions it has heard of."""

    attached: list[SessionId] = field(default_factory=list)
    detached: list[SessionId] = field(default_factory=list)
    asked: list[i.Input] = field(default_factory=list)
    log_relay: LogRelay = field(default_factory=LogRelay)

    async def ask(self, given: i.Input) -> object:
        self.asked.append(given)
        return None

    def tell(self, given: i.Input) -> None:
        self.asked.append(given)

    def attach(self, session_id: SessionId, outbox: Outbox) -> None:
        self.attached.append(session_id)
        outbox.close()

    def detach(self, session_id: SessionId) -> None:
        self.detached.append(session_id)


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def agents(daemon: Daemon, tmp_path: Path) -> AsyncIterator[Any]:
    address = f"unix:{tmp_path / 'coordinator.sock'}"
    server = grpc.aio.server()
    add_AgentServiceServicer_to_server(AgentService(daemon, RefusedAgents()), server)
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield AgentServiceStub(channel)
    finally:
        await server.stop(None)


async def test_the_longest_silent_session_makes_room(
    agents: Any, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number of silent sessions keeps an agent out, and the daemon hears of none of them."""
    monkeypatch.setattr(agent_service, "SILENT_MAX", 2)
    silent = [agents.Session() for _ in range(4)]
    ends = asyncio.as_completed([asyncio.create_task(refusal(call)) for call in silent])
    for _ in range(2):
        # In the order in which gRPC served them, which is nobody's promise.
        assert await next(ends) == (grpc.StatusCode.INVALID_ARGUMENT, "no Hello came")
    assert (daemon.attached, daemon.detached) == ([], [])
    agent = agents.Session()
    await agent.write(pb.AgentMessage(hello=pb.Hello(**WHO)))
    assert await refusal(agent) == (grpc.StatusCode.UNAVAILABLE, "the coordinator stops")
    assert len(daemon.attached) == 1
    assert daemon.detached == daemon.attached
    # Its Hello made room for it, too.
    assert await next(ends) == (grpc.StatusCode.INVALID_ARGUMENT, "no Hello came")
    for call in silent:
        call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await next(ends)


def test_an_agent_says_no_more_than_a_host_can_have() -> None:
    for name in ("host_id", "agent_uuid", "boot_id", "version"):
        hello = pb.Hello(**(WHO | {name: "x" * 257}))
        with pytest.raises(InvalidArgument, match=rf"Hello\.{name} has 257 characters"):
            agent_convert.hello(SessionId("s"), hello)
    hello = pb.Hello(**WHO, labels={f"{n}": "" for n in range(1_001)})
    with pytest.raises(InvalidArgument, match=r"Hello\.labels has 1001 entries; it may have 1000"):
        agent_convert.hello(SessionId("s"), hello)
    nodes = [pb.NodeReport(job_id="j", progress=pb.ASSIGNED)] * 1_001
    with pytest.raises(InvalidArgument, match=r"Hello\.observed has 1001 nodes; it may have 1000"):
        agent_convert.hello(SessionId("s"), pb.Hello(**WHO, observed=nodes))
    with pytest.raises(InvalidArgument, match=r"StatusReport\.nodes has 1001 nodes"):
        agent_convert.report(SessionId("s"), pb.StatusReport(nodes=nodes))


def test_what_an_agent_says_of_a_failure_is_cut() -> None:
    node = pb.NodeReport(
        job_id="j", progress=pb.EXITED, reason="r" * 5_000, unclean_reason="u" * 5_000
    )
    seen = agent_convert.observation(node)
    assert (len(seen.reason), len(seen.unclean_reason)) == (4_099, 4_099)
