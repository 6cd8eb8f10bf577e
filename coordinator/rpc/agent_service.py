"""AgentService: one coroutine pair per session. Decides nothing: stream -> inputs, effects ->
stream."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Protocol

import grpc

from coordinator.core.errors import DuplicateAgent, InvalidArgument
from coordinator.core.ids import SessionId
from coordinator.core.inputs import Input
from coordinator.rpc import agent_convert
from coordinator.rpc.log_relay import LogRelay
from coordinator.rpc.outbox import Outbox
from coordinator.rpc.ports import Overloaded
from coordinator.rpc.refused import RefusedAgents
from coordinator.rpc.roles import role_of
from muster.v1 import agent_service_pb2 as pb
from muster.v1 import agent_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

HELLO_SECONDS = 30.0
SILENT_MAX = 1_000
"""Sessions that have not said Hello."""


class Sessions(Protocol):
    """The daemon, as this service sees it."""

    log_relay: LogRelay

    async def ask(self, given: Input) -> object: ...

    def tell(self, given: Input) -> None: ...

    def attach(self, session_id: SessionId, outbox: Outbox) -> None: ...

    def detach(self, session_id: SessionId) -> None: ...


Context = grpc.aio.ServicerContext[pb.AgentMessage, pb.CoordinatorMessage]


class AgentService(pb_grpc.AgentServiceServicer):
    def __init__(self, sessions: Sessions, refused: RefusedAgents) -> None:
        self._sessions = sessions
        self._refused = refused
        self._silent: dict[SessionId, asyncio.Timeout] = {}

    async def Session(
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: Context
    ) -> AsyncIterator[pb.CoordinatorMessage]:
        session_id = SessionId(str(uuid.uuid4()))
        # Before its Hello a session is nothing to the daemon: anybody can open thousands of them.
        first = await self._first(session_id, request_iterator, context)
        outbox = Outbox()
        self._sessions.attach(session_id, outbox)
        reader: asyncio.Task[None] | None = None
        try:
            await self._hello(session_id, first, context)
            reader = asyncio.create_task(self._read(session_id, request_iterator, outbox))
            while not outbox.closed:
                for message in await outbox.take():
                    yield message
                if outbox.refusal is not None:
                    if outbox.refusal.is_refusal:
                        who, why = first.hello.host_id, outbox.refusal.message
                        logger.warning("refused: host=%s session=%s %s", who, session_id, why)
                        self._refused.note(first.hello, why)
                    code = (
                        grpc.StatusCode.ALREADY_EXISTS
                        if outbox.refusal.is_refusal
                        else grpc.StatusCode.ABORTED
                    )
                    await context.abort(code, outbox.refusal.message)
            if outbox.fault:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, outbox.fault)
            if not reader.done():
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the coordinator stops")
        finally:
            self._sessions.detach(session_id)
            self._sessions.log_relay.end(outbox)
            if reader is not None:
                reader.cancel()
                await asyncio.wait((reader,))

    async def _first(
        self,
        session_id: SessionId,
        requests: AsyncIterator[pb.AgentMessage],
        context: Context,
    ) -> pb.AgentMessage:
        """Of those that have said nothing yet, the longest silent makes room for the newest: an
        agent's Hello comes with its call."""
        try:
            async with asyncio.timeout(HELLO_SECONDS) as patience:
                self._silent[session_id] = patience
                if len(self._silent) > SILENT_MAX:
                    oldest = self._silent.pop(next(iter(self._silent)))
                    if not oldest.expired():
                        oldest.reschedule(asyncio.get_running_loop().time())
                try:
                    return await anext(aiter(requests))
                finally:
                    self._silent.pop(session_id, None)
        except (TimeoutError, StopAsyncIteration):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no Hello came")
            raise AssertionError("abort returned") from None

    async def _hello(self, session_id: SessionId, first: pb.AgentMessage, context: Context) -> None:
        if not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be Hello")
        role, who = role_of(context)
        if role and who != first.hello.host_id:
            why = f"the certificate is for host {who}, not {first.hello.host_id}"
            self._refused.note(first.hello, why)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, why)
        try:
            await self._sessions.ask(agent_convert.hello(session_id, first.hello))
        except InvalidArgument as error:
            self._refused.note(first.hello, str(error))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except DuplicateAgent as error:
            logger.warning("refused: host=%s %s", first.hello.host_id, error)
            self._refused.note(first.hello, str(error))
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, str(error))
        except Overloaded as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        logger.info("session: host=%s session=%s", first.hello.host_id, session_id)

    async def _read(
        self,
        session_id: SessionId,
        requests: AsyncIterator[pb.AgentMessage],
        outbox: Outbox,
    ) -> None:
        """Messages become inputs in the order they came. Ends the session when they end."""
        try:
            async for message in requests:
                self._sessions.tell(agent_convert.said(session_id, message))
        except InvalidArgument as error:
            outbox.fault = str(error)
            logger.warning("session broken off: session=%s %s", session_id, error)
        except Overloaded as error:
            # The agent comes back with a Hello that tells all; nothing it said is lost for good.
            logger.warning("session broken off: session=%s %s", session_id, error)
        finally:
            outbox.close()

    async def DeliverLog(
        self,
        request_iterator: AsyncIterator[pb.DeliverLogRequest],
        context: grpc.aio.ServicerContext[pb.DeliverLogRequest, pb.DeliverLogResponse],
    ) -> pb.DeliverLogResponse:
        if not await self._sessions.log_relay.deliver(request_iterator):
            await context.abort(grpc.StatusCode.CANCELLED, "the reader has gone")
        return pb.DeliverLogResponse()
