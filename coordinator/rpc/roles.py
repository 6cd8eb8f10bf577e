"""Who may call what when TLS is on: the role is in the certificate's URI.

`muster://agent/HOST_ID` may hold a session, for its own host alone; `muster://user/NAME` may use
jobs and look at hosts; `muster://admin/NAME` may do everything. Without TLS there are no roles and
this interceptor is not used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

_AGENT = "/muster.v1.AgentService/"
_ADMIN_ONLY = frozenset(
    f"/muster.v1.HostService/{name}"
    for name in ("DrainHost", "ResumeHost", "FenceHost", "ForgetHost")
)
_SCHEME = "muster://"


def role_of(context: grpc.aio.ServicerContext[Any, Any]) -> tuple[str, str]:
    """(role, name) of the peer; empty strings when its certificate names none."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    for name in names:
        text = name.decode("utf-8", "replace")
        if text.startswith(_SCHEME):
            role, _, who = text.removeprefix(_SCHEME).partition("/")
            return role, who
    return "", ""


def may_call(role: str, method: str) -> bool:
    """Whether a role may call a method, named as gRPC names it: /package.Service/Method."""
    if method.startswith(_AGENT):
        return role == "agent"
    if role == "admin":
        return True
    return role == "user" and method not in _ADMIN_ONLY


async def _check(context: grpc.aio.ServicerContext[Any, Any], method: str) -> None:
    role, who = role_of(context)
    if not may_call(role, method):
        shown = f"{_SCHEME}{role}/{who}" if role else f"no {_SCHEME} URI"
        await context.abort(
            grpc.StatusCode.PERMISSION_DENIED,
            f"{method} is not for a certificate with {shown}; see the TLS part of the "
            "configuration page for the roles",
        )


def _guarded(serve: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await _check(context, method)
        return await serve(request, context)

    return guarded


def _guarded_stream(
    serve: Callable[..., AsyncIterator[Any]], method: str
) -> Callable[..., AsyncIterator[Any]]:
    async def guarded(
        request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        await _check(context, method)
        async for response in serve(request, context):
            yield response

    return guarded


class RoleInterceptor(grpc.aio.ServerInterceptor):
    """Answers PERMISSION_DENIED before a servicer is reached."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        codec = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                _guarded(handler.unary_unary, method), *codec
            )
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(
                _guarded(handler.stream_unary, method), *codec
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                _guarded_stream(handler.unary_stream, method), *codec
            )
        return grpc.stream_stream_rpc_method_handler(
            _guarded_stream(handler.stream_stream, method), *codec
        )
