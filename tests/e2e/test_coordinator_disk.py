"""A coordinator whose disk is full ends no job: it goes on by itself when there is room."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from muster.v1 import host_service_pb2
from tests.e2e.cluster import Cluster, cluster, definition
from tests.e2e.nodes import node
from tests.small_disk import fill, make_room, small_disk_at
from tests.wait import eventually

HASTY = (
    *("--lost-after-seconds", "2", "--verdict-after-seconds", "3", "--lease-seconds", "4"),
    *("--last-attempt-lease-seconds", "0", "--stop-grace-seconds", "1"),
    *("--fence-margin-seconds", "1", "--disk-reserve-mib", "1"),
)
RETRIED: dict[str, Any] = {"retryStrategy": {"attempts": 2}}
"""The first of two attempts has the short lease."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB where the coordinator has its data."""
    with small_disk_at(tmp_path / "coordinator") as disk:
        yield disk


async def _time_passes(c: Cluster, seconds: float) -> None:
    end = time.monotonic() + seconds
    await eventually(lambda: time.monotonic() > end, seconds + 5, c.story)


async def _running(c: Cluster, go: Path) -> str:
    groups: dict[str, Sequence[str]] = {
        "0": node("until", str(go), "exit", "0"),
        "1": node("trap-term", "0", "hang"),
    }
    name = await c.register(definition("until", groups, num_nodes=2, **RETRIED))
    job_id = await c.submit(name)
    await c.until(f"{job_id}#1", "RUNNING")
    return job_id


async def _ends_well(c: Cluster, job_id: str) -> None:
    done = await c.until(job_id, "SUCCEEDED")
    assert [attempt.container.exit_code for attempt in done.attempts] == [0]
    await c.until_gone(job_id)
    await c.until_hosts({"h1": "FREE", "h2": "FREE"})


async def _refusal(c: Cluster) -> str:
    """Why no job is taken now; empty when one is."""
    try:
        await c.submit("until")
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return error.details() or ""
    return ""


async def _write(c: Cluster, host_id: str) -> str:
    """Have something small recorded; the refusal, if any."""
    try:
        drain = host_service_pb2.DrainHostRequest(host_id=host_id, reason="x" * 200)
        await c.hosts.DrainHost(drain, timeout=0.5)
        await c.hosts.ResumeHost(host_service_pb2.ResumeHostRequest(host_id=host_id), timeout=0.5)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return ""


async def _until_full(c: Cluster, disk: Path) -> None:
    """Until the coordinator can record nothing, its reserve included."""

    async def refused() -> bool:
        fill(disk)
        return "RESOURCE_EXHAUSTED: the disk of the coordinator is full" in await _write(c, "h1")

    await eventually(refused, 60, c.story)


async def _until_room(c: Cluster) -> None:
    """Until the coordinator answers again."""

    async def answers() -> bool:
        return not await _write(c, "h1")

    await eventually(answers, 30, c.story)


async def _health(c: Cluster, service: str) -> str:
    async with grpc.aio.insecure_channel(c.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        answer = await check(health_pb2.HealthCheckRequest(service=service))
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@pytest.mark.real("netns")
async def test_submissions_are_refused_and_ends_recorded_while_room_is_short(
    tmp_path: Path, small_disk: Path
) -> None:
    async with cluster(tmp_path, agents=2, coordinator_args=HASTY) as c:
        job_id = await _running(c, tmp_path / "go")
        fill(small_disk)

        async def refused() -> str:
            return await _refusal(c)

        refusal = await eventually(refused, 30, c.story)
        assert refusal.startswith(
            f"no new job now: the disk of the coordinator ({small_disk}) has 0 MiB free, less than"
        )
        hosts = host_service_pb2.ListHostsRequest()
        assert "has 0 MiB free" in (await c.hosts.ListHosts(hosts)).notice
        (tmp_path / "go").touch()
        await _ends_well(c, job_id)
        make_room(small_disk)

        async def taken() -> bool:
            return not await _refusal(c)

        await eventually(taken, 30, c.story)
        assert (await c.hosts.ListHosts(hosts)).notice == ""
        # A start has the reserve to go on with.
        await c.coordinator.end()
        fill(small_disk)
        await c.coordinator.start()
        await c.until_hosts({"h1": "FREE", "h2": "FREE"})
        assert "has 0 MiB free" in await _refusal(c)


@pytest.mark.real("netns")
@pytest.mark.limit(180)
async def test_a_job_outlives_a_full_disk_and_its_end_is_recorded_afterwards(
    tmp_path: Path, small_disk: Path
) -> None:
    """The disk is full for longer than the lease of the job, whose main ends meanwhile."""
    async with cluster(tmp_path, agents=2, coordinator_args=HASTY) as c:
        job_id = await _running(c, tmp_path / "go")
        await _until_full(c, small_disk)
        assert await _health(c, "muster.v1.JobService") == "NOT_SERVING"
        assert await _health(c, "") == "SERVING"
        await _time_passes(c, 8)
        (tmp_path / "go").touch()
        await _time_passes(c, 2)
        assert "nothing is recorded, answered or shown" in c.coordinator.story()
        make_room(small_disk)
        await _until_room(c)
        await _ends_well(c, job_id)
        assert await _health(c, "muster.v1.JobService") == "SERVING"


@pytest.mark.real("netns")
@pytest.mark.limit(180)
async def test_a_start_on_a_disk_without_any_room_goes_on_by_itself(
    tmp_path: Path, small_disk: Path
) -> None:
    patient = [*HASTY[:2], "--disk-reserve-mib", "1"]
    async with cluster(tmp_path, agents=2, coordinator_args=patient) as c:
        job_id = await _running(c, tmp_path / "go")
        await _until_full(c, small_disk)
        await c.coordinator.end(signal.SIGKILL)
        await c.coordinator.start()

        async def listens() -> bool:
            return "disk of the coordinator is full" in await _refusal(c)

        await eventually(listens, 30, c.story)
        (tmp_path / "go").touch()
        make_room(small_disk)
        await _until_room(c)
        await _ends_well(c, job_id)


async def test_without_its_directory_it_takes_no_jobs_and_ends_none(tmp_path: Path) -> None:
    """Somebody has moved it. What would be taken would be unknown at the next start."""
    go, moved = tmp_path / "go", tmp_path / "moved"
    async with cluster(tmp_path, agents=2, coordinator_args=HASTY) as c:
        job_id = await _running(c, go)
        (tmp_path / "coordinator").rename(moved)

        async def is_refused() -> bool:
            return "it was moved to" in await _refusal(c)

        await eventually(is_refused, 20, c.story)
        listed = await c.hosts.ListHosts(host_service_pb2.ListHostsRequest())
        assert "move it back" in listed.notice
        go.touch()
        await _ends_well(c, job_id)
        moved.rename(tmp_path / "coordinator")

        async def is_taken() -> bool:
            return not await _refusal(c)

        await eventually(is_taken, 20, c.story)
        await c.coordinator.end(signal.SIGKILL)
        await c.coordinator.start()
        assert (await c.until(job_id, "SUCCEEDED")).attempts[0].container.exit_code == 0
