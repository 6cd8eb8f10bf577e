"""A network of the engine: own addresses, eth0, and a hostname that leads to the address."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agent.engine.container import ContainerEngine
from tests.contract.engine_bench import CONTAINERS, Bench, bench, host, shell

__all__ = ["bench", "host"]

pytestmark = [CONTAINERS, pytest.mark.limit(120)]


@pytest.fixture
async def network(bench: Bench) -> AsyncIterator[str]:
    """A bridge of the engine under test, which uses it from here on."""
    assert bench.real is not None
    name = f"muster-test-{os.getpid()}"
    create = [*bench.real.argv, "network", "create", "--subnet", "10.214.5.0/24", name]
    await asyncio.to_thread(subprocess.run, create, check=True, capture_output=True)
    assert isinstance(bench.engine, ContainerEngine)
    bench.engine._site = replace(bench.engine._site, network=name)
    yield name
    for key in bench.keys:
        await bench.engine.remove(key)
    remove = [*bench.real.argv, "network", "rm", name]
    await asyncio.to_thread(subprocess.run, remove, check=True, capture_output=True)


async def test_two_containers_reach_each_other_at_promised_addresses(
    bench: Bench, network: str
) -> None:
    server = bench.key()
    serve = shell("echo ready; echo hello | nc -l -p 4242")
    spec = bench.spec(server, serve)
    address = await bench.engine.prepare(server, spec)
    started = await bench.engine.start(server, replace(spec, address=address))
    assert started.private_ipv4 == address
    assert address.startswith("10.214.5.")
    await bench.ready(server)
    client = bench.key()
    script = (
        f"nc {address} 4242 < /dev/null; cat /proc/net/dev /proc/sys/kernel/hostname /etc/hosts"
    )
    spec = bench.spec(client, shell(script))
    other = await bench.engine.prepare(client, spec)
    assert other != address
    await bench.engine.start(client, replace(spec, address=other))
    assert (await bench.ended(client)).exit_code == 0
    said = bench.output(client)
    name = f"ip-{other.replace('.', '-')}"
    assert said.startswith("hello\n")
    assert "eth0:" in said
    hosts = [line.split() for line in said.splitlines() if name in line.split()[1:]]
    assert [line[0] for line in hosts] == [other]


async def test_a_configured_address(bench: Bench, network: str) -> None:
    assert isinstance(bench.engine, ContainerEngine)
    bench.engine._network.address = "10.214.5.77"
    key = bench.key()
    spec = bench.spec(key, bench.programs.once)
    assert await bench.engine.prepare(key, spec) == "10.214.5.77"
    started = await bench.engine.start(key, replace(spec, address="10.214.5.77"))
    assert started.private_ipv4 == "10.214.5.77"
    await bench.restart_agent()
    await bench.ended(key)


async def test_a_network_that_is_not_there_is_a_vote_against(bench: Bench) -> None:
    assert isinstance(bench.engine, ContainerEngine)
    bench.engine._site = replace(bench.engine._site, network="no-such-net")
    key = bench.key()
    with pytest.raises(Exception, match=r"CannotCreateContainerError: .*no-such-net"):
        await bench.engine.prepare(key, bench.spec(key, bench.programs.once))
