"""What docs/limits.md says of requests and replies, for every RPC: sizes, counts, pages."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import ParseDict

from coordinator.rpc import seats, sizes, turns
from coordinator.rpc.sizes import REPLY_BYTES_MAX, REQUEST_BYTES_MAX
from coordinator.rpc.turns import Turns
from muster.v1 import host_service_pb2, job_service_pb2
from muster.v1 import job_service_pb2 as pb
from muster.v1.job_pb2 import JobStatus
from tests.fakes.cluster import FakeCluster, FakeHosts
from tests.rpc.conftest import GANG, ONE, Client, everything, refusal

METHODS: list[MethodDescriptor] = [
    method
    for file, service in ((job_service_pb2, "JobService"), (host_service_pb2, "HostService"))
    for method in file.DESCRIPTOR.services_by_name[service].methods
]
INVALID = grpc.StatusCode.INVALID_ARGUMENT
LONG_TAGS = {f"{number:02}" + "\U0001f600" * 126: "\U0001f600" * 256 for number in range(50)}


def raw_call(client: Client, method: MethodDescriptor, wire: bytes) -> Any:
    """A call with these bytes as its request."""
    name = f"/{method.containing_service.full_name}/{method.name}"
    channel = client.channel
    multi: Any = (channel.unary_stream if method.server_streaming else channel.unary_unary)(name)
    return multi(wire)


@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
async def test_a_request_is_measured_before_it_is_read(
    client: Client, method: MethodDescriptor
) -> None:
    most = 131_072 if method.name == "CreateJobQueue" else 32_768
    # Not a message, so that whoever reads it first says something else.
    code, details = await refusal(raw_call(client, method, b"\xff" * (most + 1)))
    assert code is INVALID
    assert details == f"{method.name}: the request has {most + 1} bytes; it may have {most}"
    code, details = await refusal(raw_call(client, method, b"\xff" * most))
    assert code is INVALID
    assert details == f"{method.name}: the request is no message of muster.v1"


async def test_a_request_of_countless_objects(client: Client) -> None:
    request = ParseDict(GANG, pb.RegisterJobDefinitionRequest())
    pairs = request.node_properties.node_range_properties[0].container.environment
    for _ in range(4_000):
        pairs.add()
    code, details = await refusal(client.jobs.RegisterJobDefinition(request))
    assert code is INVALID
    assert "the request has more than 4000 objects" in details


async def test_what_aws_takes_is_taken(client: Client) -> None:
    large = ParseDict(GANG, pb.RegisterJobDefinitionRequest())
    pairs = large.node_properties.node_range_properties[0].container.environment
    for number in range(1_400):
        pairs.add(name=f"v{number:04}")
    arn = (await client.jobs.RegisterJobDefinition(large)).job_definition_arn
    submission = pb.SubmitJobRequest(job_name="j", job_queue="default", job_definition=arn)
    override = submission.node_overrides.node_property_overrides.add(target_nodes="0:")
    for number in range(1_600):
        override.container_overrides.environment.add(name=f"w{number:04}")
    await client.jobs.SubmitJob(submission)
    longest_arns = [arn.replace("gang", "g" * 128)] * 100
    await client.jobs.DescribeJobDefinitions(
        pb.DescribeJobDefinitionsRequest(job_definitions=longest_arns)
    )
    await client.jobs.CreateJobQueue(pb.CreateJobQueueRequest(job_queue_name="q", tags=LONG_TAGS))


async def test_an_answer_that_no_client_would_take_says_what_to_ask(
    client: Client, hosts: FakeHosts
) -> None:
    """64 KiB of command, as a parameter can make it, for each of five groups."""
    long = "x" * 8_000
    group = GANG["nodeProperties"]["nodeRangeProperties"][0]["container"] | {
        "command": ["Ref::size"] * 8
    }
    nodes = {
        "numNodes": 5,
        "mainNode": 0,
        "nodeRangeProperties": [{"targetNodes": f"{n}", "container": group} for n in range(5)],
    }
    definition = GANG | {"nodeProperties": nodes, "parameters": {"size": long}}
    arn = await client.register(definition)
    request = pb.SubmitJobRequest(job_name="j", job_queue="default", job_definition=arn)
    ids = [(await client.jobs.SubmitJob(request)).job_id for _ in range(20)]
    code, details = await refusal(client.jobs.DescribeJobs(pb.DescribeJobsRequest(jobs=ids)))
    assert code is INVALID
    assert details == (
        f"the answer on 20 jobs would have more than {REPLY_BYTES_MAX} bytes, and clients take "
        "little more than that; ask for 12 or fewer at a time"
    )
    assert len(await client.describe(*ids[:12])) == 12
    # Of jobs that have left memory, too.
    for job_id in ids:
        await client.jobs.TerminateJob(pb.TerminateJobRequest(job_id=job_id, reason="x"))
    code, details = await refusal(client.jobs.DescribeJobs(pb.DescribeJobsRequest(jobs=ids)))
    assert (code, "fewer at a time" in details) == (INVALID, True)
    assert [job["jobId"] for job in await client.describe(*ids[7:12])] == ids[7:12]


async def test_pages_end_where_a_reply_does(client: Client, hosts: FakeHosts) -> None:
    """A client that sets nothing takes 4 MiB; 60 queues with all tags they may have are 4.6."""
    for number in range(60):
        request = pb.CreateJobQueueRequest(job_queue_name=f"q{number:02}", tags=LONG_TAGS)
        await client.jobs.CreateJobQueue(request)
    labels = {f"{number:03}": "x" * 4_000 for number in range(100)}
    hosts.join(*(f"h-{number:02}" for number in range(20)), labels=labels)
    queues, listing = [], pb.DescribeJobQueuesRequest()
    while True:
        page = await client.jobs.DescribeJobQueues(listing)
        queues += [queue.job_queue_name for queue in page.job_queues]
        if not page.HasField("next_token"):
            break
        listing.next_token = page.next_token
    assert listing.HasField("next_token")
    assert queues == ["default", *(f"q{number:02}" for number in range(60))]
    found, hosting = [], host_service_pb2.ListHostsRequest()
    while True:
        shown = await client.hosts.ListHosts(hosting)
        found += [host.host_id for host in shown.hosts]
        if not shown.HasField("next_token"):
            break
        hosting.next_token = shown.next_token
    assert hosting.HasField("next_token")
    assert found == [f"h-{number:02}" for number in range(20)]
    described = host_service_pb2.DescribeHostsRequest(host_ids=found)
    code, details = await refusal(client.hosts.DescribeHosts(described))
    assert (code, "the answer on 20 hosts" in details) == (INVALID, True)


async def test_pages_of_hosts_are_as_long_as_was_asked(client: Client, hosts: FakeHosts) -> None:
    hosts.join("h-1", "h-2", "h-3")
    request = host_service_pb2.ListHostsRequest(max_results=2)
    first = await client.hosts.ListHosts(request)
    request.next_token = first.next_token
    second = await client.hosts.ListHosts(request)
    assert [[h.host_id for h in page.hosts] for page in (first, second)] == [
        ["h-1", "h-2"],
        ["h-3"],
    ]
    assert not second.HasField("next_token")
    for wrong in ({"max_results": 0}, {"max_results": 10_001}, {"next_token": "?"}):
        call = client.hosts.ListHosts(host_service_pb2.ListHostsRequest(**cast("Any", wrong)))
        assert (await refusal(call))[0] is INVALID


async def test_a_listing_of_long_rows_is_paged_without_loss(
    client: Client, hosts: FakeHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both halves of a listing, memory and records, end somewhere; nothing between is lost."""
    monkeypatch.setattr("coordinator.rpc.listing.REPLY_BYTES_MAX", 1_000)
    monkeypatch.setattr("coordinator.rpc.turns.REPLY_BYTES_MAX", 1_500)
    monkeypatch.setattr("coordinator.rpc.listing._PAGE_RECORD_BYTES", 10_000)
    hosts.join("h-1", "h-2", "h-3", "h-4")
    arn = await client.register(ONE)
    submitted = []
    for number in range(30):
        request = pb.SubmitJobRequest(job_name="j", job_queue="default", job_definition=arn)
        job_id = (await client.jobs.SubmitJob(request)).job_id
        submitted.append(job_id)
        if number % 10 and number < 25:
            hosts.run(job_id)
    listing = pb.ListJobsRequest(job_queue="default")
    listing.filters.add(name="AFTER_CREATED_AT", values=["0"])
    pages = []
    while True:
        page = await client.jobs.ListJobs(listing)
        pages.append([row.job_id for row in page.job_summary_list])
        if not page.HasField("next_token"):
            break
        listing.next_token = page.next_token
    assert len(pages) > 5
    assert [job_id for page in pages for job_id in page] == submitted[::-1]


