"""Hosts with addresses of their own: two agents in two network namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import cluster, definition
from tests.e2e.namespaces import NETWORK, inside, ip
from tests.e2e.namespaces import namespaces as two_namespaces
from tests.e2e.nodes import python

pytestmark = [pytest.mark.real("netns"), pytest.mark.limit(120)]

MAIN = """
import socket
server = socket.create_server(("0.0.0.0", 4242))
print("listening", flush=True)
peer, address = server.accept()
print("child", address[0], peer.recv(100).decode(), flush=True)
"""
CHILD = """
import os, socket
main = os.environ["AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"]
while True:
    try:
        peer = socket.create_connection((main, 4242), timeout=5)
        break
    except ConnectionRefusedError:
        pass
own = peer.getsockname()[0]
print("reached", main, "from", own, flush=True)
peer.sendall(own.encode())
"""


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    with two_namespaces(2) as names:
        yield names


async def test_child_reaches_main_at_the_address_it_was_given(
    tmp_path: Path, namespaces: list[str]
) -> None:
    """The agents are told no address: they find the one of the route to the coordinator."""
    port = 7400
    async with cluster(
        tmp_path, coordinator_args=("--insecure",), listen=f"{NETWORK}.1:{port}"
    ) as c:
        for n, name in zip((2, 3), namespaces, strict=True):
            await c.agent(f"h{n}", None, prefix=inside(name)).start()
        await c.until_hosts({"h2": "FREE", "h3": "FREE"})
        definition_name = await c.register(
            definition("reach", {"0": python(MAIN), "1": python(CHILD)}, num_nodes=2)
        )
        job_id = await c.submit(definition_name)
        await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)
        main, child = [await c.log(f"{job_id}#{n}") for n in range(2)]
        record = await c.describe(f"{job_id}#0")
        assert record is not None
        [interface] = record.container.network_interfaces
        address = interface.private_ipv4_address
        other = {f"{NETWORK}.2": f"{NETWORK}.3", f"{NETWORK}.3": f"{NETWORK}.2"}[address]
        assert child == f"reached {address} from {other}\n"
        assert main == f"listening\nchild {other} {other}\n"


async def test_cut_cable_loses_the_host_and_healing_brings_it_back(
    tmp_path: Path, namespaces: list[str]
) -> None:
    """A job whose main is cut off is tried again only when the old main is proven gone."""
    quick = ("--insecure", "--lost-after-seconds", "3", "--stop-grace-seconds", "1",
             "--verdict-after-seconds", "4")  # fmt: skip
    async with cluster(tmp_path, coordinator_args=quick, listen=f"{NETWORK}.1:7400") as c:
        for n, name in zip((2, 3), namespaces, strict=True):
            await c.agent(f"h{n}", None, prefix=inside(name)).start()
        await c.until_hosts({"h2": "FREE", "h3": "FREE"})
        runs = tmp_path / "runs"
        command = ["sh", "-c", f"echo x >> {runs}; exec sleep 1000"]
        name = await c.register(
            definition("cut", {"0": command}, num_nodes=1, retryStrategy={"attempts": 2})
        )
        job_id = await c.submit(name)
        main = await c.until(f"{job_id}#0", "RUNNING")
        host_id = main.container.container_instance_arn.rpartition("/")[2]
        cut = namespaces[int(host_id[1:]) - 2]
        ip("-n", cut, "link", "set", "eth0", "down")
        waiting = await c.until(job_id, "RUNNABLE")
        assert f"muster hosts fence {host_id}" in waiting.status_reason
        assert (await c.host_states())[host_id] == "LOST"
        ip("-n", cut, "link", "set", "eth0", "up")
        await c.until(job_id, "RUNNING", deadline_seconds=60)
        assert runs.read_text() == "x\nx\n"
        await c.terminate(job_id)
        await c.until_gone(job_id)
