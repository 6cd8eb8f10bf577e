"""A host whose engine died under a job, as an operator sees it: quarantined with the evidence,
given nothing new, and free by itself when the engine is back and nothing is left."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, cluster, definition
from tests.e2e.nodes import pids_of
from tests.engines import IMAGE, DockerDaemon, RealEngine, own_docker_engine
from tests.wait import eventually

pytestmark = [pytest.mark.real("docker"), pytest.mark.limit(180)]

DEAF = ["sh", "-c", "trap '' TERM; echo ready; sleep 1000"]


@pytest.fixture
def own_docker() -> Iterator[tuple[RealEngine, DockerDaemon]]:
    with own_docker_engine() as engine:
        yield engine


async def deaf_job(c: Cluster) -> tuple[str, str]:
    """A definition whose container ignores SIGTERM, and a job of it that has begun to."""
    deaf = await c.register(definition("deaf", {"0": DEAF}, num_nodes=1, image=IMAGE))
    job_id = await c.submit(deaf)
    await c.until(job_id, "RUNNING")
    assert await c.first_line(f"{job_id}#0") == "ready"
    return deaf, job_id


async def until_unusable(c: Cluster) -> None:
    """Until users see that the host's engine is away; an agent that has just started says so first
    of itself."""
    shown = ""

    async def told() -> bool:
        nonlocal shown
        shown = await c.muster("hosts")
        return "UNUSABLE" in shown and "docker daemon" in shown

    await eventually(told, 30, lambda: f"{shown}\n{c.story()}")


async def test_a_host_is_quarantined_while_its_engine_is_dead(
    tmp_path: Path, own_docker: tuple[RealEngine, DockerDaemon]
) -> None:
    engine, daemon = own_docker
    async with cluster(tmp_path, coordinator_args=["--stop-grace-seconds", "1"]) as c:
        await c.agent("h1", "127.0.0.11", *engine.agent_flags, engine="docker").start()
        await c.until_hosts({"h1": "FREE"})
        deaf, job_id = await deaf_job(c)
        await asyncio.to_thread(daemon.kill)
        # The job goes on, for all that anybody knows.
        await until_unusable(c)
        await c.terminate(job_id)
        await c.until_hosts({"h1": "QUARANTINED"}, 60)
        assert pids_of(job_id) == []

        gone = "EngineNotReachableError: Cannot connect to the Docker daemon"
        evidence = "docker daemon"
        shown = (await c.muster("hosts")).splitlines()[1]
        assert shown.startswith("h1"), shown
        assert "QUARANTINED" in shown, shown
        assert evidence in shown, shown
        listed = json.loads(await c.muster("hosts", "-o", "json"))["hosts"][0]
        assert listed["state"] == "QUARANTINED", listed
        assert evidence in listed["reason"], listed
        assert evidence in await c.muster("hosts", "describe", "h1")

        # Nothing new is put on it, and who waits is told why.
        waiting = await c.submit(deaf)
        await c.until(waiting, lambda job: f"h1: {gone}" in job.status_reason)
        # The agent hears the coordinator all the while.
        silent = json.loads(await c.muster("hosts", "-o", "json"))["hosts"][0]

        async def heard_again() -> bool:
            now = json.loads(await c.muster("hosts", "-o", "json"))["hosts"][0]
            return int(now["lastContactAt"]) > int(silent["lastContactAt"])

        await eventually(heard_again, 30, c.story)
        assert await c.describe(f"{waiting}#0") is None

        await asyncio.to_thread(daemon.start)
        await c.until_gone(job_id)
        await c.until(waiting, "RUNNING", 60)
        assert await c.first_line(f"{waiting}#0") == "ready"
        await c.terminate(waiting)
        await c.until_gone(waiting)
        await c.until_hosts({"h1": "FREE"})
        assert json.loads(await c.muster("hosts", "-o", "json"))["hosts"][0].get("reason", "") == ""


@pytest.mark.parametrize("why", ["terminate", "lease"])
async def test_an_agent_that_comes_back_to_a_dead_engine_still_stops_what_must_not_run(
    tmp_path: Path, own_docker: tuple[RealEngine, DockerDaemon], why: str
) -> None:
    """It cannot know what else is there, but what its ledger has is found by its marks."""
    engine, daemon = own_docker
    quick = ["--stop-grace-seconds", "1", "--lost-after-seconds", "3", "--lease-seconds", "5"]
    quick += ["--last-attempt-lease-seconds", "5"]
    async with cluster(tmp_path, coordinator_args=quick) as c:
        agent = c.agent("h1", "127.0.0.11", *engine.agent_flags, engine="docker")
        await agent.start()
        await c.until_hosts({"h1": "FREE"})
        _, job_id = await deaf_job(c)
        await agent.end(signal.SIGKILL)
        await asyncio.to_thread(daemon.kill)
        if why == "lease":
            await c.coordinator.end(signal.SIGKILL)
        await agent.start()
        if why == "terminate":
            await until_unusable(c)
            await c.terminate(job_id)
        await eventually(lambda: not pids_of(job_id), 30, c.story)
        if why == "lease":
            await c.coordinator.start()
        await asyncio.to_thread(daemon.start)
        await c.until(job_id, "FAILED", 60)
        await c.until_gone(job_id)
        await c.until_hosts({"h1": "FREE"})
