"""Which address a host announces, in the order of preference, and when there is none."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import pytest

from agent.host.ec2_metadata import Ec2Identity
from agent.host.private_address import NoPrivateAddress, private_address
from agent.options import Endpoint

EC2 = Ec2Identity(instance_id="i-0", instance_type="c7i.large", private_ipv4="10.0.1.7")
LOOPBACK = Endpoint("127.0.0.1", 7400)


def resolving_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Let every name resolve to `address`, without asking anyone."""

    async def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (address, port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


async def test_configuration_comes_first() -> None:
    assert await private_address("10.9.9.9", EC2, LOOPBACK) == "10.9.9.9"


async def test_ec2_comes_second() -> None:
    assert await private_address(None, EC2, LOOPBACK) == "10.0.1.7"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.11", "localhost"])
async def test_loopback_serves_a_coordinator_on_loopback(host: str) -> None:
    source = await private_address(None, None, Endpoint(host, 7400))
    assert ipaddress.IPv4Address(source).is_loopback


async def test_the_source_of_the_route_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel's own answer for a far address; one of this machine's addresses is then its own
    # source, so the test needs no second machine.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))
        except OSError:
            pytest.skip("this machine has no IPv4 route")
        own = probe.getsockname()[0]
    resolving_to(monkeypatch, own)
    assert await private_address(None, None, Endpoint("coordinator.example", 7400)) == own


async def test_a_name_of_this_machine_that_resolves_to_loopback_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolving_to(monkeypatch, "127.0.1.1")
    with pytest.raises(NoPrivateAddress) as refused:
        await private_address(None, None, Endpoint("head", 7400))
    assert str(refused.value) == (
        "head resolves to 127.0.1.1, which is this machine itself, and other hosts cannot reach "
        "127.0.0.1; set private_ip (--private-ip ADDR) to the address that other hosts use for "
        "this one"
    )


async def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(NoPrivateAddress, match=r"cannot resolve the coordinator's host ::1 to an"):
        await private_address(None, None, Endpoint("::1", 7400))


async def test_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    # The broadcast address may not be connected to, whatever routes this machine has.
    resolving_to(monkeypatch, "255.255.255.255")
    with pytest.raises(NoPrivateAddress, match=r"no route to the coordinator's address 255\."):
        await private_address(None, None, Endpoint("nowhere.example", 7400))
