"""ListJobs: selection, order, and pages that neither lose nor repeat a job."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.json_format import ParseDict

from muster.v1 import job_service_pb2 as pb
from tests.fakes.cluster import START_MS, FakeCluster, FakeHosts
from tests.rpc.conftest import GANG, JSON, ONE, Client, refusal, shown

ARN = "arn:aws:batch:local:000000000000"


async def _list(client: Client, **request: object) -> list[JSON]:
    """All pages of a listing."""
    found: list[JSON] = []
    token = ""
    while True:
        page = await client.jobs.ListJobs(
            ParseDict(request | {"nextToken": token}, pb.ListJobsRequest())
        )
        found += [shown(row) for row in page.job_summary_list]
        if not page.HasField("next_token"):
            return found
        token = page.next_token


async def _ids(client: Client, **request: object) -> list[str]:
    return [row["jobId"] for row in await _list(client, **request)]


async def test_a_row_has_what_its_state_has(client: Client, hosts: FakeHosts) -> None:
    job_id = await client.submit()
    everything = [{"name": "AFTER_CREATED_AT", "values": ["0"]}]

    async def row() -> JSON:
        (found,) = await _list(client, jobQueue="default", filters=everything)
        return found

    ever = {
        "jobArn": f"{ARN}:job/{job_id}",
        "jobId": job_id,
        "jobName": "heat",
        "capacityUsage": [{"capacityUnit": "VCPU", "quantity": 6.0}],
        "createdAt": START_MS + 2_000.0,
        "nodeProperties": {"numNodes": 3},
        "jobDefinition": f"{ARN}:job-definition/gang:1",
    }
    waiting = await row()
    assert waiting.pop("statusReason").startswith("CAPACITY:")
    assert waiting == ever | {"status": "RUNNABLE"}
    hosts.join("h-1", "h-2", "h-3")
    reserved = await row()
    ever["scheduledAt"] = reserved["scheduledAt"]
    assert reserved == ever | {"status": "RUNNABLE"}
    hosts.vote(job_id)
    assert await row() == ever | {"status": "STARTING"}
    hosts.up(job_id, 0)
    running = await row()
    ever["startedAt"] = running["startedAt"]
    assert running == ever | {"status": "RUNNING", "container": {}}
    hosts.exit(job_id, 0, 4)
    hosts.release(job_id)
    ended = await row()
    assert ended == ever | {
        "status": "FAILED",
        "statusReason": "Essential container in task exited",
        "stoppedAt": ended["stoppedAt"],
        "container": {"exitCode": 4},
    }


async def test_a_row_of_a_node(client: Client, hosts: FakeHosts) -> None:
    hosts.join("h-1", "h-2", "h-3")
    job_id = await client.submit()

    async def nodes(status: str = "RUNNING") -> list[JSON]:
        return await _list(client, multiNodeJobId=job_id, jobStatus=status, maxResults=1)

    assert await nodes("STARTING") == []
    hosts.vote(job_id)
    (main,) = await nodes("STARTING")
    assert main == {
        "jobArn": f"{ARN}:job/{job_id}#0",
        "jobId": f"{job_id}#0",
        "jobName": "heat",
        "createdAt": main["createdAt"],
        "scheduledAt": main["scheduledAt"],
        "status": "STARTING",
        "nodeProperties": {"isMainNode": True, "nodeIndex": 0},
        "jobDefinition": f"{ARN}:job-definition/gang:1",
    }
    hosts.up(job_id, 0)
    hosts.up(job_id, 2)
    hosts.up(job_id, 1)
    rows = await nodes()
    assert [row["jobId"] for row in rows] == [f"{job_id}#{index}" for index in range(3)]
    assert rows[2]["container"] == {}
    assert rows[2]["nodeProperties"] == {"isMainNode": False, "nodeIndex": 2}
    # RUNNING is meant when no status is given, also of nodes.
    assert await _list(client, multiNodeJobId=f"{ARN}:job/{job_id}") == rows
    hosts.exit(job_id, 1, 9, "OutOfMemoryError: x")
    hosts.exit(job_id, 0, 0)
    hosts.release(job_id)
    failed = await nodes("FAILED")
    assert [row["container"] for row in failed] == [
        {"exitCode": 9, "reason": "OutOfMemoryError: x"},
        {"exitCode": 137},
    ]
    assert failed[0]["statusReason"] == "Essential container in task exited"
    assert await nodes() == []


async def test_a_queue_lists_running_jobs_unless_told_otherwise(
    client: Client, hosts: FakeHosts
) -> None:
    hosts.join("h-1", "h-2", "h-3", "h-4")
    one, running, waiting = [
        await client.submit(ONE),
        await client.submit(GANG),
        await client.submit(GANG),
    ]
    hosts.run(one)
    hosts.vote(running)
    hosts.up(running, 0)
    assert await _ids(client, jobQueue="default") == [running]
    assert await _ids(client, jobQueue=f"{ARN}:job-queue/default") == [running]
    assert await _ids(client, jobQueue="default", jobStatus="RUNNABLE") == [waiting]
    assert await _ids(client, jobQueue="default", jobStatus="SUCCEEDED") == [one]
    assert await _ids(client, jobQueue="default", jobStatus="FAILED") == []


async def test_filters(client: Client, cluster: FakeCluster, hosts: FakeHosts) -> None:
    hosts.join("h-1")
    first = await client.submit(ONE, jobName="Heat-1")
    hosts.run(first)
    created_ms = cluster.now_ms
    second = await client.submit(ONE | {"jobDefinitionName": "onetwo"}, jobName="heat-2")
    third = await client.submit(ONE, jobName="cold")

    async def having(name: str, value: str) -> list[str]:
        # The status does not count beside a filter.
        return await _ids(
            client,
            jobQueue="default",
            jobStatus="FAILED",
            filters=[{"name": name, "values": [value]}],
            maxResults=1,
        )

    assert await having("JOB_NAME", "HEAT-1") == [first]
    assert await having("JOB_NAME", "heat*") == [second, first]
    assert await having("JOB_NAME", "*") == [third, second, first]
    assert await having("JOB_NAME", "heat") == []
    assert await having("JOB_DEFINITION", "one") == [third, first]
    assert await having("JOB_DEFINITION", "ONE") == []
    assert await having("JOB_DEFINITION", "one*") == [third, second, first]
    assert await having("JOB_DEFINITION", f"{ARN}:job-definition/one:1") == [first]
    assert await having("AFTER_CREATED_AT", str(created_ms)) == [third, second]
    assert await having("BEFORE_CREATED_AT", str(created_ms)) == [first]


async def test_pages_hold_though_jobs_move_to_the_journal(client: Client, hosts: FakeHosts) -> None:
    hosts.join(*[f"h-{index}" for index in range(1, 6)])
    jobs = [await client.submit(ONE) for _ in range(12)]
    for job_id in jobs[:3]:
        hosts.run(job_id)
    request: JSON = {
        "jobQueue": "default",
        "filters": [{"name": "JOB_NAME", "values": ["*"]}],
        "maxResults": 2,
    }
    seen: list[str] = []
    while True:
        page = await client.jobs.ListJobs(ParseDict(request, pb.ListJobsRequest()))
        seen += [row.job_id for row in page.job_summary_list]
        if not page.HasField("next_token"):
            break
        # Between two pages some job ends and leaves memory, on either side of the page.
        running = [job_id for job_id in jobs if job_id in hosts.cluster.state.jobs]
        if hosts.cluster.job(running[0]).attempts:
            hosts.run(running[0])
        request["nextToken"] = page.next_token
    assert seen == jobs[::-1]


async def test_a_job_that_ends_while_it_is_listed_is_there_once(
    client: Client, cluster: FakeCluster, hosts: FakeHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.join("h-1")
    job_id = await client.submit(ONE)
    read_records = cluster.records

    async def records(*args: object, **kwargs: object) -> object:
        if job_id in cluster.state.jobs:
            hosts.run(job_id)
        return await read_records(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(cluster, "records", records)
    everything = [{"name": "JOB_NAME", "values": ["*"]}]
    (row,) = await _list(client, jobQueue="default", filters=everything)
    assert row["status"] == "RUNNABLE"
    assert job_id not in cluster.state.jobs


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        ({}, "INVALID_ARGUMENT", "exactly one of jobQueue and multiNodeJobId"),
        ({"jobQueue": "default", "multiNodeJobId": "x"}, "INVALID_ARGUMENT", "exactly one of"),
        ({"arrayJobId": "x"}, "INVALID_ARGUMENT", "arrayJobId is not supported: Muster has no"),
        ({"jobQueue": "default", "maxResults": 1001}, "INVALID_ARGUMENT", "must be 1 to 1000"),
        ({"jobQueue": "default", "maxResults": 0}, "INVALID_ARGUMENT", "maxResults is 0"),
        ({"jobQueue": "default", "jobStatus": 99}, "INVALID_ARGUMENT", "jobStatus is 99"),
        ({"jobQueue": "default", "nextToken": "bm8="}, "INVALID_ARGUMENT", "nextToken is not"),
        ({"jobQueue": "default", "nextToken": "W10="}, "INVALID_ARGUMENT", "nextToken is not"),
        ({"jobQueue": "default", "nextToken": "é"}, "INVALID_ARGUMENT", "nextToken is not"),
        ({"jobQueue": "no/name"}, "INVALID_ARGUMENT", "is neither a job queue's name nor"),
        ({"jobQueue": "nope"}, "NOT_FOUND", "JobQueue nope not found."),
        ({"multiNodeJobId": "0000"}, "NOT_FOUND", "Job 0000 does not exist"),
        ({"multiNodeJobId": "0000#1"}, "INVALID_ARGUMENT", "is one node; give its job, 0000"),
        (
            {"multiNodeJobId": "0000", "filters": [{"name": "JOB_NAME", "values": ["x"]}]},
            "INVALID_ARGUMENT",
            "filters are for jobs",
        ),
    ],
)
async def test_a_wrong_listing_is_refused(
    client: Client, request_: JSON, code: str, says: str
) -> None:
    got, details = await refusal(client.jobs.ListJobs(ParseDict(request_, pb.ListJobsRequest())))
    assert got.name == code
    assert says in details


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ([{"name": "JOB_NAME", "values": ["x"]}] * 2, "filters has 2 elements"),
        ([{"name": "JOB_NAME"}], "filters[0].values has 0 elements"),
        ([{"name": "JOB_NAME", "values": ["a", "b"]}], "filters[0].values has 2 elements"),
        ([{"name": "JOB_NAME", "values": ["a*b"]}], "one * at its end only"),
        ([{"name": "JOB_DEFINITION", "values": ["a:b"]}], "jobDefinition 'a:b' is neither"),
        ([{"name": "SHARE_IDENTIFIER", "values": ["a"]}], "first in, first out"),
        ([{"name": "job_name", "values": ["a"]}], "filters[0].name is 'job_name'; it must be"),
        ([{"name": "BEFORE_CREATED_AT", "values": ["1.5"]}], "'1.5' is not a time"),
        ([{"name": "AFTER_CREATED_AT", "values": ["9" * 99]}], "is not a time in milliseconds"),
    ],
)
async def test_a_wrong_filter_is_refused(client: Client, filters: list[JSON], says: str) -> None:
    request = {"jobQueue": "default", "filters": filters}
    code, details = await refusal(client.jobs.ListJobs(ParseDict(request, pb.ListJobsRequest())))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert says in details


async def test_a_filter_makes_the_page_smaller(client: Client) -> None:
    request = {
        "jobQueue": "default",
        "filters": [{"name": "JOB_NAME", "values": ["x"]}],
        "maxResults": 101,
    }
    _, details = await refusal(client.jobs.ListJobs(ParseDict(request, pb.ListJobsRequest())))
    assert "maxResults is 101; it must be 1 to 100" in details


async def test_only_a_multi_node_job_has_nodes(client: Client) -> None:
    job_id = await client.submit(ONE)
    code, details = await refusal(
        client.jobs.ListJobs(pb.ListJobsRequest(multi_node_job_id=job_id))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "is not a multi-node job" in details
