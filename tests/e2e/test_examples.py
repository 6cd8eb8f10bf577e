"""The examples as real jobs: their own definitions on four hosts, in containers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from muster.v1 import job_pb2
from tests.e2e.cluster import ROOT
from tests.e2e.four_hosts import HOSTS, four_hosts, read, run, secrets
from tests.e2e.namespaces import NETWORK
from tests.engines import PODMAN

pytestmark = [pytest.mark.real("podman"), pytest.mark.real("netns"), pytest.mark.limit(300)]
ADDRESSES = [f"{NETWORK}.{n}" for n in range(2, 2 + HOSTS)]


@pytest.mark.real("image-mpi")
@pytest.mark.real("ssh-keygen")
@pytest.mark.parametrize("main_node", [0, 2])
async def test_mpi_over_ssh(tmp_path: Path, main_node: int) -> None:
    definition = read(ROOT / "examples/mpi/definition.json")
    definition["nodeProperties"]["mainNode"] = main_node
    async with four_hosts(tmp_path, f"--secrets-file={secrets(tmp_path)}") as c:
        job, children = await run(c, definition)
        main = children.pop(main_node)
        assert job.status == job_pb2.SUCCEEDED, main
        # The secret's name is shown, and its value nowhere.
        assert "PRIVATE KEY" not in str(job) + main + "".join(children) + c.story()
    ranks = re.findall(r"rank (\d) of 4 on ip-([0-9-]+)\n", main)
    assert sorted(rank for rank, _ in ranks) == ["0", "1", "2", "3"]
    assert sorted(host.replace("-", ".") for _, host in ranks) == ADDRESSES
    assert re.search(r"^pi 3\.14159265359\d, error \S+, 4 ranks$", main, re.MULTILINE)
    assert all("Accepted publickey for root" in child for child in children)
    # Nowhere else than where the job's nodes are.
    listening = [re.findall(r"listening on (\S+) port 2022", child) for child in children]
    assert {address for (address,) in listening} < set(ADDRESSES)
    assert PODMAN.containers_of(job.job_id) == []


@pytest.mark.real("image-mpi")
@pytest.mark.real("ssh-keygen")
async def test_mpi_job_exits_as_mpirun_does(tmp_path: Path) -> None:
    definition = read(ROOT / "examples/mpi/definition.json")
    [group] = definition["nodeProperties"]["nodeRangeProperties"]
    group["container"]["command"] = ["sh", "-c", "exit 9"]
    async with four_hosts(tmp_path, f"--secrets-file={secrets(tmp_path)}") as c:
        job, outputs = await run(c, definition)
        main = await c.describe(f"{job.job_id}#0")
    assert job.status == job_pb2.FAILED
    assert main is not None
    assert main.container.exit_code == 9, outputs
    assert PODMAN.containers_of(job.job_id) == []


@pytest.mark.real("image-pytorch")
@pytest.mark.real("torch")
async def test_pytorch_ddp(tmp_path: Path) -> None:
    async with four_hosts(tmp_path, "--allow-host-paths=/opt/muster-example:ro") as c:
        job, outputs = await run(c, read(ROOT / "examples/pytorch-ddp/definition.json"))
        assert job.status == job_pb2.SUCCEEDED, outputs
    own = [re.findall(r"^node \d at (\S+) meets", output, re.MULTILINE) for output in outputs]
    assert sorted(address for (address,) in own) == ADDRESSES
    weights = [
        re.findall(r"rank \d of 4 on node (\d): weights (\w+)", output) for output in outputs
    ]
    assert [node for ((node, _),) in weights] == ["0", "1", "2", "3"]
    assert len({value for ((_, value),) in weights}) == 1
    first, last = re.findall(r"loss (\S+) -> (\S+) in 60 steps on 4 nodes", outputs[0])[0]
    assert float(last) < float(first) / 2
    assert PODMAN.containers_of(job.job_id) == []
