"""Containers with addresses of their own on the hosts' network: macvlan, across two hosts."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.cluster import cluster, definition
from tests.e2e.namespaces import NETWORK, inside, namespaces
from tests.engines import IMAGE, RealEngine, podman_host

__all__ = ["podman_host"]

# What aws-batch-spec section 15 asks for: own address at eth0, to which the hostname leads. Then
# what the node is told of all, which it cannot change.
OWN = """own=$(hostname -i); ip -4 -o address show dev eth0; echo own $own
echo all $MUSTER_NODE_ADDRESSES $(cat $MUSTER_HOSTFILE)
for file in $MUSTER_HOSTFILE $MUSTER_PEERS_FILE; do
    (echo x >>$file) 2>/dev/null || echo "cannot write $file"
done"""
# Its standard input never ends: nc would end the connection with it, and the child's nc may leave
# then before it has sent anything.
MAIN = f"{OWN}; mkfifo /in; nc -l -p 22 <>/in"
CHILD = f"""{OWN}
until echo "hello from $own" | nc -w 5 $AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS 22
do sleep 0.1
done
"""


@contextlib.contextmanager
def macvlan(engine: RealEngine, host: str, number: int) -> Iterator[str]:
    """A network of the engine in the namespace `host`, with a range of addresses for it alone."""
    name = f"muster-net-{host}"
    within = [*inside(host), *engine.argv, "network"]
    flags = [
        *("--driver", "macvlan", "--opt", "parent=eth0", "--subnet", f"{NETWORK}.0/24"),
        *("--gateway", f"{NETWORK}.1", "--ip-range", f"{NETWORK}.{16 * number}/28"),
    ]
    subprocess.run([*within, "create", *flags, name], check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run([*within, "rm", "--force", name], check=True, capture_output=True)


@pytest.mark.real("podman")
@pytest.mark.real("netns")
@pytest.mark.limit(180)
async def test_peers_reach_one_another_at_their_containers_own_addresses(
    tmp_path: Path, podman_host: RealEngine
) -> None:
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(namespaces(2))
        networks = [stack.enter_context(macvlan(podman_host, h, n)) for n, h in enumerate(hosts, 4)]
        listen = f"{NETWORK}.1:7400"
        async with cluster(tmp_path, coordinator_args=["--insecure"], listen=listen) as c:
            for n, (host, network) in enumerate(zip(hosts, networks, strict=True), 1):
                flags = [*podman_host.agent_flags, f"--network={network}"]
                agent = c.agent(f"h{n}", None, *flags, prefix=inside(host), engine="podman")
                await agent.start()
            await c.until_hosts({"h1": "FREE", "h2": "FREE"})
            groups: dict[str, Sequence[str]] = {"0": ["sh", "-c", MAIN], "1": ["sh", "-c", CHILD]}
            name = await c.register(definition("own", groups, num_nodes=2, image=IMAGE))
            job_id = await c.submit(name)
            await c.until_gone(job_id, 120)
            await c.until(job_id, "SUCCEEDED")
            told = []
            for n in range(2):
                record = await c.describe(f"{job_id}#{n}")
                assert record is not None
                told.append(record.container.network_interfaces[0].private_ipv4_address)
            main, child = [(await c.log(f"{job_id}#{n}")).splitlines() for n in range(2)]
    # One of each host's range, and none of a host's own.
    assert sorted(int(address.rpartition(".")[2]) // 16 for address in told) == [4, 5]
    kit = [
        f"all {told[0]},{told[1]} {told[0]} slots=1 {told[1]} slots=1",
        "cannot write /run/muster/hostfile",
        "cannot write /run/muster/peers.json",
    ]
    assert main[1:] == [f"own {told[0]}", *kit, f"hello from {told[1]}"]
    assert child[1:] == [f"own {told[1]}", *kit]
    for lines, address in ((main, told[0]), (child, told[1])):
        assert f" eth0 inet {address}/24 " in " ".join(lines[0].split())
