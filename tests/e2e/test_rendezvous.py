"""What every node knows of its gang, and the start barrier, with real daemons and processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.cluster import cluster, definition
from tests.e2e.nodes import node, python

KIT = """
import json, os
kit = {name: os.environ[f"MUSTER_{name}"] for name in ("NODE_ADDRESSES", "PEERS_FILE", "HOSTFILE")}
kit["peers"] = json.load(open(kit["PEERS_FILE"]))
kit["hostfile"] = open(kit["HOSTFILE"]).read()
print(json.dumps(kit))
"""


async def test_every_node_knows_where_all_are(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=3) as c:
        until = (
            f"import time\nwhile not os.path.exists({str(tmp_path / 'all')!r}): time.sleep(0.01)"
        )
        groups: dict[str, Sequence[str]] = {"0": python(f"{KIT}\n{until}"), "1:": python(KIT)}
        job_id = await c.submit(await c.register(definition("kit", groups, num_nodes=3)))
        await c.until(job_id, "RUNNING")
        for child in (1, 2):
            await c.until(f"{job_id}#{child}", "SUCCEEDED")
        (tmp_path / "all").touch()
        await c.until_gone(job_id)
        kits = [json.loads(await c.log(f"{job_id}#{n}")) for n in range(3)]
        records = [await c.describe(f"{job_id}#{n}") for n in range(3)]
        addresses = [
            record.container.network_interfaces[0].private_ipv4_address
            for record in records
            if record is not None
        ]
        assert len(set(addresses)) == 3
        for kit in kits:
            assert kit["NODE_ADDRESSES"].split(",") == addresses
            assert [n["privateIpv4Address"] for n in kit["peers"]["nodes"]] == addresses
            assert kit["hostfile"] == "".join(f"{address} slots=1\n" for address in addresses)
        assert [list((tmp_path / f"h{n}" / "kit").iterdir()) for n in (1, 2, 3)] == [[], [], []]


async def test_commands_wait_until_every_node_runs(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=3) as c:
        go = tmp_path / "go"
        now = python("import time; print(time.time())")
        groups: dict[str, Sequence[str]] = {"0": node("until", str(go)), "1:": now}
        job_id = await c.submit(
            await c.register(definition("barrier", groups, num_nodes=3)),
            startBarrier={"timeoutSeconds": 300},
        )
        started_ms = []
        for n in (1, 2):
            await c.until(f"{job_id}#{n}", "SUCCEEDED")
        for n in range(3):
            record = await c.describe(f"{job_id}#{n}")
            assert record is not None
            started_ms.append(record.started_at)
        went_ms = [1000 * float(await c.log(f"{job_id}#{n}")) for n in (1, 2)]
        # The coordinator's word on a node's RUNNING comes before any child's command.
        assert min(went_ms) >= max(started_ms)
        go.touch()
        assert "BarrierLifted" in await c.until_gone(job_id)
