"""What a heartbeat costs the coordinator, in CPU, against a bare server that answers the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil

from bench.agents import AGENTS, bare_server
from bench.programs import Swarm, swarm
from bench.report import fact, heading
from tests.e2e.cluster import cluster

PERIOD_SECONDS = 1
MEASURED_SECONDS = 10.0


async def run(directory: Path) -> None:
    heading(
        f"heartbeat: {AGENTS} simulated agents, one heartbeat each {PERIOD_SECONDS} s, "
        f"over {MEASURED_SECONDS:.0f} s"
    )
    async with bare_server(PERIOD_SECONDS) as (address, pid), swarm(address, AGENTS) as agents:
        floor = await _cost(agents, pid)
    async with (
        cluster(directory, 0, ("--heartbeat-seconds", str(PERIOD_SECONDS))) as made,
        swarm(made.address, AGENTS) as agents,
    ):
        muster = await _cost(agents, made.coordinator.pid)
    fact(
        "CPU of one heartbeat",
        f"floor {1e6 * floor:.0f} us, Muster {1e6 * muster:.0f} us: {muster / floor:.1f} x; "
        f"at the default 5 s, {AGENTS} hosts take {100 * muster * AGENTS / 5:.1f} % of a core",
    )


async def _cost(agents: Swarm, pid: int) -> float:
    """CPU seconds of a process per heartbeat answered."""
    await asyncio.sleep(PERIOD_SECONDS)
    beats_before, cpu_before = await agents.beats(), cpu_seconds(pid)
    await asyncio.sleep(MEASURED_SECONDS)
    beats, cpu = await agents.beats() - beats_before, cpu_seconds(pid) - cpu_before
    return cpu / beats


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
