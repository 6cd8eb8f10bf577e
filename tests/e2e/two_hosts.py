"""Two hosts whose agents and files are disturbed, while nodes write when they lived.

No two attempts may have lived together. Leases are short, so that all of it fits into a test.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import witness
from tests.e2e.cluster import Cluster, cluster, definition
from tests.engines import IMAGE, RealEngine
from tests.wait import eventually
from tests.witness import Witness

LIMITS = (
    *("--lost-after-seconds", "2", "--verdict-after-seconds", "2", "--lease-seconds", "4"),
    *("--stop-grace-seconds", "1", "--fence-margin-seconds", "2"),
)
PATIENT = (*LIMITS, "--verdict-after-seconds", "7", "--lease-seconds", "7")
"""A Hello that contradicts the session before waits for two seconds, and is no sign of life."""
LEASE_GRACE_MARGIN_SECONDS = 4 + 1 + 2

_PODMAN = pytest.param("podman", marks=pytest.mark.real("podman"))
_DOCKER = pytest.param("docker", marks=pytest.mark.real("docker"))
ENGINES = pytest.mark.parametrize("engine_name", ["process", _PODMAN])
"""One that has shims and one that has keepers: the contract suite asks docker the same."""
EVERY_ENGINE = pytest.mark.parametrize("engine_name", ["process", _PODMAN, _DOCKER])


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
            {"0": witness.node(str(said), "go", str(code))},
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
        # Its container is removed by then, and so its keeper has left.
        await self.cluster.until_gone(job_id)


@asynccontextmanager
async def two_hosts(
    directory: Path,
    engine_name: str,
    request: pytest.FixtureRequest,
    limits: tuple[str, ...] = LIMITS,
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
    async with cluster(directory, coordinator_args=limits) as c:
        # An engine may still have what a test that failed has left of a host of the same name.
        hosts = [f"h{number}-{uuid.uuid4()}" for number in (1, 2)]
        for number, host_id in enumerate(hosts, 1):
            await c.agent(host_id, f"127.0.0.{10 + number}", *flags, engine=engine_name).start()
        await c.until_hosts(dict.fromkeys(hosts, "FREE"))
        yield Bench(c, Witness(said), mount)
