"""Leases end without the agent: it hangs, was killed, or cannot start, for longer than a lease.

The nodes themselves write when they lived; no two attempts may have lived together.
"""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.boot import witness
from tests.boot.witness import Witness
from tests.e2e.cluster import Cluster, cluster, definition
from tests.engines import IMAGE, RealEngine
from tests.wait import eventually

pytestmark = pytest.mark.limit(180)

LIMITS = (
    *("--lost-after-seconds", "2", "--verdict-after-seconds", "2", "--lease-seconds", "4"),
    *("--stop-grace-seconds", "1", "--fence-margin-seconds", "2"),
)
LEASE_GRACE_MARGIN_SECONDS = 4 + 1 + 2

ENGINES = pytest.mark.parametrize(
    "engine_name",
    [
        "process",
        pytest.param("podman", marks=pytest.mark.real("podman")),
        pytest.param("docker", marks=pytest.mark.real("docker")),
    ],
)


@dataclass
class Bench:
    """A cluster of two hosts, and what the nodes that run there say of their lives."""

    cluster: Cluster
    said: Witness
    node: dict[str, Any]

    async def job(self, code: int = 0) -> tuple[str, str]:
        """A job of one node that runs; the job's id and its host's."""
        said = self.said.directory
        job = definition(
            "lives",
            {"0": witness.node("go", code, str(said))},
            num_nodes=1,
            image=IMAGE,
            retryStrategy={"attempts": 3},
        )
        (group,) = job["nodeProperties"]["nodeRangeProperties"]
        group["container"].update(self.node)
        job_id = await self.cluster.submit(await self.cluster.register(job))
        found = await self.cluster.until(f"{job_id}#0", "RUNNING")
        await self.until(lambda: self.lives(job_id, 1))
        return job_id, found.container.container_instance_arn.rpartition("/")[2]

    async def until(self, condition: Any, deadline_seconds: float = 40) -> None:
        """Until it is so, told by what the nodes have said."""

        def story() -> str:
            files = sorted(self.said.directory.iterdir())
            said = "\n".join(f"{file.name}: {file.read_text()[-200:]}" for file in files)
            return f"{said}\n{self.cluster.story()}"

        await eventually(condition, deadline_seconds, story)

    def lives(self, job_id: str, attempt: int) -> bool:
        return attempt in self.said.lives(job_id)

    async def time_passes(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        await self.until(lambda: time.monotonic() > end, seconds + 5)

    async def alone(self, job_id: str, attempt: int = 2) -> None:
        """Until that attempt lives; the one before has been over by then, and stays so."""
        await self.until(lambda: self.lives(job_id, attempt))
        self.said.no_two_attempts(job_id)
        await self.time_passes(2)
        self.said.no_two_attempts(job_id)

    async def ends_well(self, job_id: str, attempts: int) -> None:
        self.said.let_end()
        done = await self.cluster.until(job_id, "SUCCEEDED")
        assert len(done.attempts) == attempts
        assert self.said.said(f"{job_id}#0", attempts) == ["started", "ended"]


@asynccontextmanager
async def two_hosts(
    directory: Path, engine_name: str, request: pytest.FixtureRequest
) -> AsyncIterator[Bench]:
    said = directory / "said"
    said.mkdir(mode=0o777)
    flags: list[str] = []
    mount: dict[str, Any] = {}
    if engine_name != "process":
        engine: RealEngine = request.getfixturevalue(f"{engine_name}_host")
        flags = [*engine.agent_flags, f"--allow-host-paths={said}:rw"]
        mount = {
            "volumes": [{"name": "said", "host": {"sourcePath": str(said)}}],
            "mountPoints": [{"sourceVolume": "said", "containerPath": str(said)}],
        }
    async with cluster(directory, coordinator_args=LIMITS) as c:
        # An engine may still have what a test that failed has left of a host of the same name.
        hosts = [f"h{number}-{uuid.uuid4()}" for number in (1, 2)]
        for number, host_id in enumerate(hosts, 1):
            await c.agent(host_id, f"127.0.0.{10 + number}", *flags, engine=engine_name).start()
        await c.until_hosts(dict.fromkeys(hosts, "FREE"))
        yield Bench(c, Witness(said), mount)


@ENGINES
async def test_an_agent_that_hangs_for_longer_than_the_lease(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    async with two_hosts(tmp_path, engine_name, request) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        c.agents[host_id].send(signal.SIGSTOP)
        await bench.alone(job_id)
        c.agents[host_id].send(signal.SIGCONT)
        await c.until_hosts({host_id: "FREE"})
        await bench.ends_well(job_id, 2)
        await c.until_gone(job_id)


@ENGINES
async def test_an_agent_that_is_killed_and_never_comes_back(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    async with two_hosts(tmp_path, engine_name, request) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        await c.agents[host_id].end(signal.SIGKILL)
        await bench.alone(job_id)
        await bench.ends_well(job_id, 2)
        # Only to leave nothing behind.
        await c.agents[host_id].start()
        await c.until_hosts({host_id: "FREE"})


@pytest.mark.parametrize("what", ["ledger", "settings"])
async def test_an_agent_that_cannot_start(
    tmp_path: Path, what: str, request: pytest.FixtureRequest
) -> None:
    async with two_hosts(tmp_path, "process", request) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        agent = c.agents[host_id]
        await agent.end(signal.SIGKILL)
        ledger = tmp_path / host_id / "agent.db"
        good, argv = ledger.read_bytes(), agent.argv
        if what == "ledger":
            for file in tmp_path.glob(f"{host_id}/agent.db*"):
                file.write_bytes(b"this is no ledger" * 1000)
        else:
            broken = tmp_path / "agent.toml"
            broken.write_text("engine = 'process\n")
            agent.argv = [*argv, "--config", str(broken)]
        await agent.start()
        await bench.alone(job_id)
        assert "muster-agent: " in agent.log.read_text()
        # It has ended by itself, so that `end` says with what.
        assert await agent.end() in (1, 2)
        await bench.ends_well(job_id, 2)
        for file in tmp_path.glob(f"{host_id}/agent.db*"):
            file.unlink()
        ledger.write_bytes(good)
        agent.argv = argv
        await agent.start()
        await c.until_hosts({host_id: "FREE"})


@ENGINES
async def test_a_main_that_ended_by_itself_while_its_agent_hung_counts_with_its_code(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    """The coordinator was away as well, so that nobody has given the attempt up."""
    async with two_hosts(tmp_path, engine_name, request) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        await c.coordinator.end(signal.SIGKILL)
        c.agents[host_id].send(signal.SIGSTOP)
        bench.said.let_end()
        await bench.until(lambda: "ended" in bench.said.said(f"{job_id}#0", 1))
        await bench.time_passes(LEASE_GRACE_MARGIN_SECONDS)
        c.agents[host_id].send(signal.SIGCONT)
        await c.coordinator.start()
        done = await c.until(job_id, "SUCCEEDED")
        assert len(done.attempts) == 1
        await c.until_gone(job_id)


@ENGINES
async def test_what_goes_on_after_a_goodbye_has_a_lease_again_when_its_agent_is_back(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    async with two_hosts(tmp_path, engine_name, request) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        agent = c.agents[host_id]
        assert await agent.end() == 0
        await bench.time_passes(LEASE_GRACE_MARGIN_SECONDS)
        assert "stopped" not in bench.said.said(f"{job_id}#0", 1)
        await agent.start()
        await c.until_hosts({host_id: "BUSY"})
        agent.send(signal.SIGSTOP)
        await bench.alone(job_id)
        agent.send(signal.SIGCONT)
        await c.until_hosts({host_id: "FREE"})
        await bench.ends_well(job_id, 2)
        await c.until_gone(job_id)
