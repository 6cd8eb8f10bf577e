"""A row of the journal that cannot be read: named at the start, set aside offline, and nobody else
notices. What its job runs goes on."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from muster.v1 import job_service_pb2
from tests.e2e.cluster import _ENVIRONMENT, Cluster, cluster, definition
from tests.e2e.nodes import node, pids_of
from tests.wait import eventually


def break_row(data_dir: Path, job_id: str, kind: str) -> int:
    """Overwrite the body of the first such row of a job; its number."""
    with closing(sqlite3.connect(data_dir / "journal.db")) as journal, journal:
        (seq,) = journal.execute(
            "SELECT seq FROM events JOIN streams USING (stream_id)"
            " WHERE name = ? AND kind = ? ORDER BY seq",
            (f"job/{job_id}", kind),
        ).fetchone()
        journal.execute("UPDATE events SET body = CAST(x'7BFF7D' AS TEXT) WHERE seq = ?", (seq,))
    return int(seq)


async def offline(command: str, data_dir: Path) -> tuple[int, str]:
    """Exit status and output of `muster-coordinator COMMAND`, whose words have no spaces."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "coordinator", *command.split(), "--data-dir", str(data_dir)),
        env=_ENVIRONMENT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    stdout, _ = await process.communicate()
    return process.returncode or 0, stdout.decode()


async def _exit_status(c: Cluster) -> int:
    async def has_ended() -> bool:
        process = c.coordinator._process
        return process is not None and process.returncode is not None

    await eventually(has_ended, 30, c.story)
    return await c.coordinator.end()


async def _run(c: Cluster, name: str, num_nodes: int, go: Path) -> str:
    groups: dict[str, Sequence[str]] = {"0:": node("until", str(go), "exit", "0")}
    job_id = await c.submit(await c.register(definition(name, groups, num_nodes=num_nodes)))
    await c.until(f"{job_id}#{num_nodes - 1}", "RUNNING")
    return job_id


@pytest.mark.limit(120)
@pytest.mark.parametrize("kind", ["JobSubmitted", "GangReserved", "ChildrenLaunched"])
async def test_a_row_of_a_running_job(tmp_path: Path, kind: str) -> None:
    data_dir = tmp_path / "coordinator"
    async with cluster(tmp_path, agents=3) as c:
        bad, good = tmp_path / "go-bad", tmp_path / "go-good"
        job_id = await _run(c, "unlucky", 2, bad)
        other = await _run(c, "other", 1, good)
        processes = sorted(pids_of(job_id))
        await c.coordinator.end()
        seq = break_row(data_dir, job_id, kind)

        await c.coordinator.start()
        assert await _exit_status(c) == 3
        assert f"row {seq} of job/{job_id} ({kind}) cannot be read" in c.coordinator.story()
        assert "Traceback" not in c.coordinator.story()
        status, told = await offline("check", data_dir)
        assert status == 1
        assert f"row {seq} of job/{job_id} ({kind})" in told
        assert f"job {job_id} becomes UNREADABLE" in told
        status, told = await offline("repair", data_dir)
        assert (status, "start the coordinator now" in told) == (0, True), told
        status, told = await offline("check", data_dir)
        assert (status, told.startswith("no fault in")) == (0, True), told

        await c.coordinator.start()
        await c.until_hosts({"h1": "BUSY", "h2": "BUSY", "h3": "BUSY"})
        status, told = await offline("repair", data_dir)
        assert (status, "another coordinator uses this data directory" in told) == (2, True), told
        detail = await c.until(job_id, lambda job: "may still run on h" in job.status_reason)
        assert detail.status_reason.startswith(f"UNREADABLE: row {seq} of the journal ({kind})")
        assert job_id in await c.muster("list")
        terminate = job_service_pb2.TerminateJobRequest(job_id=job_id, reason="enough")
        with pytest.raises(grpc.aio.AioRpcError, match="is UNREADABLE and may still run on"):
            await c.jobs.TerminateJob(terminate)

        good.touch()
        await c.until(other, "SUCCEEDED")
        await c.until_gone(other)
        assert sorted(pids_of(job_id)) == processes
        bad.touch()
        await c.until_hosts({"h1": "FREE", "h2": "FREE", "h3": "FREE"})
        await c.jobs.TerminateJob(terminate)
        assert (await c.until(job_id, "FAILED")).status_reason == "enough"
        await c.until_gone(job_id)
