"""Resident memory of a coordinator and of an agent, and what an agent does while it is idle."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil

from bench.agents import AGENTS, register_gang, terminate
from bench.heartbeat import cpu_seconds
from bench.programs import swarm
from bench.report import fact, heading
from tests.e2e.cluster import cluster

SETTLE_SECONDS = 2.0
"""What starting left to do is not idleness."""
IDLE_SECONDS = 20.0
HEARTBEAT = ("--heartbeat-seconds", "5")


async def run(directory: Path) -> None:
    heading("memory: resident, and an idle agent")
    for name, part in (("coordinator", _coordinator), ("agent", _agent)):
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
