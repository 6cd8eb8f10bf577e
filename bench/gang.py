"""Jobs of real processes on real agents, against a bare loop that starts the same processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.agents import terminate
from bench.report import heading, row
from muster.v1 import job_service_pb2
from tests.e2e.cluster import Cluster, cluster, definition

SIZES = (4, 16, 64)
JOBS = 5
COMMAND: Sequence[str] = ("sleep", "60")
"""Long enough to be measured; should all else fail, nothing is left after a minute."""
DEADLINE_SECONDS = 60.0


@dataclass(slots=True)
class Starts:
    """What some gangs took, seconds: until main runs, and from then until the last child does."""

    main: list[float] = field(default_factory=list)
    children: list[float] = field(default_factory=list)


async def run(directory: Path) -> None:
    heading(
        f"gang: `{' '.join(COMMAND)}` on real agents, process engine; {JOBS} jobs of each size, "
        "the first not counted"
    )
    async with cluster(directory, 0, ("--heartbeat-seconds", "5")) as made:
        for size in SIZES:
            await _grow(made, size)
            muster, floor = Starts(), Starts()
            nodes = {"0:": COMMAND}
            revision = await made.register(definition(f"gang{size}", nodes, num_nodes=size))
            for _ in range(JOBS):
                await _bare_gang(size, floor)
                await _muster_gang(made, revision, size, muster)
            row(f"{size} nodes, submit to main RUNNING", floor.main[1:], muster.main[1:])
            row(f"{size} nodes, then to last RUNNING", floor.children[1:], muster.children[1:])


async def _grow(made: Cluster, size: int) -> None:
    for number in range(len(made.agents) + 1, size + 1):
        await made.agent(f"h{number}", f"127.0.0.{10 + number}").start()
    await made.until_hosts(dict.fromkeys(made.agents, "FREE"), DEADLINE_SECONDS)


async def _bare_gang(size: int, starts: Starts) -> None:
    processes: list[asyncio.subprocess.Process] = []
    try:
        begun = time.monotonic()
        processes.append(await asyncio.create_subprocess_exec(*COMMAND))
        main_runs = time.monotonic()
        children = (asyncio.create_subprocess_exec(*COMMAND) for _ in range(size - 1))
        processes += await asyncio.gather(*children)
        starts.main.append(main_runs - begun)
        starts.children.append(time.monotonic() - main_runs)
    finally:
        for process in processes:
            process.kill()
        await asyncio.gather(*(process.wait() for process in processes))


async def _muster_gang(made: Cluster, revision: str, size: int, starts: Starts) -> None:
    begun = time.monotonic()
    job_id = await made.submit(revision)
    try:
        main_runs, all_run = await _watch(made, job_id, size)
        starts.main.append(main_runs - begun)
        starts.children.append(all_run - main_runs)
    finally:
        await terminate(made, job_id)
        await made.until_gone(job_id)


async def _watch(made: Cluster, job_id: str, size: int) -> tuple[float, float]:
    """When a watcher saw main RUNNING, and all."""
    states: dict[int, str] = {}
    main_runs: float | None = None
    watch = made.jobs.WatchJob(job_service_pb2.WatchJobRequest(job_id=job_id))
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for update in watch:
            if update.reset:
                states = {}
            states |= {node.node_index: node.state for node in update.nodes}
            if main_runs is None and states.get(0) == "RUNNING":
                main_runs = time.monotonic()
            if main_runs is not None and list(states.values()).count("RUNNING") == size:
                watch.cancel()
                return main_runs, time.monotonic()
    raise RuntimeError(f"job {job_id} ended in {states}")
