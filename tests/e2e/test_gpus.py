"""GPUs from the driver's tool to a job's variables, and a job that asks for more than there are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.e2e.cluster import cluster, definition

SHOW = ["sh", "-c", 'test "$NVIDIA_VISIBLE_DEVICES" = "$CUDA_VISIBLE_DEVICES" && env']


def asking(name: str, gpus: int) -> dict[str, Any]:
    made = definition(name, {"0": SHOW}, num_nodes=1)
    container = made["nodeProperties"]["nodeRangeProperties"][0]["container"]
    container["resourceRequirements"].append({"type": "GPU", "value": str(gpus)})
    return made


async def test_a_hosts_gpus_are_reported_and_given(tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho GPU-a\necho GPU-b\n")
    tool.chmod(0o755)
    path = f"PATH={tool.parent}:{os.environ['PATH']}"
    async with cluster(tmp_path) as c:
        await c.agent("h1", "127.0.0.11", prefix=["env", path]).start()
        await c.until_hosts({"h1": "FREE"})
        [host] = json.loads(await c.muster("hosts", "-o", "json"))["hosts"]
        assert host["gpus"] == 2, host
        one = await c.submit(await c.register(asking("one", 1)))
        await c.until(one, "SUCCEEDED")
        await c.until_gone(one)
        assert "NVIDIA_VISIBLE_DEVICES=GPU-a" in (await c.log(f"{one}#0")).splitlines()
        three = await c.submit(await c.register(asking("three", 3)))
        waiting = await c.until(three, lambda job: "GPU" in job.status_reason)
        assert waiting.status_reason.startswith("MISCONFIGURATION:"), waiting.status_reason
        assert "h1" in waiting.status_reason
        await c.terminate(three)
        await c.until_gone(three)
