"""Many simulated agents in one process: each a channel and a session of its own, and no engine.

    python -m bench.simulated ADDRESS FIRST COUNT

Each answers PREPARE with PREPARED, RUN with UP, STOP with EXITED and RELEASED, at once. Prints a
line `MARK NANOSECONDS MESSAGES` when all of its agents have come so far: `connected`, then for
each job `up` and `released`, both as acknowledged, hence durable. The time is CLOCK_MONOTONIC, the
same in all processes; MESSAGES are those received since the mark before. A line on its standard
input is answered with `beats N`, the heartbeats answered so far; it ends with that input.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from typing import cast

import grpc

from bench.stdin import stdin_lines
from muster.v1 import agent_service_pb2 as pb
from muster.v1 import agent_service_pb2_grpc as pb_grpc

OPTIONS = [
    # Or all agents of this process share one connection, which no cluster does.
    ("grpc.use_local_subchannel_pool", 1),
]


class Tally:
    """Counts how many agents have come how far."""

    def __init__(self, agents: int) -> None:
        self._agents = agents
        self._reached: dict[str, int] = {}
        self.messages = 0
        self.beats = 0

    def reach(self, mark: str) -> None:
        count = self._reached[mark] = self._reached.get(mark, 0) + 1
        if count == self._agents:
            print(mark, time.monotonic_ns(), self.messages, flush=True)
            self._reached[mark] = self.messages = 0


class Agent:
    """One simulated host."""

    def __init__(self, number: int, tally: Tally) -> None:
        self._number = number
        self._tally = tally
        self._seq = 0
        self._marks: dict[int, str] = {}
        """Sequence number of a report -> the mark that its acknowledgement reaches."""
        self._told: dict[tuple[str, int], int] = {}
        """What was wanted last, by job and attempt: a repeated list is no news."""
        self._turn = asyncio.Lock()

    async def run(self, address: str) -> None:
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            stub = cast("pb_grpc.AgentServiceAsyncStub", pb_grpc.AgentServiceStub(channel))
            self._call = stub.Session(wait_for_ready=True)
            await self._send(pb.AgentMessage(hello=self._hello()))
            async with asyncio.TaskGroup() as tasks:
                async for message in self._call:
                    self._tally.messages += 1
                    if message.HasField("assignments"):
                        for assignment in message.assignments.assignments:
                            await self._follow(assignment)
                    elif message.HasField("ack"):
                        self._acknowledged(message.ack.report_seq)
                    elif message.HasField("heartbeat_ack"):
                        self._tally.beats += 1
                    elif message.HasField("welcome"):
                        self._tally.reach("connected")
                        tasks.create_task(self._beat(message.welcome.heartbeat_period_ms / 1000))

    def _hello(self) -> pb.Hello:
        host_id = f"h{self._number:04}"
        return pb.Hello(
            host_id=host_id, agent_uuid=host_id, boot_id=host_id, incarnation=1, version="bench",
            private_ipv4_address=self._address,
            resources=pb.Resources(
                vcpus=4, memory_mib=8192, instance_type="generic", engine="process"
            ),
        )  # fmt: skip

    @property
    def _address(self) -> str:
        return f"10.0.{self._number >> 8}.{self._number & 255}"

    async def _follow(self, assignment: pb.Assignment) -> None:
        key = (assignment.job_id, assignment.attempt)
        if self._told.get(key, 0) >= assignment.desired:
            return
        self._told[key] = assignment.desired
        node = pb.NodeReport(
            job_id=assignment.job_id, attempt=assignment.attempt, node_index=assignment.node_index
        )
        if assignment.desired == pb.PREPARE:
            await self._report(node, pb.PREPARED)
            return
        node.started_at_ms = time.time_ns() // 1_000_000
        node.private_ipv4_address = self._address
        if assignment.desired == pb.RUN:
            await self._report(node, pb.UP, "up")
            return
        node.exit_code = 143
        node.stopped_at_ms = node.started_at_ms
        await self._report(node, pb.EXITED)
        await self._report(node, pb.RELEASED, "released")

    async def _report(
        self, node: pb.NodeReport, progress: pb.NodeProgress.ValueType, mark: str | None = None
    ) -> None:
        self._seq += 1
        node.progress = progress
        if mark is not None:
            self._marks[self._seq] = mark
        report = pb.StatusReport(seq=self._seq, nodes=[node])
        await self._send(pb.AgentMessage(report=report))

    def _acknowledged(self, seq: int) -> None:
        for marked in [marked for marked in self._marks if marked <= seq]:
            self._tally.reach(self._marks.pop(marked))

    async def _beat(self, period_seconds: float) -> None:
        seq = 0
        await asyncio.sleep(period_seconds * random.random())
        while True:
            seq += 1
            await self._send(pb.AgentMessage(heartbeat=pb.Heartbeat(seq=seq)))
            await asyncio.sleep(period_seconds)

    async def _send(self, message: pb.AgentMessage) -> None:
        async with self._turn:
            await self._call.write(message)


async def main(address: str, first: int, count: int) -> None:
    tally = Tally(count)
    # In a group: a session that breaks ends the program, and the figures with it.
    async with asyncio.TaskGroup() as group:
        agents = [
            group.create_task(Agent(number, tally).run(address))
            for number in range(first, first + count)
        ]
        async for _ in stdin_lines():
            print("beats", tally.beats, flush=True)
        for agent in agents:
            agent.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
