"""A job's container against a bare `run` of the same command, image and limits, interleaved.

The job is a real one, of one node: a coordinator with its journal on disk, an agent with its
ledger, a vote, and the end recorded. A command that ends at once shows all that Muster adds, which
does not grow with the command: two calls of the engine's command line and the coordinator's part.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench.report import heading, row
from muster.v1 import job_service_pb2
from tests.components import missing
from tests.e2e.cluster import Cluster, cluster, definition
from tests.engines import IMAGE, RealEngine, docker_engine, podman_engine

RUNS = 9
COMMANDS = {
    "true": ["true"],
    "2 s": ["sleep", "2"],
}
_ENGINES = {"docker": docker_engine, "podman": podman_engine}


async def run(directory: Path) -> None:
    """Each engine that is here; a line for one that is not."""
    for name, engine in _ENGINES.items():
        heading(f"containers: one node with {name}; {RUNS} runs, each beside a bare `{name} run`")
        if reason := missing(name):
            print(f"  left out: {reason}")
            continue
        own = directory / name
        own.mkdir()
        with engine() as real:
            await _compare(own, name, real)


async def _compare(directory: Path, name: str, real: RealEngine) -> None:
    async with cluster(directory) as c:
        await c.agent("h1", "127.0.0.1", *real.agent_flags, engine=name).start()
        await c.until_hosts({"h1": "FREE"})
        for what, command in COMMANDS.items():
            registered = await c.register(
                definition(what.replace(" ", "-"), {"0": command}, num_nodes=1, image=IMAGE)
            )
            bare, job = [], []
            for _ in range(RUNS):
                bare.append(await _bare(real, command))
                job.append(await _job(c, registered))
            row(f"{what}, start to end known", bare, job)


async def _bare(real: RealEngine, command: list[str]) -> float:
    begun = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *real.argv, "run", "--rm", "--network=host", "--cpu-shares=1024", "--memory=64m",
        *real.run_args, IMAGE, *command,
    )  # fmt: skip
    assert await process.wait() == 0
    return time.monotonic() - begun


async def _job(c: Cluster, registered: str) -> float:
    """Submit to SUCCEEDED; then the host is let go, which a bare `run --rm` does at its end."""
    begun = time.monotonic()
    job_id = await c.submit(registered)
    ended = 0.0
    request = job_service_pb2.WatchJobRequest(job_id=job_id)
    async for update in c.jobs.WatchJob(request):
        if any(event.kind == "JobSucceeded" for event in update.events) and not ended:
            ended = time.monotonic() - begun
    assert ended, f"{job_id} did not succeed"
    return ended
