"""Output on its way through the coordinator: a reader that leaves must not strand a delivery, nor a
host that goes its readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from coordinator.core.events import HostRegistered
from coordinator.core.ids import HostId, JobId, NodeKey, SessionId
from coordinator.core.state import ClusterState, Host, Presence
from coordinator.rpc import log_relay
from coordinator.rpc.log_relay import Away, LogRelay, away
from coordinator.rpc.outbox import Outbox
from coordinator.rpc.ports import Unreachable
from muster.v1 import agent_service_pb2 as pb
from tests.wait import eventually

KEY = NodeKey(JobId("5b4d50f8-0000-4000-8000-000000000000"), 1, 0)


Output = AsyncGenerator[tuple[int, bytes]]
HOST = HostId("h1")


async def not_away() -> Unreachable | None:
    return None


def reading(relay: LogRelay, outbox: Outbox, is_away: Away = not_away) -> aclosing[Output]:
    return aclosing(relay.read(outbox, HOST, KEY, offset=0, follow=True, away=is_away))


class Agent:
    """One delivery, piece by piece as a test wants it."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._pieces: asyncio.Queue[pb.DeliverLogRequest | None] = asyncio.Queue()

    def say(self, **members: Any) -> None:
        piece = pb.DeliverLogRequest(request_id=self._request_id, **members)
        self._pieces.put_nowait(piece)

    def break_off(self) -> None:
        self._pieces.put_nowait(None)

    async def pieces(self) -> AsyncIterator[pb.DeliverLogRequest]:
        while (piece := await self._pieces.get()) is not None:
            yield piece


@asynccontextmanager
async def delivering(relay: LogRelay, asked: pb.CoordinatorMessage) -> AsyncIterator[Agent]:
    """The agent that was asked, with its stream."""
    agent = Agent(asked.log_request.request_id)
    delivery = asyncio.create_task(relay.deliver(agent.pieces()))
    try:
        yield agent
    finally:
        delivery.cancel()
        await asyncio.wait((delivery,))


async def rest_of(output: Output, offsets: list[int]) -> None:
    async with asyncio.timeout(5):
        async for offset, _ in output:
            offsets.append(offset)


async def why_it_ends(output: Output, offsets: list[int] | None = None) -> str:
    """Why the output stops, after all that came before."""
    with pytest.raises(Unreachable) as caught:
        await rest_of(output, [] if offsets is None else offsets)
    return str(caught.value)


@asynccontextmanager
async def begun(
    relay: LogRelay, outbox: Outbox, is_away: Away = not_away
) -> AsyncIterator[tuple[Output, Agent]]:
    """A reader that has had one piece, and its agent."""
    async with reading(relay, outbox, is_away) as output:
        first = asyncio.ensure_future(anext(output))
        [asked] = await outbox.take()
        async with delivering(relay, asked) as agent:
            agent.say(offset=0, data=b"x")
            assert await first == (0, b"x")
            yield output, agent


async def test_a_session_that_ends_ends_its_readers_and_no_others() -> None:
    relay, ending, other = LogRelay(), Outbox(), Outbox()
    async with begun(relay, ending) as (output, _), begun(relay, other) as (others, agent):
        relay.end(ending)
        assert await why_it_ends(output) == "the session of host h1 has ended"
        agent.say(offset=1, data=b"y")
        assert await anext(others) == (1, b"y")


async def test_what_has_come_is_read_before_the_end_of_the_session() -> None:
    relay, outbox = LogRelay(), Outbox()
    async with begun(relay, outbox) as (output, agent):
        for offset in range(1, 20):
            agent.say(offset=offset, data=b"x")
        # As much as there is room for; the agent's stream waits with the rest.
        [delivery] = relay._open.values()
        await eventually(delivery._pieces.full, 5, lambda: delivery._pieces)
        relay.end(outbox)
        came: list[int] = []
        await why_it_ends(output, came)
        assert came[:4] == [1, 2, 3, 4]
        assert came == list(range(1, 1 + len(came)))
        assert len(came) < 19


async def test_a_quiet_reader_learns_that_the_host_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stream of a process that hangs stays open, and so does that of a cut cable for long."""
    monkeypatch.setattr(log_relay, "QUIET_SECONDS", 0.0)
    relay, outbox = LogRelay(), Outbox()
    answers = iter([None, None, Unreachable("host h1 is lost")])

    async def is_away() -> Unreachable | None:
        return next(answers)

    async with begun(relay, outbox, is_away) as (output, _):
        assert await why_it_ends(output) == "host h1 is lost"


async def test_an_error_of_the_agent_is_told_after_what_it_has_delivered() -> None:
    relay, outbox = LogRelay(), Outbox()
    async with begun(relay, outbox) as (output, agent):
        agent.say(offset=1, data=b"y")
        agent.say(error="Too many open files")
        assert await anext(output) == (1, b"y")
        assert await why_it_ends(output) == "host h1 cannot deliver: Too many open files"


async def test_a_delivery_that_is_broken_off_is_not_complete() -> None:
    relay, outbox = LogRelay(), Outbox()
    async with begun(relay, outbox) as (output, agent):
        agent.break_off()
        assert await why_it_ends(output) == "host h1 broke off the delivery"


async def test_a_reader_that_is_never_answered_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_relay, "ANSWER_SECONDS", 0.0)
    relay, outbox = LogRelay(), Outbox()
    async with reading(relay, outbox) as output:
        with pytest.raises(Unreachable, match="host h1 did not answer within 0 s") as caught:
            await anext(output)
    # A follower must ask again: the host has all of the output, and only its last bytes are kept.
    assert caught.value.is_passing
    assert not relay._open
    assert not relay._of


def test_why_a_host_is_away() -> None:
    facts = HostRegistered(
        host_id=HOST,
        agent_uuid="u",
        boot_id="b",
        version="1",
        engine="process",
        instance_type="generic",
        vcpus=1,
        memory_mib=1,
        gpus=0,
        private_ipv4="10.0.0.1",
    )
    state, session = ClusterState(), SessionId("s1")

    def why() -> tuple[str, bool]:
        found = away(state, HOST, session)
        return (str(found), found.is_passing) if found is not None else ("", False)

    assert why() == ("host h1 is not connected", True)
    presence = state.presence[HOST] = Presence(last_contact_ms=0)
    assert why() == ("host h1 is not connected", True)
    presence.session_id = SessionId("s2")
    assert why() == ("host h1 has connected anew", True)
    presence.session_id = session
    assert why() == ("", False)
    state.hosts[HOST] = Host(facts=facts, stopped_at_ms=1)
    assert why() == ("", False), "its agent is back, and has not looked at its host yet"
    presence.session_id = None
    assert why() == ("the agent of host h1 was stopped", True)
    presence.session_id = session
    del state.hosts[HOST]
    presence.lost = True
    assert why() == ("host h1 is lost: it has been silent for too long", False)


async def test_a_reader_that_leaves_frees_a_delivery_that_waits_for_it() -> None:
    relay, outbox = LogRelay(), Outbox()
    offered = asyncio.Event()

    async def pieces(request_id: str) -> AsyncIterator[pb.DeliverLogRequest]:
        for offset in range(100):
            if offset == 10:
                offered.set()
            yield pb.DeliverLogRequest(request_id=request_id, offset=offset, data=b"x")

    async with reading(relay, outbox) as output:
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
