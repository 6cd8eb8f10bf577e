"""How long a request may be, looked at before anything of it is read, and how long a reply is.

gRPC has one limit for all that a server receives; an RPC's own is kept where its bytes would be
read. Must not import a service. docs/limits.md has every limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError, Message

RECEIVED_BYTES_MAX = 1024 * 1024
"""Of any message. What agents send is the longest: a report with the last output of ten nodes."""
REQUEST_BYTES_MAX = 32 * 1024
"""AWS takes definitions of 24 KiB and submissions of 30, as JSON, which is never shorter."""
_LONGER = {
    # 50 tags of 384 characters, which may be of four bytes each.
    "CreateJobQueue": 128 * 1024,
}
REPLY_BYTES_MAX = 4 * 1024 * 1024 - 64 * 1024
"""gRPC's default for what a client takes, 4 MiB, less what is round the items of a list."""
ITEM_BYTES = 8
"""What a list adds to each of its items: their number and their length."""


@dataclass(frozen=True, slots=True)
class Unread:
    """Stands for a request that was not read; `why` is for its sender."""

    why: str


class SizedServices:
    """What generated code registers services with, instead of the server: each RPC's requests are
    measured before they are read. One that is too long, or no message at all, comes as Unread."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Generated code offers everything twice; by name is what we can wrap."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        sized = {
            name: handler._replace(request_deserializer=_sized(name, handler.request_deserializer))
            for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, sized),)
        )


def sized_services(server: grpc.aio.Server) -> grpc.aio.Server:
    """For `add_XServicer_to_server`, which asks for no more than `SizedServices` has."""
    return cast("grpc.aio.Server", SizedServices(server))


def _sized(rpc: str, read: Callable[[bytes], Message]) -> Callable[[bytes], Message | Unread]:
    most = _LONGER.get(rpc, REQUEST_BYTES_MAX)

    def read_sized(wire: bytes) -> Message | Unread:
        if len(wire) > most:
            return Unread(f"{rpc}: the request has {len(wire)} bytes; it may have {most}")
        try:
            return read(wire)
        except DecodeError:
            return Unread(f"{rpc}: the request is no message of muster.v1")

    return read_sized
