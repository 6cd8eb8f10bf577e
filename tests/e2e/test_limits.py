"""One request, however large, costs a real coordinator neither its memory nor its other callers."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest

from muster.v1 import job_service_pb2 as pb
from muster.v1.job_pb2 import JobDefinitionType
from tests.e2e.cluster import cluster, definition

MIB = 1024 * 1024
REGISTER = "/muster.v1.JobService/RegisterJobDefinition"


def _peak_mib(pid: int) -> int:
    """Resident memory of a process, the most so far."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    (found,) = (line.split() for line in lines if line.startswith("VmHWM:"))
    return int(found[1]) // 1024


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
async def test_a_definition_of_17_mib(tmp_path: Path, compression: grpc.Compression | None) -> None:
    """Read, it would be 1.3 GB of objects, and half a minute of nothing else."""
    request = pb.RegisterJobDefinitionRequest(
        job_definition_name="d", type=JobDefinitionType.Value("multinode")
    )
    container = request.node_properties.node_range_properties.add(target_nodes="0:").container
    for _ in range(4_096):
        container.environment.add(name="a")
    once = request.SerializeToString()
    async with cluster(tmp_path, 1) as c:
        before = _peak_mib(c.coordinator.pid)
        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(c.address, options=options) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(REGISTER)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(once * (17 * MIB // len(once)), compression=compression)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in (caught.value.details() or "")
        assert _peak_mib(c.coordinator.pid) - before < 64
        job_id = await c.submit(await c.register(definition("d", {"0:": ["true"]}, num_nodes=1)))
        await c.until(job_id, "SUCCEEDED")
