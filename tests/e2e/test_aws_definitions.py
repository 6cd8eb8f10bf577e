"""Definitions of AWS's own documentation: registered by the command as they are, and run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.cluster import ROOT, cluster
from tests.engines import RealEngine, import_image, podman_host, remove_image

__all__ = ["podman_host"]

DOCUMENTED = "123456789012.dkr.ecr.us-east-2.amazonaws.com/gromacs_mpi:latest"
IMAGE = "localhost/muster-test-gromacs:1"
# Their command is empty, so this is what runs: it looks for what AWS promises a node.
COMMAND = (
    'test -n "$AWS_BATCH_JOB_ID" && test "$AWS_BATCH_JOB_NUM_NODES" = 2 && '
    'test "$AWS_BATCH_JOB_MAIN_NODE_INDEX" = 0 && echo node $AWS_BATCH_JOB_NODE_INDEX '
    "$AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS; "
    "if [ $AWS_BATCH_JOB_NODE_INDEX = 0 ]; then echo x | nc -l -p 42425 > /dev/null; else "
    "until nc $AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS 42425 < /dev/null; do sleep 0.1; done; "
    "fi"
)


@pytest.mark.real("podman")
@pytest.mark.limit(120)
@pytest.mark.parametrize("name", ["gromacs-jobdef.json", "gromacs-jobdef-2020.json"])
async def test_as_documented_but_for_the_image(
    tmp_path: Path, podman_host: RealEngine, name: str
) -> None:
    text = (ROOT / "tests/aws" / name).read_text("utf-8")
    assert text.count(DOCUMENTED) == 1
    file = tmp_path / name
    file.write_text(text.replace(DOCUMENTED, IMAGE))
    import_image(podman_host, IMAGE, [f"CMD {json.dumps(['sh', '-c', COMMAND])}"])
    flags = [
        *("--instance-type", "p3.2xlarge", "--vcpus", "8", "--memory-mib", "24000"),
        *podman_host.agent_flags,
    ]
    try:
        async with cluster(tmp_path) as c:
            for n in (1, 2):
                await c.agent(f"h{n}", f"127.0.0.{n}", *flags, engine="podman").start()
            await c.until_hosts({"h1": "FREE", "h2": "FREE"})
            await c.muster("definitions", "register", str(file))
            job_id = (await c.muster("submit", "md", "--definition", "gromacs-jobdef")).strip()
            await c.until_gone(job_id)
            job = await c.until(job_id, "SUCCEEDED")
            outputs = [await c.log(f"{job_id}#{n}") for n in (0, 1)]
            main = await c.describe(f"{job_id}#0")
            assert main is not None
            address = main.container.network_interfaces[0].private_ipv4_address
            assert outputs == ["node 0\n", f"node 1 {address}\nx\n"]
            assert job.node_properties.node_range_properties[0].container.job_role_arn
    finally:
        remove_image(podman_host, IMAGE)
