"""Which IPv4 address other nodes of a job use to reach this host.

The first that is there: the configured one, EC2's, the source address of the route to the
coordinator. Must not import the core or an engine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket

from agent.host.ec2_metadata import Ec2Identity
from agent.options import Endpoint

logger = logging.getLogger(__name__)


class NoPrivateAddress(Exception):
    """No way gave an address that other hosts can use. The message says why and what to do."""


async def private_address(
    configured: str | None, ec2: Ec2Identity | None, coordinator: Endpoint
) -> str:
    """The address to announce. NoPrivateAddress when nothing works; sends no packet but those
    that resolving the coordinator's name takes.

    A loopback source is an answer only when the coordinator is given as `localhost` or a loopback
    address, hence when the cluster is this one machine. A name that resolves to loopback is
    refused: Debian maps a machine's own name to 127.0.1.1, and children elsewhere would look for
    the main node on themselves.
    """
    if configured is not None:
        address, origin = configured, "configuration"
    elif ec2 is not None:
        address, origin = ec2.private_ipv4, "EC2"
    else:
        address, origin = await _route_source(coordinator), "route"
    logger.info("private address: ipv4=%s origin=%s", address, origin)
    return address


async def _route_source(coordinator: Endpoint) -> str:
    loop = asyncio.get_running_loop()
    remedy = "set private_ip (--private-ip ADDR) to the address that other hosts use for this one"
    try:
        found = await loop.getaddrinfo(*coordinator, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    except socket.gaierror as error:
        raise NoPrivateAddress(
            f"cannot resolve the coordinator's host {coordinator.host} to an IPv4 address "
            f"({error.strerror}); {remedy}"
        ) from error
    target = found[0][4]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket only chooses a route; nothing is sent.
            probe.connect(target)
        except OSError as error:
            raise NoPrivateAddress(
                f"no route to the coordinator's address {target[0]} ({error.strerror}); {remedy}"
            ) from error
        source = str(probe.getsockname()[0])
    if ipaddress.IPv4Address(source).is_loopback and not coordinator.is_loopback:
        raise NoPrivateAddress(
            f"{coordinator.host} resolves to {target[0]}, which is this machine itself, and other "
            f"hosts cannot reach {source}; {remedy}"
        )
    return source
