"""SubmitJob, CancelJob and TerminateJob: what is refused, and what it looks like at once."""

from __future__ import annotations

import re

import grpc
import pytest
from google.protobuf.json_format import ParseDict

from muster.v1 import job_service_pb2 as pb
from tests.fakes.cluster import FakeHosts
from tests.rpc.conftest import JSON, ONE, Client, refusal

ARN = "arn:aws:batch:local:000000000000"


async def test_cancel_and_terminate_are_shown_at_once(client: Client, hosts: FakeHosts) -> None:
    hosts.join("h-1", "h-2", "h-3")
    running = await client.submit()
    waiting = await client.submit()
    await client.jobs.CancelJob(pb.CancelJobRequest(job_id=waiting, reason="not needed"))
    cancelled = await client.only(waiting)
    assert (cancelled["status"], cancelled["statusReason"]) == ("FAILED", "not needed")
    assert cancelled["isCancelled"] is True
    assert "isTerminated" not in cancelled
    assert cancelled["stoppedAt"] > 0
    await client.jobs.TerminateJob(pb.TerminateJobRequest(job_id=running, reason="enough"))
    terminated = await client.only(running)
    assert (terminated["status"], terminated["statusReason"]) == ("FAILED", "enough")
    assert terminated["isTerminated"] is True
    assert "isCancelled" not in terminated


async def test_terminating_one_child_and_then_the_job(client: Client, hosts: FakeHosts) -> None:
    hosts.join("h-1", "h-2", "h-3")
    job_id = await client.submit()
    hosts.vote(job_id)
    hosts.up(job_id, 0)
    await client.jobs.CancelJob(pb.CancelJobRequest(job_id=job_id, reason="too late"))
    assert "isCancelled" not in await client.only(job_id)
    hosts.up(job_id, 1)
    await client.jobs.TerminateJob(
        pb.TerminateJobRequest(job_id=f"{ARN}:job/{job_id}#1", reason="this one")
    )
    parent, main, child = await client.describe(job_id, f"{job_id}#0", f"{job_id}#1")
    assert [job.get("isTerminated") for job in (parent, main, child)] == [None, None, True]
    assert child["status"] == "RUNNING"
    hosts.exit(job_id, 1, 0)
    child = await client.only(f"{job_id}#1")
    assert (child["status"], child["statusReason"]) == ("FAILED", "this one")
    # The main node's id stands for the whole job.
    await client.jobs.TerminateJob(pb.TerminateJobRequest(job_id=f"{job_id}#0", reason="enough"))
    parent = await client.only(job_id)
    assert (parent["status"], parent["isTerminated"]) == ("RUNNING", True)
    hosts.exit(job_id, 0, 143)
    parent, main = await client.describe(job_id, f"{job_id}#0")
    assert (parent["status"], parent["statusReason"]) == ("FAILED", "enough")
    assert parent["attempts"][0]["statusReason"] == main["statusReason"] == "enough"


@pytest.mark.parametrize("rpc", ["CancelJob", "TerminateJob"])
async def test_ending_needs_a_reason_and_a_job(client: Client, rpc: str) -> None:
    request = getattr(pb, f"{rpc}Request")
    call = getattr(client.jobs, rpc)
    job_id = await client.submit()
    for wrong, code, says in (
        (request(job_id=job_id), "INVALID_ARGUMENT", "reason has 0 characters"),
        (request(job_id=job_id, reason="x" * 1025), "INVALID_ARGUMENT", "has 1025 characters"),
        (request(reason="x"), "INVALID_ARGUMENT", "jobId '' is neither"),
        (request(job_id="0000", reason="x"), "NOT_FOUND", "Job 0000 does not exist"),
        (request(job_id=f"{job_id}#7", reason="x"), "NOT_FOUND", "#7 does not exist"),
    ):
        got, details = await refusal(call(wrong))
        assert got.name == code
        assert says in details
    await call(request(job_id=job_id, reason="x"))
    await call(request(job_id=job_id, reason="again"))
    assert (await client.only(job_id))["statusReason"] == "x"


async def test_a_client_token_makes_one_job(client: Client, hosts: FakeHosts) -> None:
    first = await client.submit(ONE, clientToken="t")
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first)
    assert await client.submit(ONE, clientToken="t") == first
    code, details = await refusal(
        client.jobs.SubmitJob(
            pb.SubmitJobRequest(
                job_name="other", job_queue="default", job_definition="one", client_token="t"
            )
        )
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "use a new token for another job" in details
    hosts.join("h-1")
    hosts.run(first)
    assert await client.submit(ONE, clientToken="t") == first


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"jobName": ""}, "INVALID_ARGUMENT", "jobName is required"),
        ({"jobQueue": "nope"}, "NOT_FOUND", "JobQueue nope not found."),
        (
            {"jobDefinition": "nope"},
            "NOT_FOUND",
            "JobDefinition name nope does not exist or is not in ACTIVE status",
        ),
        ({"dependsOn": [{"jobId": "0000"}]}, "NOT_FOUND", "the job 0000, which does not exist"),
        ({"dependsOn": [{"type": 5}]}, "INVALID_ARGUMENT", "dependsOn[0].type is 5; it must be"),
        ({"shareIdentifier": "x"}, "INVALID_ARGUMENT", "can onlybe submitted"),
        (
            {"containerOverrides": {"resourceRequirements": [{"value": "1"}]}},
            "INVALID_ARGUMENT",
            "containerOverrides.resourceRequirements[0].type is required: GPU, VCPU, MEMORY",
        ),
    ],
)
async def test_a_wrong_submission_is_refused(
    client: Client, change: JSON, code: str, says: str
) -> None:
    await client.register(ONE)
    request = {"jobName": "j", "jobQueue": "default", "jobDefinition": "one"} | change
    got, details = await refusal(client.jobs.SubmitJob(ParseDict(request, pb.SubmitJobRequest())))
    assert got.name == code
    assert says in details
