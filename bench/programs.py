"""The programs that a benchmark runs beside itself: simulated agents and the bare server.

Each ends when its standard input does, so none can outlive this process.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.e2e.cluster import ROOT

DEADLINE_SECONDS = 60.0
PROGRAMS = 2


class Program:
    """One `python -m MODULE ARGS...`, spoken to by lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def line(self) -> list[str]:
        """The next line that it prints, in words."""
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a program ended with {await self._process.wait()}; see above")
        return line.decode().split()

    async def ask(self) -> list[str]:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return await self.line()

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()


@asynccontextmanager
async def program(module: str, *args: str) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *args,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
    )  # fmt: skip
    made = Program(process)
    try:
        yield made
    finally:
        await made.end()


@dataclass(frozen=True, slots=True)
class Mark:
    """When all agents had come so far, and how many messages that took each."""

    seconds: float
    messages_per_agent: float


class Swarm:
    """Simulated agents, in a few programs."""

    def __init__(self, programs: list[Program], agents: int) -> None:
        self._programs = programs
        self.agents = agents

    async def reached(self, mark: str) -> Mark:
        """Wait until every agent has come to `mark`, which must be the next of all of them."""
        lines = await asyncio.gather(*(each.line() for each in self._programs))
        for name, *_ in lines:
            assert name == mark, f"expected {mark}, got {name}"
        return Mark(
            seconds=max(int(nanoseconds) for _, nanoseconds, _ in lines) / 1e9,
            messages_per_agent=sum(int(count) for _, _, count in lines) / self.agents,
        )

    async def beats(self) -> int:
        """Heartbeats answered so far, by all."""
        lines = await asyncio.gather(*(each.ask() for each in self._programs))
        return sum(int(count) for _, count in lines)


@asynccontextmanager
async def swarm(address: str, agents: int) -> AsyncIterator[Swarm]:
    """`agents` sessions with `address`, all welcomed."""
    share = agents // PROGRAMS
    async with AsyncExitStack() as stack:
        programs = [
            await stack.enter_async_context(
                program("bench.simulated", address, str(first), str(share))
            )
            for first in range(0, agents, share)
        ]
        made = Swarm(programs, agents)
        await made.reached("connected")
        yield made