async def test_an_explanation_leaves_out_what_a_reply_does_not_hold(
    client: Client, hosts: FakeHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.join("h-1", "h-2")
    job_id = await client.submit()
    whole = await client.jobs.ExplainJob(pb.ExplainJobRequest(job_id=job_id))
    assert (len(whole.hosts), whole.hosts_left_out) == (2, 0)
    most = whole.ByteSize() - 1
    monkeypatch.setattr("coordinator.rpc.job_service.REPLY_BYTES_MAX", most)
    said = await client.jobs.ExplainJob(pb.ExplainJobRequest(job_id=job_id))
    assert (len(said.hosts), said.hosts_left_out) == (1, 1)


async def test_wide_reads_are_made_in_slices(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    read = cluster.read

    async def counted(query: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(query)

    monkeypatch.setattr(cluster, "read", counted)
    monkeypatch.setattr(turns, "SLICE_SECONDS", 0.0)
    assert await Turns(cluster).each([1, 2, 3], lambda _, key: 2 * key) == [2, 4, 6]
    assert reads == 3


@pytest.mark.parametrize(("size", "most"), [(1, 200), (5_000, 8)])
async def test_so_many_submissions_share_a_step(
    cluster: FakeCluster, client: Client, monkeypatch: pytest.MonkeyPatch, size: int, most: int
) -> None:
    arn = await client.register(ONE)
    waiting: list[asyncio.Future[None]] = []
    ask = cluster.ask
    enough = asyncio.Event()

    async def held(given: Any) -> object:
        waiting.append(asyncio.get_running_loop().create_future())
        if len(waiting) == most:
            enough.set()
        await waiting[-1]
        return await ask(given)

    monkeypatch.setattr(cluster, "ask", held)
    request = pb.SubmitJobRequest(
        job_name="j", job_queue="default", job_definition=arn, parameters={"a": "x" * size}
    )
    calls = [client.jobs.SubmitJob(request) for _ in range(most + 10)]
    await enough.wait()
    # Read only when all the others have come so far.
    await client.describe("none")
    assert len(waiting) == most
    monkeypatch.setattr(cluster, "ask", ask)
    for each in waiting:
        each.set_result(None)
    assert len({(await call).job_id for call in calls}) == most + 10


async def test_readers_have_seats(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "READERS_MAX", 1)
    job_id = await client.submit()
    request = pb.WatchJobRequest(job_id=job_id)
    watch = client.jobs.WatchJob(request)
    await watch.read()
    assert await refusal(client.jobs.WatchJob(request)) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "1 readers watch jobs or read output already; try again later",
    )
    await client.jobs.TerminateJob(pb.TerminateJobRequest(job_id=job_id, reason="x"))
    assert (await everything(watch))[-1].job.status == JobStatus.FAILED
    assert len(await everything(client.jobs.WatchJob(request))) == 1


def test_the_limits_fit_one_another() -> None:
    assert REQUEST_BYTES_MAX < sizes.RECEIVED_BYTES_MAX
    assert max(sizes._LONGER.values()) < sizes.RECEIVED_BYTES_MAX
    assert REPLY_BYTES_MAX < 4 * 1024 * 1024
