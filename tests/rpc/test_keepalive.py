"""Streams of a peer that vanished: the server ends them by itself."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from coordinator.rpc import server

READER = """
import asyncio, sys
import grpc
async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        async for _ in channel.unary_stream("/test.Stream/Open")(b""):
            print("begun", flush=True)
asyncio.run(main())
"""


def a_hundred_times_as_fast() -> list[tuple[str, int]]:
    """The server's own options; waiting for its minutes would take minutes."""
    timed = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    return [(key, value // 100 if key in timed else value) for key, value in server._OPTIONS]


async def test_the_stream_of_a_reader_that_hangs_ends() -> None:
    """Nobody else would tell: its machine answers for its connection as long as it stands."""
    ended = asyncio.Event()

    async def stream(_: bytes, __: Any) -> AsyncIterator[bytes]:
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            ended.set()

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(stream)
    serving = grpc.aio.server(options=a_hundred_times_as_fast())
    serving.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Stream", {"Open": handler}),)
    )
    port = serving.add_insecure_port("127.0.0.1:0")
    await serving.start()
    reader = await create_subprocess_exec(
        *(sys.executable, "-c", READER, f"127.0.0.1:{port}"), stdout=PIPE, stderr=PIPE
    )
    try:
        assert reader.stdout is not None
        assert await reader.stdout.readline() == b"begun\n"
        reader.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(20):
            await ended.wait()
    finally:
        reader.send_signal(signal.SIGCONT)
        reader.kill()
        await reader.communicate()
        await serving.stop(None)
