"""The floor of a coordinator: a bare grpc.aio server that pushes the messages of a gang to its
streams and waits for the replies, in the gang's shape. No state, no journal, no policy.

    python -m bench.bare_server ADDRESS HEARTBEAT_MS

Serves until its standard input ends. `/bench.Floor/Gang` starts a gang over all streams that there
are: all prepare; main; all children. `/bench.Floor/Stop` stops it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from bench.stdin import stdin_lines
from muster.v1 import agent_service_pb2 as pb

OPTIONS = [("grpc.so_reuseport", 0), ("grpc.server.max_pending_requests", 20_000)]
SESSION_ID = "00000000-0000-0000-0000-000000000000"

Outgoing = asyncio.Queue[pb.CoordinatorMessage]


class BareServer:
    """Every stream has a queue; a phase pushes to some of them and counts replies."""

    def __init__(self, heartbeat_ms: int) -> None:
        self._heartbeat_ms = heartbeat_ms
        self._streams: list[Outgoing] = []
        self._awaited = 0
        self._replied = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._gangs = 0

    async def session(
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: object
    ) -> AsyncIterator[pb.CoordinatorMessage]:
        outgoing: Outgoing = asyncio.Queue()
        self._streams.append(outgoing)
        reader = asyncio.create_task(self._read(request_iterator, outgoing))
        try:
            while True:
                yield await outgoing.get()
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator[pb.AgentMessage], outgoing: Outgoing) -> None:
        async for message in requests:
            if message.HasField("report"):
                ack = pb.Ack(report_seq=message.report.seq)
                outgoing.put_nowait(pb.CoordinatorMessage(ack=ack))
                self._awaited -= 1
                if not self._awaited:
                    self._replied.set()
            elif message.HasField("heartbeat"):
                beat = pb.HeartbeatAck(seq=message.heartbeat.seq)
                outgoing.put_nowait(pb.CoordinatorMessage(heartbeat_ack=beat))
            else:
                welcome = pb.Welcome(session_id=SESSION_ID, heartbeat_period_ms=self._heartbeat_ms)
                outgoing.put_nowait(pb.CoordinatorMessage(welcome=welcome))

    async def gang(self, request: bytes, context: object) -> bytes:
        everybody = range(len(self._streams))
        self._gangs += 1
        prepare = [self._message(node, pb.PREPARE) for node in everybody]
        run = [self._message(node, pb.RUN) for node in everybody]

        async def phases() -> None:
            await self._phase(everybody, prepare, 1)
            await self._phase(everybody[:1], run, 1)
            await self._phase(everybody[1:], run, 1)

        self._running = asyncio.create_task(phases())
        return b""

    async def stop(self, request: bytes, context: object) -> bytes:
        everybody = range(len(self._streams))
        stop = [self._message(node, pb.STOP) for node in everybody]
        # Each replies twice: ended, and nothing is left.
        self._running = asyncio.create_task(self._phase(everybody, stop, 2))
        return b""

    async def _phase(
        self, nodes: Sequence[int], messages: Sequence[pb.CoordinatorMessage], replies: int
    ) -> None:
        self._awaited = replies * len(nodes)
        self._replied.clear()
        for node in nodes:
            self._streams[node].put_nowait(messages[node])
        await self._replied.wait()

    @property
    def _job_id(self) -> str:
        return f"00000000-0000-0000-0000-{self._gangs:012}"

    def _message(self, node: int, desired: pb.DesiredState.ValueType) -> pb.CoordinatorMessage:
        assignment = pb.Assignment(
            job_id=self._job_id, attempt=1, node_index=node, desired=desired,
            stop_grace_seconds=30, lease_seconds=600,
        )  # fmt: skip
        if desired != pb.STOP:
            assignment.container.CopyFrom(self._container(node))
        return pb.CoordinatorMessage(
            assignments=pb.Assignments(generation=1 << 40, assignments=[assignment])
        )

    def _container(self, node: int) -> pb.NodeContainer:
        """As large as a coordinator's, since it names the same variables."""
        environment = {
            "AWS_BATCH_JOB_ID": f"{self._job_id}#{node}",
            "AWS_BATCH_JOB_ATTEMPT": "1",
            "AWS_BATCH_CE_NAME": "default",
            "AWS_BATCH_JQ_NAME": "default",
            "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
            "AWS_BATCH_JOB_NODE_INDEX": str(node),
            "AWS_BATCH_JOB_MAIN_NODE_INDEX": "0",
            "AWS_BATCH_JOB_NUM_NODES": str(len(self._streams)),
        }
        return pb.NodeContainer(
            image="none", command=["true"], vcpus=1, memory_mib=64,
            environment=[
                pb.EnvironmentVariable(name=name, value=value)
                for name, value in environment.items()
            ],
        )  # fmt: skip


async def main(address: str, heartbeat_ms: int) -> None:
    bare = BareServer(heartbeat_ms)
    server = grpc.aio.server(options=OPTIONS)
    session = grpc.stream_stream_rpc_method_handler(
        bare.session,
        request_deserializer=pb.AgentMessage.FromString,
        response_serializer=pb.CoordinatorMessage.SerializeToString,
    )
    services: dict[str, dict[str, Any]] = {
        "muster.v1.AgentService": {"Session": session},
        "bench.Floor": {
            "Gang": grpc.unary_unary_rpc_method_handler(bare.gang),
            "Stop": grpc.unary_unary_rpc_method_handler(bare.stop),
        },
    }
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(*service) for service in services.items()]
    )
    server.add_insecure_port(address)
    await server.start()
    async for _ in stdin_lines():
        pass
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
