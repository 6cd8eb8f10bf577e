"""Whatever a client sends: an answer or a refusal that says why, and never a defect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import grpc
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from coordinator.core.arn import Arns
from coordinator.rpc.host_service import HostService
from coordinator.rpc.job_service import JobService
from coordinator.rpc.refused import RefusedAgents
from muster.v1 import host_service_pb2
from muster.v1 import job_service_pb2 as pb
from muster.v1.job_pb2 import JobStatus
from tests.fakes.cluster import FakeCluster, FakeHosts
from tests.rpc.conftest import GANG, ONE
from tests.rpc.messages import messages

SERVICES = (
    pb.DESCRIPTOR.services_by_name["JobService"],
    host_service_pb2.DESCRIPTOR.services_by_name["HostService"],
)
REQUESTS: dict[str, type[Message]] = {
    method.name: GetMessageClass(method.input_type)
    for service in SERVICES
    for method in service.methods
}
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "ALREADY_EXISTS", "UNAVAILABLE"}
DETAILS_CHARS = 2_100

SETTINGS = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@dataclass
class Refused(Exception):
    status: grpc.StatusCode
    details: str


class Context:
    """The half of a ServicerContext that the services use."""

    async def abort(self, status: grpc.StatusCode, details: str) -> NoReturn:
        raise Refused(status, details)


class World:
    """A cluster with a job in each place, and a loop of its own."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        cluster = FakeCluster()
        arns = Arns(region="local", account_id="000000000000")
        self._services: Any = (JobService(cluster, arns), HostService(cluster, RefusedAgents()))
        for definition in (GANG, ONE):
            self.must("RegisterJobDefinition", definition)
        self._job_ids: list[str] = []
        hosts = FakeHosts(cluster)
        hosts.join("h-1", "1", "default", "gang")
        for job_name in ("ended", "running", "waits"):
            job = {"jobName": job_name, "jobQueue": "default", "jobDefinition": "gang"}
            job_id = self.must("SubmitJob", job).job_id
            self._job_ids.append(job_id)
            if job_name == "ended":
                hosts.run(job_id)
            elif job_name == "running":
                hosts.vote(job_id)

    def must(self, rpc: str, request: dict[str, Any]) -> Any:
        return self._runner.run(self._call(rpc, ParseDict(request, REQUESTS[rpc]())))

    async def _call(self, rpc: str, request: Message) -> Any:
        service = self._services[0] if hasattr(self._services[0], rpc) else self._services[1]
        answer = getattr(service, rpc)(request, Context())
        if not isinstance(answer, AsyncIterator):
            return await answer
        # The first response is enough: a watch would go on for ever.
        return await anext(answer, None)

    def right(self, rpc: str) -> list[dict[str, Any]]:
        """Requests that are in order, or nearly."""
        jobs = [*self._job_ids, f"{self._job_ids[0]}#0", f"{self._job_ids[1]}#1"]
        submission = {"jobName": "j", "jobQueue": "default"}
        match rpc:
            case "RegisterJobDefinition":
                return [GANG, ONE]
            case "SubmitJob":
                return [submission | {"jobDefinition": name} for name in ("gang:1", "one:1")]
            case "DescribeJobs":
                return [{"jobs": jobs}]
            case "ListJobs":
                return [{"jobQueue": "default"}, {"multiNodeJobId": jobs[0]}]
            case "CreateJobQueue" | "UpdateJobQueue" | "DeleteJobQueue":
                member = "jobQueueName" if rpc == "CreateJobQueue" else "jobQueue"
                return [{member: "q"}]
            case "CancelJob" | "TerminateJob" | "WatchJob" | "GetNodeLog" | "ExplainJob":
                reason = {"reason": "x"} if rpc in ("CancelJob", "TerminateJob") else {}
                return [{"jobId": job_id} | reason for job_id in jobs]
            case "DrainHost" | "ResumeHost" | "FenceHost" | "ForgetHost":
                return [{"hostId": "h-1"}]
            case _:
                return [{}]

    def check(self, rpc: str, request: Message) -> None:
        if rpc == "GetNodeLog":
            # A follower waits for a launch, which does not come here.
            request.ClearField("follow")
        outcome = self._runner.run(self._outcome(rpc, request))
        if isinstance(outcome, Refused):
            event(f"{rpc} {outcome.status.name}")
            assert outcome.status.name in REFUSALS, outcome
            assert 0 < len(outcome.details) < DETAILS_CHARS
        else:
            event(f"{rpc} answered")

    async def _outcome(self, rpc: str, request: Message) -> Message | Refused | None:
        try:
            return cast("Message | None", await self._call(rpc, request))
        except Refused as refused:
            return refused


@st.composite
def calls(draw: st.DrawFn, world: World) -> tuple[str, Message]:
    """An RPC and any request: nothing but chance, or a right one with something laid over it."""
    rpc = draw(st.sampled_from(sorted(REQUESTS)))
    cls = REQUESTS[rpc]
    request = ParseDict(draw(st.sampled_from(world.right(rpc))), cls())
    drawn = draw(messages(cls, most=draw(st.sampled_from([0, 1, 2, 99]))))
    if draw(st.integers(0, 3)) == 0:
        return rpc, drawn
    request.MergeFrom(drawn)
    return rpc, request


def test_any_message_of_the_contract() -> None:
    with asyncio.Runner() as runner:
        world = World(runner)

        @SETTINGS
        @given(calls(world))
        def check(call: tuple[str, Message]) -> None:
            world.check(*call)

        check()


def test_any_bytes() -> None:
    with asyncio.Runner() as runner:
        world = World(runner)

        @SETTINGS
        @given(calls(world), st.integers(0, 200), st.integers(0, 3), st.binary(max_size=3))
        def check(call: tuple[str, Message], at: int, without: int, more: bytes) -> None:
            rpc, sent = call
            wire = sent.SerializeToString(deterministic=True)
            try:
                request = REQUESTS[rpc].FromString(wire[:at] + more + wire[at + without :])
            except DecodeError:
                # gRPC itself answers what is no message at all.
                return
            world.check(rpc, request)

        check()


SCALARS = st.none() | st.booleans() | st.integers(-5, 2000) | st.floats() | st.text(max_size=5)
NAMES = sorted(
    {field.json_name for cls in REQUESTS.values() for field in cls.DESCRIPTOR.fields}
    | {"container", "targetNodes", "numNodes", "nodeRangeProperties", "image", "command", "name"}
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def test_any_json() -> None:
    with asyncio.Runner() as runner:
        world = World(runner)

        @SETTINGS
        @given(st.data(), st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
        def check(data: st.DataObject, document: dict[str, Any]) -> None:
            rpc = data.draw(
                st.sampled_from(
                    ["RegisterJobDefinition", "SubmitJob", "CreateJobQueue", "ListJobs"]
                )
            )
            document |= data.draw(st.sampled_from([{}, *world.right(rpc)]))
            try:
                request = ParseDict(document, REQUESTS[rpc](), ignore_unknown_fields=True)
            except ParseError:
                # What does not fit the contract ends where JSON becomes a message.
                return
            world.check(rpc, request)

        check()


def test_the_world_has_a_job_in_each_place() -> None:
    with asyncio.Runner() as runner:
        world = World(runner)
        request = {
            "jobQueue": "default",
            "filters": [{"name": "JOB_NAME", "values": ["*"]}],
        }
        rows = world.must("ListJobs", request).job_summary_list
        assert [(row.job_name, row.status) for row in rows] == [
            ("waits", JobStatus.RUNNABLE),
            ("running", JobStatus.STARTING),
            ("ended", JobStatus.SUCCEEDED),
        ]
