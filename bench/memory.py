"""Resident memory of a coordinator and of an agent, and what an agent does while it is idle."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil

from bench.agents import AGENTS, register_gang, terminate
from bench.heartbeat import cpu_seconds
from bench.programs import swarm
from bench.report import fact, heading
from tests.e2e.cluster import Cluster, cluster

SETTLE_SECONDS = 2.0
"""What starting left to do is not idleness."""
IDLE_SECONDS = 20.0
QUEUED = 2000
"""Twice: the first jobs grow what all of them share."""
AT_ONCE = 50
"""So many calls that their own memory does not count."""
HEARTBEAT = ("--heartbeat-seconds", "5")


async def run(directory: Path) -> None:
    heading("memory: resident, and an idle agent")
    for name, part in (("coordinator", _coordinator), ("queue", _queue), ("agent", _agent)):
        (directory / name).mkdir()
        await part(directory / name)


async def _coordinator(directory: Path) -> None:
    async with cluster(directory, 0, HEARTBEAT) as made:
        pid = made.coordinator.pid
        await made.host_states()
        fact("coordinator, no agents", _resident(pid))
        async with swarm(made.address, AGENTS) as agents:
            fact(f"coordinator, {AGENTS} agents", _resident(pid))
            job_id = await made.submit(await register_gang(made, AGENTS))
            await agents.reached("up")
            fact(f"coordinator, {AGENTS}-node job", _resident(pid))
            await terminate(made, job_id)
            await agents.reached("released")


async def _queue(directory: Path) -> None:
    async with cluster(directory, 0, HEARTBEAT) as made:
        pid = made.coordinator.pid
        revision = await register_gang(made, AGENTS)
        await _submit(made, revision, QUEUED)
        before = psutil.Process(pid).memory_info().rss
        await _submit(made, revision, QUEUED)
        grown = psutil.Process(pid).memory_info().rss - before
        fact(f"a queued {AGENTS}-node job", f"{grown / QUEUED / 1000:.1f} kB", "about 2 kB")


async def _submit(made: Cluster, revision: str, jobs: int) -> None:
    for _ in range(jobs // AT_ONCE):
        await asyncio.gather(*(made.submit(revision) for _ in range(AT_ONCE)))


async def _agent(directory: Path) -> None:
    async with cluster(directory, 1, HEARTBEAT) as made:
        pid = made.agents["h1"].pid
        await asyncio.sleep(SETTLE_SECONDS)
        cpu, switches = cpu_seconds(pid), _switches(pid)
        await asyncio.sleep(IDLE_SECONDS)
        share = (cpu_seconds(pid) - cpu) / IDLE_SECONDS
        wakeups = (_switches(pid) - switches) / IDLE_SECONDS
        fact("agent", _resident(pid), "under 60 MB")
    fact("agent, idle", f"{100 * share:.2f} % of a core", "under 0.5 %")
    fact("agent, idle", f"{wakeups:.1f} wake-ups a second")


def _resident(pid: int) -> str:
    return f"{psutil.Process(pid).memory_info().rss / 1e6:.1f} MB"


def _switches(pid: int) -> int:
    """How often threads of a process have gone to sleep so far."""
    counts = [
        int(line.split()[1])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    ]
    return sum(counts)
