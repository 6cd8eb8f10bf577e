"""What EC2 says about this machine, through IMDSv2, and quickly nothing elsewhere.

The address of the metadata service is link-local: on other machines it refuses, is silent, or
belongs to another cloud. Each of these is the ordinary answer "not EC2", given within
TOTAL_SECONDS. Written on asyncio's streams, since a thread in urllib cannot be given up when a
peer dribbles, and since proxies of the environment must not see these requests. Imports nothing
of this project.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 1.0
TOTAL_SECONDS = 3.0
TOKEN_TTL_SECONDS = 60
BODY_BYTES = 4096
"""Far more than a token (56 bytes) or any value asked for here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ec2Identity:
    instance_id: str
    instance_type: str
    private_ipv4: str


class _NotEc2(Exception):
    """The peer is no metadata service that we can use; the message says why."""


async def ask(endpoint: str) -> Ec2Identity | None:
    """Who this machine is to EC2, or None when it is not on EC2 or the service is off.

    `endpoint` is `http://HOST[:PORT]`; empty means never ask. Never raises for anything that the
    peer or the network does; the reason for None is logged. Takes at most TOTAL_SECONDS.
    """
    if not endpoint:
        return None
    try:
        async with asyncio.timeout(TOTAL_SECONDS):
            return await _identity(endpoint)
    except TimeoutError:
        reason = "no answer in time"
    except (OSError, EOFError, asyncio.LimitOverrunError, _NotEc2) as error:
        reason = str(error) or type(error).__name__
    logger.info("no EC2 metadata: endpoint=%s reason=%s", endpoint, reason)
    return None


async def _identity(endpoint: str) -> Ec2Identity:
    token = await _request(
        endpoint,
        "PUT /latest/api/token",
        f"X-aws-ec2-metadata-token-ttl-seconds: {TOKEN_TTL_SECONDS}",
    )

    async def value(name: str) -> str:
        path = f"GET /latest/meta-data/{name}"
        return await _request(endpoint, path, f"X-aws-ec2-metadata-token: {token}")

    private_ipv4 = await value("local-ipv4")
    try:
        ipaddress.IPv4Address(private_ipv4)
    except ValueError as error:
        raise _NotEc2(f"local-ipv4 is {private_ipv4!r}, not an IPv4 address") from error
    return Ec2Identity(
        instance_id=await value("instance-id"),
        instance_type=await value("instance-type"),
        private_ipv4=private_ipv4,
    )


async def _request(endpoint: str, request: str, header: str) -> str:
    """One request on one connection; the body when it is one word and the status is 200."""
    url = urlsplit(endpoint)
    async with asyncio.timeout(CONNECT_SECONDS):
        reader, writer = await asyncio.open_connection(url.hostname, url.port or 80)
    try:
        writer.write(
            f"{request} HTTP/1.1\r\nHost: {url.netloc}\r\n{header}\r\n"
            "Content-Length: 0\r\nConnection: close\r\n\r\n".encode("ascii")
        )
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        if not re.match(r"HTTP/1\.[01] 200 ", head):
            raise _NotEc2(f"{request} answered {head.splitlines()[0][:80]!r}")
        length = re.search(
            r"^content-length:\s*([0-9]{1,9})\s*$", head, re.IGNORECASE | re.MULTILINE
        )
        if length is None or int(length[1]) > BODY_BYTES:
            raise _NotEc2(f"{request} answered without a usable Content-Length")
        body = (await reader.readexactly(int(length[1]))).decode("latin-1").strip()
    finally:
        # Not awaited: a peer that never closes its side must not hold us.
        writer.transport.abort()
    if not re.fullmatch(r"[!-~]+", body):
        raise _NotEc2(f"{request} answered {body[:80]!r}, not one word")
    return body
