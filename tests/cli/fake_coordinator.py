"""A coordinator made of canned replies, over real gRPC, for tests of the command.

It knows every RPC from the descriptors, so a new one needs nothing here. What a test did not
prepare is refused with UNIMPLEMENTED, and all requests are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from muster.v1 import host_service_pb2, job_service_pb2


@dataclass(frozen=True)
class Refusal:
    """Ends a call with a status other than OK."""

    code: grpc.StatusCode
    details: str


AWAY = Refusal(grpc.StatusCode.UNAVAILABLE, "going away")

Step = Message | Refusal | asyncio.Event
"""Of a stream: a message, its end, or something to wait for."""

Answer = Message | Refusal | Sequence[Step] | Callable[[Any], Any]
"""A unary reply or a whole stream; or a function of the request that gives one."""


class FakeCoordinator:
    """`answers[rpc]` are given in order; the last one is given for ever."""

    def __init__(self) -> None:
        self.address = ""
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, Any]] = []
        self._server = grpc.aio.server()

    def answer(self, rpc: str, *answers: Answer) -> None:
        self.answers[rpc] = list(answers)

    def asked(self, rpc: str) -> list[Any]:
        """The requests of one RPC, in order."""
        return [request for name, request in self.requests if name == rpc]

    async def start(self, address: str = "127.0.0.1:0") -> None:
        for file in (job_service_pb2, host_service_pb2):
            for service in file.DESCRIPTOR.services_by_name.values():
                handlers = {method.name: self._handler(method) for method in service.methods}
                self._server.add_generic_rpc_handlers(
                    (grpc.method_handlers_generic_handler(service.full_name, handlers),)
                )
        self.address = f"127.0.0.1:{self._server.add_insecure_port(address)}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    def _handler(self, method: MethodDescriptor) -> Any:
        make = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(
            self._stream(method.name) if method.server_streaming else self._unary(method.name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )

    def _next(self, rpc: str, request: Message) -> Any:
        self.requests.append((rpc, request))
        prepared = self.answers.get(rpc) or [Refusal(grpc.StatusCode.UNIMPLEMENTED, "no answer")]
        chosen = prepared.pop(0) if len(prepared) > 1 else prepared[0]
        return chosen(request) if callable(chosen) else chosen

    def _unary(self, rpc: str) -> Any:
        async def reply(request: Message, context: Any) -> Message:
            chosen = self._next(rpc, request)
            if isinstance(chosen, Refusal):
                await context.abort(chosen.code, chosen.details)
            assert isinstance(chosen, Message)
            return chosen

        return reply

    def _stream(self, rpc: str) -> Any:
        async def stream(request: Message, context: Any) -> AsyncIterator[Message]:
            chosen = self._next(rpc, request)
            for step in [chosen] if isinstance(chosen, Refusal) else chosen:
                if isinstance(step, Refusal):
                    await context.abort(step.code, step.details)
                elif isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step

        return stream


@asynccontextmanager
async def running() -> AsyncIterator[FakeCoordinator]:
    """A fake that listens on a free port of loopback."""
    fake = FakeCoordinator()
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()
