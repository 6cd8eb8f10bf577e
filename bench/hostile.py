"""Clients that ask for as much as they can: the longest that any of them keeps the loop busy.

One coordinator, 1000 simulated agents, a 1000-node job that runs and 1000 jobs that wait. A row is
many calls of one kind at once, and the longest callback of the coordinator's loop meanwhile in CPU
milliseconds of its thread (`bench.probed_coordinator`), against the limit of docs/limits.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct, Value
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bench.agents import AGENTS
from bench.programs import DEADLINE_SECONDS, Program, program, swarm
from bench.report import fact, heading
from coordinator.rpc.agent_service import SILENT_MAX
from muster.v1 import agent_service_pb2, agent_service_pb2_grpc
from muster.v1 import host_service_pb2 as host_pb
from muster.v1 import job_service_pb2 as pb
from muster.v1.host_service_pb2_grpc import HostServiceStub
from muster.v1.job_pb2 import RUNNABLE, JobDefinitionType
from muster.v1.job_service_pb2_grpc import JobServiceStub
from tests.e2e.cluster import free_port

CALLBACK_MS = 50.0
GANG_MS = 250.0
WAITING_JOBS = 1000
STREAMS = 2000
GANG_WATCHERS = 200
_UNBOUNDED = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),
]

Call = Callable[[], Awaitable[Any]]


class Attacks:
    """Calls, and what they did to the coordinator."""

    def __init__(self, probe: Program, channel: grpc.aio.Channel) -> None:
        self._probe = probe
        self.channel = channel
        self.jobs: Any = JobServiceStub(channel)
        self.hosts: Any = HostServiceStub(channel)

    @asynccontextmanager
    async def row(self, what: str, limit_ms: float = CALLBACK_MS) -> AsyncIterator[list[str]]:
        """One line about what happens meanwhile; what is put into the list is told with it."""
        told: list[str] = []
        await self._probe.ask()
        yield told
        milliseconds, megabytes, name = await self._probe.ask()
        ratio = float(milliseconds) / limit_ms
        fact(
            what,
            f"{float(milliseconds):6.1f} ms of {limit_ms:.0f} ({ratio:4.2f} x) in {name:<36} "
            f"{float(megabytes):6.1f} MB resident  {', '.join(told)}",
        )

    async def many(self, what: str, call: Call, times: int = 20) -> None:
        """The same call so often, at once."""
        async with self.row(what) as told, asyncio.timeout(DEADLINE_SECONDS):
            told += [f"{times} at once:", *await outcomes([call] * times)]


async def outcomes(calls: Sequence[Call]) -> list[str]:
    """How the calls ended, each way once, and the longest answer."""
    ends: dict[str, int] = {}
    longest = 0

    async def one(call: Call) -> None:
        nonlocal longest
        try:
            answer = await call()
        except grpc.aio.AioRpcError as error:
            end = error.code().name
        else:
            end = "OK"
            longest = max(longest, answer.ByteSize() if hasattr(answer, "ByteSize") else 0)
        ends[end] = ends.get(end, 0) + 1

    await asyncio.gather(*map(one, calls))
    sized = [f"the longest answer {longest / 1e6:.2f} MB"] if longest else []
    return [*(f"{count} {end}" for end, count in sorted(ends.items())), *sized]


async def run(directory: Path) -> None:
    heading(
        f"hostile: the longest callback of the loop in CPU, {AGENTS} simulated agents, "
        f"a {AGENTS}-node job, {WAITING_JOBS} jobs that wait"
    )
    address = f"127.0.0.1:{free_port()}"
    flags = ("--listen", address, "--data-dir", str(directory), "--log-level", "error")
    async with (
        program("bench.probed_coordinator", *flags) as probe,
        grpc.aio.insecure_channel(address, options=_UNBOUNDED) as channel,
        swarm(address, AGENTS) as agents,
    ):
        attacks = Attacks(probe, channel)
        for kind, definition in (("ordinary", gang("ordinary")), ("24 KiB", largest("large"))):
            arn = (await attacks.jobs.RegisterJobDefinition(definition)).job_definition_arn
            async with attacks.row(f"{AGENTS}-node gang starts, {kind}", GANG_MS):
                job = await attacks.jobs.SubmitJob(submission(arn))
                await agents.reached("up")
            if kind == "ordinary":
                async with attacks.row(f"{AGENTS}-node gang stops", GANG_MS):
                    await attacks.jobs.TerminateJob(
                        pb.TerminateJobRequest(job_id=job.job_id, reason="measured")
                    )
                    await agents.reached("released")
        await _requests(attacks, arn)
        waiting = await _answers(attacks, arn, job.job_id)
        await _streams(attacks, address, job.job_id, waiting)


def gang(name: str, nodes: int = AGENTS) -> pb.RegisterJobDefinitionRequest:
    request = pb.RegisterJobDefinitionRequest(
        job_definition_name=name, type=JobDefinitionType.Value("multinode")
    )
    request.node_properties.num_nodes = nodes
    container = request.node_properties.node_range_properties.add(target_nodes="0:").container
    container.image = "busybox"
    container.resource_requirements.add(type="VCPU", value="1")
    container.resource_requirements.add(type="MEMORY", value="64")
    return request


def largest(name: str) -> pb.RegisterJobDefinitionRequest:
    """As many variables as a definition may have."""
    request = gang(name)
    container = request.node_properties.node_range_properties[0].container
    for number in range(1_400):
        container.environment.add(name=f"v{number:04}")
    return request


def submission(arn: str) -> pb.SubmitJobRequest:
    return pb.SubmitJobRequest(job_name="hostile", job_queue="default", job_definition=arn)


def _deep(levels: int) -> Struct:
    """`{"a": {"a": ...}}`"""
    value = Value(string_value="end")
    for _ in range(levels):
        value = Value(struct_value=Struct(fields={"a": value}))
    return Struct(fields={"a": value})


async def _requests(attacks: Attacks, arn: str) -> None:
    """Long and deep ones."""
    raw: Any = attacks.channel.unary_unary("/muster.v1.JobService/RegisterJobDefinition")
    wire = largest("large").SerializeToString()
    await attacks.many("RegisterJobDefinition, 24 KiB", lambda: raw(wire))
    empty = gang("empty")
    for _ in range(8_000):
        empty.node_properties.node_range_properties[0].container.environment.add()
    await attacks.many("... of 8000 empty objects", lambda: raw(empty.SerializeToString()))
    for mebibytes in (1, 17, 60):
        # Empty node groups: of all bytes these become the most objects.
        long = wire + b"\x2a\x02\x1a\x00" * (mebibytes * 2**18 - 2**14)
        await attacks.many(f"... of {mebibytes} MiB", partial(raw, long), 5)
        compressed = partial(raw, long, compression=grpc.Compression.Gzip)
        await attacks.many("... the same compressed", compressed, 5)
    deep = gang("deep")
    deep.eks_properties.CopyFrom(_deep(30))
    await attacks.many("... as deep as gRPC reads", lambda: raw(deep.SerializeToString()))
    wide = gang("wide")
    wide.eks_properties.CopyFrom(
        Struct(fields={f"{n}": Value(bool_value=True) for n in range(2_500)})
    )
    await attacks.many("... with a wide object", lambda: raw(wide.SerializeToString()))
    long_submission = submission(arn)
    override = long_submission.node_overrides.node_property_overrides.add(target_nodes="0:")
    for number in range(1_600):
        override.container_overrides.environment.add(name=f"w{number:04}")
    await attacks.many("SubmitJob, 30 KiB", lambda: attacks.jobs.SubmitJob(long_submission), 100)
    tags = {f"{n:0128}": "\U0001f600" * 256 for n in range(50)}
    queue = pb.CreateJobQueueRequest(job_queue_name="q", tags=tags)
    await attacks.many("CreateJobQueue, 50 long tags", lambda: attacks.jobs.CreateJobQueue(queue))
    reason = pb.CancelJobRequest(job_id="none", reason="x" * 1024)
    await attacks.many("CancelJob, 1000 characters", lambda: attacks.jobs.CancelJob(reason), 500)


async def _answers(attacks: Attacks, arn: str, running: str) -> str:
    """Wide ones. A job that waits, of many."""
    jobs, hosts = attacks.jobs, attacks.hosts
    small = await jobs.RegisterJobDefinition(gang("small", 1))
    waiting = submission(small.job_definition_arn)
    await attacks.many("SubmitJob", lambda: jobs.SubmitJob(waiting), WAITING_JOBS)
    for _ in range(100):
        await jobs.RegisterJobDefinition(largest("wide"))
    listing = pb.ListJobsRequest(job_queue="default", job_status=RUNNABLE)
    page = await jobs.ListJobs(listing)
    ids = [row.job_id for row in page.job_summary_list]
    listing.next_token = page.next_token
    page = await jobs.ListJobs(listing)
    large = [row.job_id for row in page.job_summary_list if "/large:" in row.job_definition]
    asked: list[tuple[str, Any, Any]] = [
        (
            "ListJobs, 1000",
            jobs.ListJobs,
            pb.ListJobsRequest(job_queue="default", job_status=RUNNABLE),
        ),
        ("ListJobs, 1000 nodes", jobs.ListJobs, pb.ListJobsRequest(multi_node_job_id=running)),
        ("DescribeJobs, 100", jobs.DescribeJobs, pb.DescribeJobsRequest(jobs=ids[:100])),
        ("... of 54 KiB each", jobs.DescribeJobs, pb.DescribeJobsRequest(jobs=large[:100])),
        (
            "... 100 nodes, 24 KiB each",
            jobs.DescribeJobs,
            pb.DescribeJobsRequest(jobs=[f"{running}#{n}" for n in range(100)]),
        ),
        (
            "DescribeJobDefinitions, 100",
            jobs.DescribeJobDefinitions,
            pb.DescribeJobDefinitionsRequest(job_definition_name="wide"),
        ),
        (f"ListHosts, {AGENTS}", hosts.ListHosts, host_pb.ListHostsRequest()),
        (
            "DescribeHosts, 100",
            hosts.DescribeHosts,
            host_pb.DescribeHostsRequest(host_ids=[f"h{n:04}" for n in range(100)]),
        ),
        ("ExplainJob, the next in line", jobs.ExplainJob, pb.ExplainJobRequest(job_id=large[-1])),
        ("DescribeJobQueues", jobs.DescribeJobQueues, pb.DescribeJobQueuesRequest()),
    ]
    for what, call, request in asked:
        await attacks.many(what, partial(call, request))
    reflect: Any = reflection_pb2_grpc.ServerReflectionStub(attacks.channel)
    symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol="muster.v1.JobService")

    async def reflected() -> None:
        async for _ in reflect.ServerReflectionInfo(iter([symbol] * 20)):
            pass

    await attacks.many("reflection", reflected)
    return str(ids[0])


async def _streams(attacks: Attacks, address: str, running: str, waiting: str) -> None:
    """Those that are opened and left, on twenty connections."""
    long = agent_service_pb2.AgentMessage()
    for _ in range(200_000):
        long.hello.observed.add()
    hello = long.SerializeToString()

    def hello_call() -> Awaitable[Any]:
        raw: Any = attacks.channel.stream_stream("/muster.v1.AgentService/Session")
        return _first(raw(iter([hello])))

    await attacks.many("Session, Hello of 200,000 nodes", hello_call, 5)
    async with AsyncExitStack() as stack:
        # Others for the watchers: gRPC does not serve a connection well after so many cancels.
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_UNBOUNDED))
            for _ in range(40)
        ]
        sessions: list[Any] = [
            agent_service_pb2_grpc.AgentServiceStub(channel).Session for channel in channels[:20]
        ]
        watches: list[Any] = [JobServiceStub(channel).WatchJob for channel in channels[20:]]
        async with attacks.row(f"{STREAMS} silent sessions") as told:
            silent = [sessions[n % 20]() for n in range(STREAMS)]
            ends = asyncio.as_completed([asyncio.create_task(_ended(call)) for call in silent])
            for _ in range(STREAMS - SILENT_MAX):
                await next(ends)
            told.append(f"{STREAMS - SILENT_MAX} ended at once, {SILENT_MAX} may stay 30 s")
        for call in silent:
            call.cancel()
        for end in ends:
            await end
        calls = []
        for many, what, job_id in (
            (STREAMS, "a job that waits", waiting),
            (GANG_WATCHERS, f"a {AGENTS}-node job", running),
        ):
            async with attacks.row(f"{many} watchers of {what}") as told:
                request = pb.WatchJobRequest(job_id=job_id)
                opened = [watches[n % 20](request) for n in range(many)]
                told += await outcomes([partial(_first, call) for call in opened])
                calls += opened
        async with attacks.row("... that never read on, and it ends"):
            await attacks.jobs.TerminateJob(
                pb.TerminateJobRequest(job_id=running, reason="measured")
            )
            # Answered after all that was queued before.
            await attacks.hosts.ListHosts(host_pb.ListHostsRequest())
        for call in calls:
            call.cancel()


async def _first(call: Any) -> Any:  # noqa: ANN401 - of any RPC
    """Its first response; its status is an AioRpcError when there is none."""
    return await call.read()


async def _ended(call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
    """Until it has ended, however it does."""
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await call.read()
