"""EC2's metadata service, faked on loopback, and what else may sit at its address."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from agent.host import ec2_metadata
from agent.host.ec2_metadata import Ec2Identity

Handler = Callable[[str, dict[str, str]], tuple[int, str]]
TOKEN = "AQAEAExampleToken=="
VALUES = {"instance-id": "i-0abc", "instance-type": "p5.48xlarge", "local-ipv4": "10.0.1.7"}


def ec2(request: str, headers: dict[str, str]) -> tuple[int, str]:
    """IMDSv2: nothing without a token, and a token only for a PUT with a lifetime."""
    verb, path = request.split()[:2]
    if verb == "PUT" and path == "/latest/api/token":
        lifetime = int(headers["x-aws-ec2-metadata-token-ttl-seconds"])
        return (200, TOKEN) if 1 <= lifetime <= 21600 else (400, "")
    if headers.get("x-aws-ec2-metadata-token") != TOKEN:
        return 401, ""
    value = VALUES.get(path.removeprefix("/latest/meta-data/"))
    return (200, value) if verb == "GET" and value else (404, "")


def without(name: str) -> Handler:
    return lambda request, headers: (404, "") if name in request else ec2(request, headers)


def saying(name: str, value: str) -> Handler:
    return lambda request, headers: (200, value) if name in request else ec2(request, headers)


Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(connection: Connection) -> AsyncIterator[str]:
    """A server on loopback; its endpoint. Ends with every connection closed."""
    tasks: list[asyncio.Task[None]] = []

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await connection(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # The client hung up, or the test is over.
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.get_running_loop().create_task(run(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def serving(handler: Handler) -> Connection:
    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {key.lower(): value for key, value in (line.split(": ") for line in lines)}
        status, body = handler(request, headers)
        head = f"HTTP/1.1 {status} X\r\nServer: EC2ws\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()

    return connection


def replying(answer: bytes) -> Connection:
    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await reader.read()

    return connection


async def test_ec2_says_who_this_machine_is() -> None:
    async with listening(serving(ec2)) as endpoint:
        assert await ec2_metadata.ask(endpoint) == Ec2Identity(
            instance_id="i-0abc", instance_type="p5.48xlarge", private_ipv4="10.0.1.7"
        )


async def test_an_empty_endpoint_is_never_asked() -> None:
    assert await ec2_metadata.ask("") is None


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (lambda *_: (403, ""), "PUT /latest/api/token answered 'HTTP/1.1 403 X'"),
        (without("token"), "PUT /latest/api/token answered 'HTTP/1.1 404 X'"),
        (without("instance-type"), "instance-type answered 'HTTP/1.1 404 X'"),
        (saying("local-ipv4", "fe80::1"), "local-ipv4 is 'fe80::1', not an IPv4 address"),
        (saying("instance-id", ""), "instance-id answered '', not one word"),
        (saying("token", "<html> login\r\n</html>"), "not one word"),
        (saying("token", "x" * 5000), "without a usable Content-Length"),
    ],
)
async def test_another_kind_of_answer_is_not_ec2(
    handler: Handler, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with listening(serving(handler)) as endpoint:
        assert await ec2_metadata.ask(endpoint) is None
        assert f"no EC2 metadata: endpoint={endpoint} reason=" in caplog.text
    assert reason in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nendless",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"x" * 200_000,
    ],
)
async def test_a_peer_that_babbles_or_is_silent_is_given_up_in_time(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ec2_metadata, "TOTAL_SECONDS", 0.2)
    async with listening(replying(answer)) as endpoint, asyncio.timeout(10):
        assert await ec2_metadata.ask(endpoint) is None


async def test_a_port_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: connecting is refused.
        assert await ec2_metadata.ask(f"http://127.0.0.1:{taken.getsockname()[1]}") is None
    assert "Connect call failed" in caplog.text


async def test_a_network_that_swallows_the_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ec2_metadata, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(ec2_metadata, "TOTAL_SECONDS", 60)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # One connection fills the backlog; the kernel drops the SYN of the next.
        fillers = [socket.socket() for _ in range(2)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        async with asyncio.timeout(10):
            assert await ec2_metadata.ask(f"http://127.0.0.1:{full.getsockname()[1]}") is None
        for filler in fillers:
            filler.close()
    assert "reason=no answer in time" in caplog.text
