"""A 1000-node job on 1000 simulated agents: a real coordinator with its journal on disk, against a
bare server that pushes the same messages to the same programs and does nothing else.

Start: from the call that submits until the last agent has the acknowledgement of its UP, which
the coordinator sends when it is durable. Stop: from the call that terminates until the last has
that of its RELEASED.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from bench.programs import Mark, Swarm, program, swarm
from bench.report import fact, heading, row
from muster.v1 import job_service_pb2
from tests.e2e.cluster import Cluster, cluster, definition, free_port

AGENTS = 1000
JOBS = 7
HEARTBEAT_SECONDS = 5


@dataclass(slots=True)
class Gangs:
    """What some jobs took, seconds."""

    start: list[float] = field(default_factory=list)
    stop: list[float] = field(default_factory=list)
    messages: list[float] = field(default_factory=list)

    async def measure(
        self,
        agents: Swarm,
        submit: Callable[[], Awaitable[object]],
        terminate: Callable[[], Awaitable[object]],
    ) -> None:
        up = await _timed(self.start, submit, agents, "up")
        released = await _timed(self.stop, terminate, agents, "released")
        self.messages.append(up.messages_per_agent + released.messages_per_agent)


async def _timed(
    seconds: list[float], call: Callable[[], Awaitable[object]], agents: Swarm, mark: str
) -> Mark:
    begun = time.monotonic()
    await call()
    reached = await agents.reached(mark)
    seconds.append(reached.seconds - begun)
    return reached


async def run(directory: Path) -> None:
    heading(
        f"agents: a {AGENTS}-node job on {AGENTS} simulated agents, each on its own channel; "
        f"{JOBS} jobs, the first not counted; target 4 x"
    )
    floor, muster = Gangs(), Gangs()
    async with bare_server(HEARTBEAT_SECONDS) as (address, _), swarm(address, AGENTS) as agents:
        await measure_bare(address, agents, floor)
    async with (
        cluster(directory, 0, ("--heartbeat-seconds", str(HEARTBEAT_SECONDS))) as made,
        swarm(made.address, AGENTS) as agents,
    ):
        await measure_muster(made, agents, muster)
    row("submit to last child UP, durable", floor.start[1:], muster.start[1:])
    row("terminate to last RELEASED, durable", floor.stop[1:], muster.stop[1:])
    both = [[a + b for a, b in zip(g.start, g.stop, strict=True)] for g in (floor, muster)]
    row("both", both[0][1:], both[1][1:])
    fact(
        "messages received by an agent",
        f"floor {floor.messages[-1]:.2f}, Muster {muster.messages[-1]:.2f}",
    )


@asynccontextmanager
async def bare_server(heartbeat_seconds: int) -> AsyncIterator[tuple[str, int]]:
    """A floor; its address and pid."""
    address = f"127.0.0.1:{free_port()}"
    async with program("bench.bare_server", address, str(1000 * heartbeat_seconds)) as server:
        yield address, server.pid


async def measure_bare(address: str, agents: Swarm, gangs: Gangs) -> None:
    async with grpc.aio.insecure_channel(address) as channel:

        async def call(method: str) -> None:
            raw: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            await raw(b"")

        for _ in range(JOBS):
            await gangs.measure(
                agents, lambda: call("/bench.Floor/Gang"), lambda: call("/bench.Floor/Stop")
            )


async def measure_muster(made: Cluster, agents: Swarm, gangs: Gangs) -> None:
    submitted: list[str] = []

    async def submit() -> None:
        submitted.append(await made.submit(revision))

    revision = await register_gang(made, agents.agents)
    for _ in range(JOBS):
        await gangs.measure(agents, submit, lambda: terminate(made, submitted[-1]))


async def register_gang(made: Cluster, nodes: int) -> str:
    """A definition that uses so many hosts; its `name:revision`."""
    return await made.register(definition("bench", {"0:": ["true"]}, num_nodes=nodes))


async def terminate(made: Cluster, job_id: str) -> None:
    request = job_service_pb2.TerminateJobRequest(job_id=job_id, reason="measured")
    await made.jobs.TerminateJob(request)
