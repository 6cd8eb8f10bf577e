"""A copy of the coordinator's journal that is brought back: no job that has ended runs again."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import stat
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.core.lineage import ACCEPT
from muster.v1 import host_service_pb2, job_pb2
from muster.v1 import job_service_pb2 as pb
from tests.e2e.cluster import Cluster, Process, cluster, definition
from tests.e2e.nodes import node, pids_of
from tests.e2e.test_repair import offline
from tests.wait import eventually

pytestmark = pytest.mark.limit(120)
OLDER = "The journal of the coordinator is older than what host"


async def _define(c: Cluster, runs: Path) -> str:
    command = ["sh", "-c", f"echo ran >> {runs}"]
    return await c.register(definition("once", {"0": command}, num_nodes=1))


def _ran(runs: Path) -> int:
    return runs.read_text().count("ran") if runs.exists() else 0


async def _reasons(c: Cluster) -> set[str]:
    listed = await c.hosts.ListHosts(host_service_pb2.ListHostsRequest())
    return {host.reason for host in listed.hosts}


async def _stop_agents(c: Cluster) -> None:
    for agent in c.agents.values():
        await agent.end()
    await c.until_hosts(dict.fromkeys(c.agents, "STOPPED"))


async def _start_agents(c: Cluster) -> None:
    for agent in c.agents.values():
        await agent.start()


async def _with_an_older_journal(c: Cluster, runs: Path) -> str:
    """A job waits, a copy is made, the job runs to its end, and the copy is brought back."""
    data_dir, copy = c.directory / "coordinator", c.directory / "copy"
    name = await _define(c, runs)
    await _stop_agents(c)
    job_id = await c.submit(name)
    await c.until(job_id, "RUNNABLE")
    await c.coordinator.end()
    shutil.copytree(data_dir, copy)
    await c.coordinator.start()
    await _start_agents(c)
    await c.until(job_id, "SUCCEEDED")
    await c.until_gone(job_id)
    await c.until_hosts({"h1": "FREE", "h2": "FREE"})
    assert _ran(runs) == 1
    await c.coordinator.end()
    data_dir.rename(c.directory / "newer")
    copy.rename(data_dir)
    await c.coordinator.start()
    return job_id


def _is_held(detail: job_pb2.JobDetail) -> bool:
    return detail.status_reason.startswith(OLDER)


async def _health(c: Cluster) -> health_pb2.HealthCheckResponse.ServingStatus:
    async with grpc.aio.insecure_channel(c.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="muster.v1.placement")
        reply: health_pb2.HealthCheckResponse = await stub.Check(request)
        return reply.status


async def test_an_ended_job_does_not_run_again_before_somebody_says_so(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    async with cluster(tmp_path, agents=2) as c:
        job_id = await _with_an_older_journal(c, runs)
        held = await c.until(job_id, lambda d: _is_held(d) or d.status == job_pb2.SUCCEEDED)
        assert (held.status, _ran(runs)) == (job_pb2.RUNNABLE, 1)
        assert ACCEPT in held.status_reason
        assert await _health(c) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert OLDER in c.coordinator.story()
        listed = await c.hosts.ListHosts(host_service_pb2.ListHostsRequest())
        assert listed.notice.startswith(OLDER)
        explained = await c.jobs.ExplainJob(pb.ExplainJobRequest(job_id=job_id))
        assert explained.summary.startswith(OLDER)
        another = await c.submit("once:1")
        await c.until(another, _is_held)

        await c.coordinator.end()
        c.coordinator.argv.append(ACCEPT)
        await c.coordinator.start()
        await c.until(job_id, "SUCCEEDED")
        await c.until(another, "SUCCEEDED")
        assert _ran(runs) == 3
        assert await _health(c) == health_pb2.HealthCheckResponse.SERVING

        await c.coordinator.end()
        c.coordinator.argv.remove(ACCEPT)
        await c.coordinator.start()
        await c.until(another, "SUCCEEDED")
        await c.until(await c.submit("once:1"), "SUCCEEDED")
        assert _ran(runs) == 4


async def test_the_newer_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    """What came to its end while the older one was there is known to it."""
    runs, go = tmp_path / "runs", tmp_path / "go"
    async with cluster(tmp_path, agents=2) as c:
        job_id = await _with_an_older_journal(c, runs)
        await c.until(job_id, _is_held)
        await c.coordinator.end()
        (tmp_path / "coordinator").rename(tmp_path / "older")
        (tmp_path / "newer").rename(tmp_path / "coordinator")
        await c.coordinator.start()
        await c.until(job_id, "SUCCEEDED")
        name = await c.register(
            definition("long", {"0": node("until", str(go), "exit", "7")}, num_nodes=1)
        )
        running = await c.submit(name)
        await c.until(running, "RUNNING")
        await c.coordinator.end()
        (tmp_path / "coordinator").rename(tmp_path / "newer")
        (tmp_path / "older").rename(tmp_path / "coordinator")
        await c.coordinator.start()
        await c.until(job_id, _is_held)

        async def is_let_be() -> bool:
            return any("which this journal does not know" in why for why in await _reasons(c))

        await eventually(is_let_be, 20, c.story)
        go.touch()
        await c.until_hosts({"h1": "FREE", "h2": "FREE"})
        assert not pids_of(running)
        await c.coordinator.end()
        (tmp_path / "coordinator").rename(tmp_path / "older")
        (tmp_path / "newer").rename(tmp_path / "coordinator")
        await c.coordinator.start()
        ended = await c.until(running, "FAILED")
        assert ended.attempts[0].container.exit_code == 7
        assert _ran(runs) == 1


async def _agents_change_cluster(c: Cluster) -> None:
    """Each ends when it learns that the coordinator is of another cluster, and is started again, as
    its unit does."""
    for agent in c.agents.values():

        async def has_fallen(agent: Process = agent) -> bool:
            return agent.fell is not None

        await eventually(has_fallen, 30, c.story)
        assert "is of another cluster than the one that this agent served" in agent.story()
        await agent.end()
        await agent.start()


async def test_a_start_without_the_journal_costs_nothing_when_it_is_back(tmp_path: Path) -> None:
    """The coordinator was started with an empty directory by mistake, and is another cluster."""
    runs, go = tmp_path / "runs", tmp_path / "go"
    async with cluster(tmp_path, agents=2) as c:
        ran = f"echo ran >> {runs}; exec {shlex.join(node('until', str(go), 'exit', '7'))}"
        name = await c.register(definition("ends", {"0": ["sh", "-c", ran]}, num_nodes=1))
        stays = await c.register(
            definition("stays", {"0": node("until", str(tmp_path / "never"))}, num_nodes=1)
        )
        ends, goes_on = await c.submit(name), await c.submit(stays)
        for job_id in (ends, goes_on):
            await c.until(job_id, "RUNNING")
        (pid,) = pids_of(goes_on)

        await c.coordinator.end()
        (tmp_path / "coordinator").rename(tmp_path / "first")
        await c.coordinator.start()
        await _agents_change_cluster(c)
        await c.until_hosts({"h1": "FREE", "h2": "FREE"})
        go.touch()
        await eventually(lambda: not pids_of(ends), 20, c.story)

        await c.coordinator.end()
        (tmp_path / "coordinator").rename(tmp_path / "second")
        (tmp_path / "first").rename(tmp_path / "coordinator")
        await c.coordinator.start()
        await _agents_change_cluster(c)
        ended = await c.until(ends, "FAILED")
        assert ended.attempts[0].container.exit_code == 7
        assert _ran(runs) == 1
        assert pids_of(goes_on) == [pid]
        await c.until(goes_on, "RUNNING")
        await c.jobs.TerminateJob(pb.TerminateJobRequest(job_id=goes_on, reason="enough"))
        await c.until_gone(goes_on)
        await c.until_hosts({"h1": "FREE", "h2": "FREE"})


async def test_a_backup_of_a_running_coordinator_is_brought_back(tmp_path: Path) -> None:
    data_dir, file = tmp_path / "coordinator", tmp_path / "backup.db"

    async def run(command: str) -> tuple[int, str]:
        return await offline(f"{command} {file}", data_dir)

    async with cluster(tmp_path, agents=1) as c:
        name = await _define(c, tmp_path / "runs")
        first = await c.submit(name)
        await c.until_gone(first)
        done = await run("backup")
        assert done[0] == 0, done
        assert "ended: 1" in done[1]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        again = await run("backup")
        assert (again[0], "is there already" in again[1]) == (2, True), again
        second = await c.submit(name)
        await c.until_gone(second)
        refused = await run("restore")
        assert (refused[0], "another coordinator uses" in refused[1]) == (2, True), refused
        await c.until(second, "SUCCEEDED")

        await c.coordinator.end()
        restored = await run("restore")
        assert restored[0] == 0, restored
        (kept,) = data_dir.glob("journal.db.before-*")
        assert str(kept) in restored[1]
        assert ACCEPT in restored[1]
        await c.coordinator.start()
        await c.until(first, "SUCCEEDED")
        assert await c.describe(second) is None
        waiting = await c.submit(name)
        await c.until(waiting, _is_held)


async def test_backups_are_whole_while_jobs_come_and_go(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=1) as c:
        name = await _define(c, tmp_path / "runs")
        for number in range(3):
            file = tmp_path / f"backup-{number}"
            jobs = [await c.submit(name) for _ in range(5)]
            (status, told), *_ = await asyncio.gather(
                offline(f"backup {file}", tmp_path / "coordinator"),
                *(c.submit(name) for _ in range(20)),
            )
            assert status == 0, told
            assert file.exists()
        await c.until_gone(jobs[-1])
