"""The session with the coordinator: dial, say hello, carry messages, come back after a pause.

Knows the wire and nothing of what a node is. Must not import an engine or the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Callable
from typing import Generic, Protocol, TypeVar, cast

import grpc

from agent import notify
from agent.convert import ProtocolError
from agent.options import Endpoint, TlsFiles
from muster.v1 import agent_service_pb2 as pb
from muster.v1 import agent_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE_FIRST_SECONDS = 0.2
PAUSE_MAX_SECONDS = 15.0
"""Until a coordinator has said how often it wants to hear of us; then its heartbeat period, since
after that long without a word it begins to doubt that we are there."""
PAUSE_REFUSED_SECONDS = 30.0
"""After a refusal only an operator can change: no use in asking often, and it is logged."""
_NEW_HELLO = "the agent says hello anew, with what is true now"
_PIECES_AHEAD = 4
"""Pieces of output read before gRPC has taken the first: enough to keep the stream busy."""
_MESSAGE_BYTES = 64 * 1024 * 1024
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    # Without these a cut cable is found by TCP alone, after a quarter of an hour.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own pause between dials would add to ours and grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Many agents in one process, as in tests, must not share one connection.
    ("grpc.use_local_subchannel_pool", 1),
]


class _Requests(Generic[T]):
    """What a call sends, in order. Not a generator, and ended by us: gRPC goes on waiting for the
    next request of a call that has failed, and a generator that waits cannot be closed."""

    def __init__(self, ahead: int = 0) -> None:
        """`ahead` bounds how much `put` lets wait; 0 is no bound."""
        self._queue: asyncio.Queue[T | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(ahead) if ahead else None

    def put_nowait(self, request: T) -> None:
        self._queue.put_nowait(request)

    async def put(self, request: T) -> None:
        if self._room is not None:
            await self._room.acquire()
        self._queue.put_nowait(request)

    def end(self) -> None:
        """No more: what is queued is still sent, if the call is still there. Idempotent."""
        self._queue.put_nowait(None)

    def __aiter__(self) -> _Requests[T]:
        return self

    async def __anext__(self) -> T:
        request = await self._queue.get()
        if request is None:
            raise StopAsyncIteration
        if self._room is not None:
            self._room.release()
        return request


SessionCall = grpc.aio.StreamStreamCall[pb.AgentMessage, pb.CoordinatorMessage]


def _stub(channel: grpc.aio.Channel) -> pb_grpc.AgentServiceAsyncStub:
    # The generated class serves both kinds of channel; the stubs tell them apart by name.
    return cast("pb_grpc.AgentServiceAsyncStub", pb_grpc.AgentServiceStub(channel))


class Owner(Protocol):
    """Who the link works for: the daemon."""

    def hello(self) -> pb.Hello: ...

    def journal_seen(self, message: pb.CoordinatorMessage) -> None:
        """Every message comes here before `message`, and a Welcome after `welcome`."""
        ...

    def welcome(self, message: pb.Welcome) -> None: ...

    def message(self, message: pb.CoordinatorMessage) -> None: ...

    def disconnected(self, reason: str) -> None: ...


class Link:
    """One agent's connection. `run` goes on until it is cancelled."""

    def __init__(
        self,
        coordinator: Endpoint,
        tls: TlsFiles | None,
        owner: Owner,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._target = str(coordinator)
        self._tls = tls
        self._owner = owner
        self._chance = chance
        self._outgoing: _Requests[pb.AgentMessage] = _Requests()
        self._channel: grpc.aio.Channel | None = None
        self._call: SessionCall | None = None
        self._restarting = False
        self._pause_max = PAUSE_MAX_SECONDS

    def send(self, message: pb.AgentMessage) -> None:
        """Queue a message of this session; dropped with it, since the next Hello tells all."""
        self._outgoing.put_nowait(message)

    def restart(self) -> None:
        """End the session, if there is one, so that the next Hello tells what is true now."""
        if self._call is not None:
            self._restarting = True
            self._call.cancel()

    async def run(self) -> None:
        """Keep a session open, with jittered pauses that grow while nobody answers."""
        pause = PAUSE_FIRST_SECONDS
        while True:
            self._channel = self._open_channel()
            try:
                welcomed, refused, reason = await self._session(self._channel)
            finally:
                await self._channel.close()
                self._channel = None
            self._owner.disconnected(reason)
            if refused:
                logger.error("session refused: coordinator=%s reason=%s", self._target, reason)
                notify.status(f"refused by the coordinator {self._target}: {reason}")
                pause = PAUSE_REFUSED_SECONDS
            else:
                pause = PAUSE_FIRST_SECONDS if welcomed else min(2 * pause, self._pause_max)
                # Our own restart, as after the engine's first answer, is nothing to worry about.
                level = logging.INFO if reason == _NEW_HELLO else logging.WARNING
                logger.log(level, "session ended: coordinator=%s reason=%s", self._target, reason)
                notify.status(f"no contact with the coordinator {self._target}: {reason}")
            # Full jitter: after a restart of the coordinator a thousand agents do not call at once.
            await asyncio.sleep(pause * (0.1 + 0.9 * self._chance()))

    def _open_channel(self) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self._tls.ca.read_bytes(),
            private_key=self._tls.key.read_bytes(),
            certificate_chain=self._tls.cert.read_bytes(),
        )
        return grpc.aio.secure_channel(self._target, credentials, options=CHANNEL_OPTIONS)

    async def _session(self, channel: grpc.aio.Channel) -> tuple[bool, bool, str]:
        """One session: (was it welcomed, was it refused for good, why did it end)."""
        self._outgoing = _Requests()
        self.send(pb.AgentMessage(hello=self._owner.hello()))
        call = _stub(channel).Session(self._outgoing)
        self._call, self._restarting = call, False
        welcomed = False
        try:
            async for message in call:
                if message.HasField("welcome"):
                    welcomed = True
                    self._pause_max = max(
                        message.welcome.heartbeat_period_ms / 1000, PAUSE_FIRST_SECONDS
                    )
                    self._owner.welcome(message.welcome)
                    notify.status(f"in contact with the coordinator {self._target}")
                # Of another cluster's journal this agent must not say that it has seen it.
                if welcomed:
                    self._owner.journal_seen(message)
                if not message.HasField("welcome"):
                    self._owner.message(message)
            return welcomed, False, "the coordinator closed the session"
        except ProtocolError as error:
            return welcomed, True, str(error)
        except asyncio.CancelledError:
            # Our own restart looks like a cancellation; one of this task goes on upwards.
            if not self._restarting:
                raise
            return True, False, _NEW_HELLO
        except grpc.aio.AioRpcError as error:
            refused = error.code() in (
                grpc.StatusCode.ALREADY_EXISTS,
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.ABORTED,
            )
            return welcomed, refused, f"{error.code().name}: {error.details()}"
        finally:
            self._call = None
            call.cancel()
            self._outgoing.end()

    async def deliver_log(self, pieces: AsyncGenerator[pb.DeliverLogRequest]) -> None:
        """Deliver one log in a stream of its own; ends early when its reader has gone. What
        `pieces` raises ends the stream, so that nobody waits for more, and is raised here."""
        if self._channel is None:
            return
        requests: _Requests[pb.DeliverLogRequest] = _Requests(_PIECES_AHEAD)
        feeder = asyncio.create_task(_feed(requests, pieces))
        try:
            await _stub(self._channel).DeliverLog(requests)
        except grpc.aio.AioRpcError as error:
            logger.info("log delivery ended: %s: %s", error.code().name, error.details())
        finally:
            feeder.cancel()
            await asyncio.wait((feeder,))
            requests.end()
        if not feeder.cancelled():
            feeder.result()


async def _feed(
    requests: _Requests[pb.DeliverLogRequest], pieces: AsyncGenerator[pb.DeliverLogRequest]
) -> None:
    try:
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                await requests.put(piece)
    finally:
        requests.end()
