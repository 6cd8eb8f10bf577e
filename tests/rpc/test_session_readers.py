"""Readers of a host whose session ends, in whatever way: the relay learns of it from the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest

from coordinator.core.effects import CloseSession
from coordinator.core.ids import SessionId
from coordinator.core.inputs import HostHello, Input
from coordinator.rpc.agent_service import AgentService
from coordinator.rpc.log_relay import LogRelay
from coordinator.rpc.outbox import Outbox
from coordinator.rpc.refused import RefusedAgents
from muster.v1 import agent_service_pb2 as pb
from muster.v1 import agent_service_pb2_grpc as pb_grpc
from tests.rpc.test_log_relay import delivering, reading, why_it_ends

HELLO = pb.Hello(host_id="h1", agent_uuid="u", boot_id="b", private_ipv4_address="10.0.0.1")


class Sessions:
    """A daemon with one session, that of `outbox`."""

    def __init__(self) -> None:
        self.log_relay = LogRelay()
        self.outbox: asyncio.Future[Outbox] = asyncio.get_running_loop().create_future()
        self._attached: Outbox | None = None

    async def ask(self, given: Input) -> object:
        assert isinstance(given, HostHello)
        assert self._attached is not None
        self.outbox.set_result(self._attached)
        return None

    def tell(self, given: Input) -> None:
        raise AssertionError(f"nobody said {given}")

    def attach(self, session_id: SessionId, outbox: Outbox) -> None:
        self._attached = outbox

    def detach(self, session_id: SessionId) -> None:
        self._attached = None


@pytest.fixture
async def channel(sessions: Sessions, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    pb_grpc.add_AgentServiceServicer_to_server(AgentService(sessions, RefusedAgents()), server)
    address = f"unix:{tmp_path / 'coordinator.sock'}"
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as made:
            yield made
    finally:
        await server.stop(None)


@pytest.fixture
async def sessions() -> Sessions:
    return Sessions()


def taken_over(_: Any, outbox: Outbox) -> None:
    message = "a newer session of host h1 took over"
    outbox.put(CloseSession(session_id=SessionId("old"), message=message))


def broken_off(call: Any, _: Outbox) -> None:
    call.cancel()


def coordinator_stops(_: Any, outbox: Outbox) -> None:
    outbox.close()


@pytest.mark.parametrize("end", [taken_over, broken_off, coordinator_stops])
async def test_readers_end_with_the_session(
    sessions: Sessions, channel: grpc.aio.Channel, end: Callable[[Any, Outbox], None]
) -> None:
    stub = cast("pb_grpc.AgentServiceAsyncStub", pb_grpc.AgentServiceStub(channel))
    call = stub.Session()
    await call.write(pb.AgentMessage(hello=HELLO))
    outbox = await sessions.outbox
    async with reading(sessions.log_relay, outbox) as output:
        first = asyncio.ensure_future(anext(output))
        asked = await call.read()
        assert isinstance(asked, pb.CoordinatorMessage)
        async with delivering(sessions.log_relay, asked) as agent:
            agent.say(offset=0, data=b"x")
            assert await first == (0, b"x")
            end(call, outbox)
            assert await why_it_ends(output) == "the session of host h1 has ended"
    call.cancel()
