"""The API as operators use it: grpcurl, reflection, AWS's own JSON, and the muster command."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import ROOT, Cluster, cluster, definition
from tests.e2e.nodes import node

pytestmark = pytest.mark.limit(120)


async def _run(argv: list[str], stdin: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def _grpcurl(c: Cluster, method: str, body: object) -> dict[str, Any]:
    flags = ["-plaintext", "-emit-defaults", "-d", "@"]
    code, out, err = await _run(["grpcurl", *flags, c.address, method], json.dumps(body))
    assert code == 0, err
    answer: dict[str, Any] = json.loads(out)
    return answer


@pytest.mark.real("grpcurl")
async def test_a_job_by_grpcurl_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=2) as c:
        code, out, err = await _run(["grpcurl", "-plaintext", c.address, "list"])
        assert code == 0, err
        assert {
            "muster.v1.JobService",
            "muster.v1.HostService",
            "muster.v1.AgentService",
            "grpc.health.v1.Health",
        } <= set(out.split())
        health = await _grpcurl(c, "grpc.health.v1.Health/Check", {})
        assert health == {"status": "SERVING"}
        job = "muster.v1.JobService"
        body = definition("byhand", {"0:": node("exit", "0")}, num_nodes=2)
        made = await _grpcurl(c, f"{job}/RegisterJobDefinition", body)
        assert made["revision"] == 1
        submitted = await _grpcurl(
            c,
            f"{job}/SubmitJob",
            {"jobName": "j", "jobQueue": "default", "jobDefinition": "byhand"},
        )
        job_id = submitted["jobId"]
        await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)
        [shown] = (await _grpcurl(c, f"{job}/DescribeJobs", {"jobs": [job_id]}))["jobs"]
        assert shown["status"] == "SUCCEEDED"
        assert shown["createdAt"] > 1.7e12, "a number of milliseconds, not text"
        assert shown["attempts"][0]["container"]["exitCode"] == 0
        assert "container" not in shown
        assert shown["nodeProperties"]["nodeRangeProperties"][0]["container"]["volumes"] == []


@pytest.mark.real("grpcurl")
async def test_refusals_by_grpcurl_name_the_member(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        await c.until_hosts({})
        body = definition("bad", {"0:": node("exit", "0")}, num_nodes=2)
        body["ecsProperties"] = {"taskProperties": []}
        method = "muster.v1.JobService/RegisterJobDefinition"
        code, _, err = await _run(
            ["grpcurl", "-plaintext", "-d", "@", c.address, method], json.dumps(body)
        )
        assert code != 0
        assert "InvalidArgument" in err
        assert "ecsProperties" in err


async def test_submit_wait_exits_as_main_did(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=2) as c:
        path = tmp_path / "definition.json"
        path.write_text(json.dumps(definition("cli", {"0:": node("exit", "5")}, num_nodes=2)))
        muster = [sys.executable, "-m", "cli.main", "--coordinator", c.address]
        code, out, err = await _run([*muster, "submit", "five", "--file", str(path), "--wait"])
        assert code == 5, f"{out}\n{err}"
        code, out, err = await _run([*muster, "-o", "json", "list"])
        assert code == 0, err
        assert [job["status"] for job in json.loads(out)["jobSummaryList"]] == ["FAILED"]
        code, out, err = await _run([*muster, "hosts"])
        assert code == 0, err
        assert "h1" in out
        assert "h2" in out
