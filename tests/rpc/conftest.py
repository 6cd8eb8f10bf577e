"""The services over real gRPC, with the real machine behind them and hosts played by hand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from coordinator.core.arn import Arns
from coordinator.rpc.host_service import HostService
from coordinator.rpc.job_service import JobService
from coordinator.rpc.ports import Cluster
from coordinator.rpc.refused import RefusedAgents
from coordinator.rpc.sizes import sized_services
from muster.v1 import job_service_pb2 as pb
from muster.v1.host_service_pb2_grpc import HostServiceStub, add_HostServiceServicer_to_server
from muster.v1.job_service_pb2_grpc import JobServiceStub, add_JobServiceServicer_to_server
from tests.fakes.cluster import FakeCluster, FakeHosts

if TYPE_CHECKING:
    from muster.v1.host_service_pb2_grpc import HostServiceAsyncStub
    from muster.v1.job_service_pb2_grpc import JobServiceAsyncStub

JSON = dict[str, Any]

GANG: JSON = {
    "jobDefinitionName": "gang",
    "type": "multinode",
    "nodeProperties": {
        "numNodes": 3,
        "mainNode": 0,
        "nodeRangeProperties": [
            {
                "targetNodes": "0:",
                "container": {
                    "image": "busybox",
                    "command": ["solve", "Ref::size"],
                    "environment": [{"name": "A", "value": "1"}],
                    "resourceRequirements": [
                        {"type": "VCPU", "value": "2"},
                        {"type": "MEMORY", "value": "512"},
                    ],
                },
            }
        ],
    },
    "parameters": {"size": "9"},
}
ONE: JSON = {
    "jobDefinitionName": "one",
    "type": "container",
    "containerProperties": {"image": "busybox", "command": ["true"], "vcpus": 1, "memory": 64},
}


@dataclass
class Client:
    """Both stubs, their channel, and the calls that every test makes."""

    jobs: JobServiceAsyncStub
    hosts: HostServiceAsyncStub
    channel: grpc.aio.Channel

    async def register(self, definition: JSON) -> str:
        request = ParseDict(definition, pb.RegisterJobDefinitionRequest())
        return (await self.jobs.RegisterJobDefinition(request)).job_definition_arn

    async def submit(self, definition: JSON = GANG, **more: object) -> str:
        """Register a definition and submit a job of it; the job's id."""
        arn = await self.register(definition)
        request = {"jobName": "heat", "jobQueue": "default", "jobDefinition": arn} | more
        return (await self.jobs.SubmitJob(ParseDict(request, pb.SubmitJobRequest()))).job_id

    async def describe(self, *jobs: str) -> list[JSON]:
        """As a client that reads JSON sees them, only with the members that are there."""
        response = await self.jobs.DescribeJobs(pb.DescribeJobsRequest(jobs=jobs))
        return [shown(job) for job in response.jobs]

    async def only(self, job: str) -> JSON:
        (found,) = await self.describe(job)
        return found


def shown(message: Message) -> JSON:
    return cast("JSON", json.loads(json.dumps(MessageToDict(message))))


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status and the text that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (everything(call) if hasattr(call, "read") else call)
    return caught.value.code(), caught.value.details() or ""


async def everything(call: Any) -> list[Any]:
    """All responses of a stream from here to its end. By `read`, so that a test may have read
    some before."""
    responses = []
    while (response := await call.read()) is not grpc.aio.EOF:
        responses.append(response)
    return responses


async def one_that_runs(client: Client, hosts: FakeHosts) -> str:
    """A job of one node, which runs on a new host h-1; its id."""
    hosts.join("h-1")
    job_id = await client.submit(ONE)
    hosts.vote(job_id)
    hosts.up(job_id, 0)
    return job_id


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def hosts(cluster: FakeCluster) -> FakeHosts:
    return FakeHosts(cluster)


@pytest.fixture
async def client(cluster: FakeCluster, tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(cluster, tmp_path) as made:
        yield made


@asynccontextmanager
async def serving(cluster: Cluster, directory: Path) -> AsyncIterator[Client]:
    """A server on a socket of its own, and a client of it."""
    address = f"unix:{directory / 'coordinator.sock'}"
    server = grpc.aio.server()
    arns = Arns(region="local", account_id="000000000000")
    sized = sized_services(server)
    add_JobServiceServicer_to_server(JobService(cluster, arns), sized)
    add_HostServiceServicer_to_server(HostService(cluster, RefusedAgents()), sized)
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Client(
                cast("JobServiceAsyncStub", JobServiceStub(channel)),
                cast("HostServiceAsyncStub", HostServiceStub(channel)),
                channel,
            )
    finally:
        await server.stop(None)
