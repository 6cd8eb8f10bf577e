"""The one table from what goes wrong to what a caller is told.

Services raise; nothing in them knows a status code. Must not import a service.
"""

from __future__ import annotations

import functools
import inspect
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar, cast

import grpc
from google.protobuf.message import Message

from coordinator.core.errors import (
    AlreadyExists,
    Conflict,
    DuplicateAgent,
    InvalidArgument,
    NoRoom,
    NotFound,
)
from coordinator.rpc.convert import refuse_unknown
from coordinator.rpc.ports import Full, Overloaded, Unreachable
from coordinator.rpc.sizes import Unread

logger = logging.getLogger(__name__)

S = TypeVar("S")
Context = grpc.aio.ServicerContext[Any, Any]


class Stopping(Exception):
    """The coordinator stops before a stream came to its end; the caller resumes it later."""


_TABLE: dict[type[Exception], tuple[grpc.StatusCode, int]] = {
    InvalidArgument: (grpc.StatusCode.INVALID_ARGUMENT, logging.DEBUG),
    NotFound: (grpc.StatusCode.NOT_FOUND, logging.DEBUG),
    Conflict: (grpc.StatusCode.FAILED_PRECONDITION, logging.DEBUG),
    AlreadyExists: (grpc.StatusCode.ALREADY_EXISTS, logging.DEBUG),
    DuplicateAgent: (grpc.StatusCode.ALREADY_EXISTS, logging.WARNING),
    NoRoom: (grpc.StatusCode.RESOURCE_EXHAUSTED, logging.INFO),
    Overloaded: (grpc.StatusCode.RESOURCE_EXHAUSTED, logging.WARNING),
    # The log has said so once, and every caller would fill the same disk with it.
    Full: (grpc.StatusCode.RESOURCE_EXHAUSTED, logging.DEBUG),
    Unreachable: (grpc.StatusCode.UNAVAILABLE, logging.INFO),
    Stopping: (grpc.StatusCode.UNAVAILABLE, logging.DEBUG),
}
"""An exception's own row counts, else that of its nearest base; one without a row is a defect."""

_DETAILS_BYTES = 2_000
"""Trailers hold 8 KiB, and a byte that is not ASCII takes three of them."""


def answering(cls: type[S]) -> type[S]:
    """Class decorator for a servicer: its RPCs, which are its public methods, refuse requests of a
    newer contract, and what they raise goes to the caller by the table. Cancellation passes."""
    for name, method in list(vars(cls).items()):
        if name.startswith("_"):
            continue
        if inspect.isasyncgenfunction(method):
            setattr(cls, name, _stream(name, method))
        elif inspect.iscoroutinefunction(method):
            setattr(cls, name, _unary(name, method))
    return cls


def _unary(
    rpc: str, method: Callable[[Any, Any, Context], Awaitable[Message]]
) -> Callable[[Any, Any, Context], Awaitable[Message]]:
    @functools.wraps(method)
    async def answer(self: object, request: Message | Unread, context: Context) -> Message:
        try:
            _readable(request)
            return await method(self, request, context)
        except Exception as error:  # becomes the status; the table decides
            await _abort(context, rpc, error)

    return answer


def _stream(
    rpc: str, method: Callable[[Any, Any, Context], AsyncIterator[Message]]
) -> Callable[[Any, Any, Context], AsyncIterator[Message]]:
    @functools.wraps(method)
    async def answer(
        self: object, request: Message | Unread, context: Context
    ) -> AsyncIterator[Message]:
        try:
            _readable(request)
            responses = cast("AsyncGenerator[Message, None]", method(self, request, context))
            async with aclosing(responses):
                async for response in responses:
                    yield response
        except Exception as error:  # becomes the status; the table decides
            await _abort(context, rpc, error)

    return answer


def _readable(request: Message | Unread) -> None:
    """InvalidArgument for a request that was too long to be read, or is of a newer contract."""
    if isinstance(request, Unread):
        raise InvalidArgument(request.why)
    refuse_unknown(request)


def status_of(error: Exception) -> tuple[grpc.StatusCode, int] | None:
    """(status, log level) of an exception; None for a defect."""
    return next((_TABLE[cls] for cls in type(error).__mro__ if cls in _TABLE), None)


async def _abort(context: Context, rpc: str, error: Exception) -> NoReturn:
    known = status_of(error)
    if known is not None:
        status, level = known
        details = str(error)
        logger.log(level, "refused: rpc=%s status=%s %s", rpc, status.name, details)
    else:
        incident = secrets.token_hex(4)
        status = grpc.StatusCode.INTERNAL
        details = (
            f"{rpc} failed by a defect of the coordinator; its log has the story: "
            f"look for incident {incident}"
        )
        logger.error("defect: rpc=%s incident=%s", rpc, incident, exc_info=error)
    await context.abort(status, _clip(details))
    raise AssertionError("abort returned") from error


def _clip(details: str) -> str:
    whole = details.encode()
    if len(whole) <= _DETAILS_BYTES:
        return details
    return f"{whole[:_DETAILS_BYTES].decode(errors='ignore')}..."
