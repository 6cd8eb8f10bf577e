"""Definitions and queues: what goes in as AWS's JSON comes out as it went in."""

from __future__ import annotations

import copy

import grpc
import pytest
from google.protobuf.json_format import ParseDict

from muster.v1 import job_service_pb2 as pb
from tests.fakes.cluster import FakeCluster
from tests.rpc.conftest import GANG, JSON, ONE, Client, refusal, shown

ARN = "arn:aws:batch:local:000000000000"

EVERYTHING: JSON = {
    "jobDefinitionName": "all",
    "type": "multinode",
    "parameters": {"size": "9", "again": "x"},
    "schedulingPriority": 7,
    "nodeProperties": {
        "numNodes": 4,
        "mainNode": 1,
        "nodeRangeProperties": [
            {
                "targetNodes": "0:1",
                "instanceTypes": ["c5.large"],
                "container": {
                    "image": "registry.local:5000/solver@sha256:" + "0123" * 16,
                    "command": ["run", "Ref::size"],
                    "jobRoleArn": "arn:aws:iam::1:role/a",
                    "executionRoleArn": "arn:aws:iam::1:role/b",
                    "volumes": [{"name": "v", "host": {"sourcePath": "/data"}}, {"name": "w"}],
                    "environment": [{"name": "A", "value": "1"}, {"name": "B"}],
                    "mountPoints": [
                        {"containerPath": "/d", "readOnly": False, "sourceVolume": "v"}
                    ],
                    "readonlyRootFilesystem": True,
                    "privileged": False,
                    "ulimits": [{"name": "memlock", "softLimit": -1, "hardLimit": -1}],
                    "user": "1000:1000",
                    "instanceType": "c5.large",
                    "resourceRequirements": [
                        {"type": "VCPU", "value": "2"},
                        {"type": "MEMORY", "value": "512"},
                        {"type": "GPU", "value": "1"},
                    ],
                    "linuxParameters": {
                        "devices": [
                            {
                                "hostPath": "/dev/fuse",
                                "containerPath": "/dev/f",
                                "permissions": ["READ", "MKNOD"],
                            }
                        ],
                        "initProcessEnabled": True,
                        "sharedMemorySize": 64,
                        "tmpfs": [{"containerPath": "/t", "size": 16, "mountOptions": ["noexec"]}],
                        "maxSwap": 0,
                        "swappiness": 60,
                    },
                    "logConfiguration": {"logDriver": "awslogs", "options": {"a": "b"}},
                    "secrets": [{"name": "S", "valueFrom": "key"}],
                    "enableExecuteCommand": False,
                    "repositoryCredentials": {"credentialsParameter": "cred"},
                },
            },
            {
                "targetNodes": "2:",
                "container": {"image": "busybox", "vcpus": 1, "memory": 64, "linuxParameters": {}},
            },
        ],
    },
    "retryStrategy": {
        "attempts": 3,
        "evaluateOnExit": [{"onStatusReason": "Host EC2*", "action": "retry"}],
    },
    "propagateTags": True,
    "timeout": {"attemptDurationSeconds": 60},
    "tags": {"team": "x"},
    "platformCapabilities": ["EC2"],
}
GIVEN_BY_US = ("jobDefinitionArn", "revision", "status", "containerOrchestrationType")


@pytest.mark.parametrize("definition", [EVERYTHING, GANG, ONE], ids=["everything", "gang", "one"])
async def test_what_is_described_registers_again_as_the_same(
    client: Client, definition: JSON
) -> None:
    await client.register(definition)
    described = await _described(client)
    assert {k: described[k] for k in GIVEN_BY_US} == {
        "jobDefinitionArn": f"{ARN}:job-definition/{definition['jobDefinitionName']}:1",
        "revision": 1,
        "status": "ACTIVE",
        "containerOrchestrationType": "ECS",
    }
    again = {k: v for k, v in described.items() if k not in GIVEN_BY_US}
    assert again == _without_defaults(definition)
    await client.register(again)
    twice = await _described(client)
    assert twice["revision"] == 2
    assert {k: v for k, v in twice.items() if k not in GIVEN_BY_US} == again


def _without_defaults(definition: JSON) -> JSON:
    """proto3 does not show a 0 of a member that is always there."""
    definition = copy.deepcopy(definition)
    nodes = definition.get("nodeProperties", {})
    if nodes.get("mainNode") == 0:
        del nodes["mainNode"]
    return definition


async def _described(client: Client) -> JSON:
    """The first definition, which is the newest revision of the first name."""
    response = await client.jobs.DescribeJobDefinitions(pb.DescribeJobDefinitionsRequest())
    return shown(response.job_definitions[0])


async def test_definitions_are_paged_by_name_and_newest_revision(client: Client) -> None:
    for name in ("b", "a", "b", "b"):
        await client.register(ONE | {"jobDefinitionName": name})
    await client.jobs.DeregisterJobDefinition(
        pb.DeregisterJobDefinitionRequest(job_definition="b:2")
    )

    async def listed(**selection: object) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            request = {**selection, "maxResults": 1, "nextToken": token}
            page = await client.jobs.DescribeJobDefinitions(
                ParseDict(request, pb.DescribeJobDefinitionsRequest())
            )
            found += [f"{d.job_definition_name}:{d.revision}" for d in page.job_definitions]
            if not page.HasField("next_token"):
                return found
            token = page.next_token

    assert await listed() == ["a:1", "b:3", "b:2", "b:1"]
    assert await listed(status="ACTIVE") == ["a:1", "b:3", "b:1"]
    assert await listed(status="INACTIVE") == ["b:2"]
    assert await listed(jobDefinitionName="b") == ["b:3", "b:2", "b:1"]
    wanted = [f"{ARN}:job-definition/b:1", "a:1", "c:9"]
    assert await listed(jobDefinitions=wanted) == ["a:1", "b:1"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"maxResults": 0}, "maxResults is 0; it must be 1 to 100"),
        ({"maxResults": 101}, "maxResults is 101"),
        ({"nextToken": "nonsense!"}, "nextToken is not of this listing"),
        ({"status": "active"}, "status is 'active'; it must be ACTIVE or INACTIVE"),
        ({"jobDefinitions": ["a:1"], "jobDefinitionName": "a"}, "not both"),
        ({"jobDefinitions": ["a:1"] * 101}, "jobDefinitions has 101 elements"),
    ],
)
async def test_a_wrong_question_about_definitions_says_so(
    client: Client, request_: JSON, says: str
) -> None:
    code, details = await refusal(
        client.jobs.DescribeJobDefinitions(ParseDict(request_, pb.DescribeJobDefinitionsRequest()))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert says in details


async def test_deregistering_needs_a_revision_that_there_is(client: Client) -> None:
    await client.register(ONE)
    for text, says in (("one", "names no revision"), ("one:2", "does not exist")):
        code, details = await refusal(
            client.jobs.DeregisterJobDefinition(
                pb.DeregisterJobDefinitionRequest(job_definition=text)
            )
        )
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert says in details


async def test_a_definition_is_measured_as_json(client: Client) -> None:
    definition = copy.deepcopy(ONE)
    definition["containerProperties"]["command"] = ["x" * 23_000]
    await client.register(definition)
    # Short on the wire, where an empty string takes two bytes, and long as JSON.
    definition["containerProperties"]["command"] = ["é"] * 5_000
    code, details = await refusal(_register(client, definition))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "must be less than 24 KiB, got 25 KiB" in details


async def _register(client: Client, definition: JSON) -> None:
    await client.register(definition)


# queues


async def _create(client: Client, **queue: object) -> str:
    request = ParseDict(queue, pb.CreateJobQueueRequest())
    return (await client.jobs.CreateJobQueue(request)).job_queue_arn


async def test_a_queue_from_its_making_to_its_end(client: Client) -> None:
    limit = {
        "reason": "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY",
        "state": "RUNNABLE",
        "maxTimeSeconds": 600,
        "action": "CANCEL",
    }
    arn = await _create(
        client,
        jobQueueName="fast",
        priority=10,
        computeEnvironmentOrder=[
            {"order": 1, "computeEnvironment": "arn:aws:batch:x:1:compute-environment/default"}
        ],
        jobQueueType="ECS",
        tags={"a": "b"},
        jobStateTimeLimitActions=[limit],
    )
    assert arn == f"{ARN}:job-queue/fast"
    assert await _queue(client, arn) == {
        "jobQueueName": "fast",
        "jobQueueArn": arn,
        "state": "ENABLED",
        "status": "VALID",
        "statusReason": "JobQueue Healthy",
        "priority": 10,
        "computeEnvironmentOrder": [
            {"order": 1, "computeEnvironment": f"{ARN}:compute-environment/default"}
        ],
        "jobQueueType": "ECS",
        "tags": {"a": "b"},
        "jobStateTimeLimitActions": [limit],
    }
    await client.jobs.UpdateJobQueue(
        ParseDict({"jobQueue": arn, "state": "DISABLED"}, pb.UpdateJobQueueRequest())
    )
    changed = await _queue(client, "fast")
    assert (changed["state"], changed["priority"]) == ("DISABLED", 10)
    assert changed["jobStateTimeLimitActions"] == [limit]
    await client.jobs.UpdateJobQueue(
        ParseDict({"jobQueue": "fast", "priority": 0}, pb.UpdateJobQueueRequest())
    )
    assert "priority" not in await _queue(client, "fast")
    await client.jobs.DeleteJobQueue(pb.DeleteJobQueueRequest(job_queue="fast"))
    response = await client.jobs.DescribeJobQueues(pb.DescribeJobQueuesRequest())
    assert [queue.job_queue_name for queue in response.job_queues] == ["default"]


async def _queue(client: Client, name: str) -> JSON:
    response = await client.jobs.DescribeJobQueues(pb.DescribeJobQueuesRequest(job_queues=[name]))
    (queue,) = response.job_queues
    return shown(queue)


async def test_a_queue_with_jobs_is_shown_as_it_is_being_deleted(
    client: Client, cluster: FakeCluster
) -> None:
    await _create(client, jobQueueName="q", priority=1)
    job_id = await client.submit(jobQueue="q")
    await client.jobs.UpdateJobQueue(
        ParseDict({"jobQueue": "q", "state": "DISABLED"}, pb.UpdateJobQueueRequest())
    )
    await client.jobs.DeleteJobQueue(pb.DeleteJobQueueRequest(job_queue="q"))
    assert "q" not in cluster.state.queues
    job = await client.only(job_id)
    assert (job["status"], job["statusReason"]) == ("FAILED", "JobQueue deleted")
    assert job["jobQueue"] == f"{ARN}:job-queue/q"


async def test_queues_are_paged_by_name(client: Client) -> None:
    for name in ("c", "a", "b"):
        await _create(client, jobQueueName=name, priority=1)
    first = await client.jobs.DescribeJobQueues(pb.DescribeJobQueuesRequest(max_results=3))
    assert [queue.job_queue_name for queue in first.job_queues] == ["a", "b", "c"]
    second = await client.jobs.DescribeJobQueues(
        pb.DescribeJobQueuesRequest(max_results=3, next_token=first.next_token)
    )
    assert [queue.job_queue_name for queue in second.job_queues] == ["default"]
    assert not second.HasField("next_token")
    # A token of another listing is none of this one.
    code, _ = await refusal(
        client.jobs.DescribeJobDefinitions(
            pb.DescribeJobDefinitionsRequest(next_token=first.next_token)
        )
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("queue", "code", "says"),
    [
        ({"jobQueueName": "default"}, "ALREADY_EXISTS", "JobQueue default already exists"),
        ({"jobQueueName": "-"}, "INVALID_ARGUMENT", "jobQueueName '-' is not valid"),
        ({}, "INVALID_ARGUMENT", "jobQueueName '' is not valid"),
        (
            {"jobQueueName": "q", "computeEnvironmentOrder": [{"computeEnvironment": "spot"}]},
            "INVALID_ARGUMENT",
            "computeEnvironmentOrder[0].computeEnvironment is 'spot'; there is one",
        ),
        (
            {"jobQueueName": "q", "schedulingPolicyArn": ""},
            "INVALID_ARGUMENT",
            "schedulingPolicyArn is not supported: a job queue is first in, first out",
        ),
        (
            {"jobQueueName": "q", "serviceEnvironmentOrder": []},
            "INVALID_ARGUMENT",
            "serviceEnvironmentOrder is not supported",
        ),
        (
            {"jobQueueName": "q", "jobQueueType": "SAGEMAKER_TRAINING"},
            "INVALID_ARGUMENT",
            "jobQueueType is 'SAGEMAKER_TRAINING'; it must be ECS or absent",
        ),
        ({"jobQueueName": "q", "state": 99}, "INVALID_ARGUMENT", "state is 99"),
        (
            {"jobQueueName": "q", "jobStateTimeLimitActions": [{"state": "RUNNABLE"}]},
            "INVALID_ARGUMENT",
            "jobStateTimeLimitActions[0].reason is required",
        ),
    ],
)
async def test_a_wrong_queue_is_refused(client: Client, queue: JSON, code: str, says: str) -> None:
    got, details = await refusal(
        client.jobs.CreateJobQueue(ParseDict(queue, pb.CreateJobQueueRequest()))
    )
    assert got.name == code
    assert says in details


async def test_an_unknown_queue_is_not_found(client: Client) -> None:
    calls = [
        client.jobs.UpdateJobQueue(pb.UpdateJobQueueRequest(job_queue="q")),
        client.jobs.DeleteJobQueue(pb.DeleteJobQueueRequest(job_queue="q")),
        client.jobs.ListJobs(pb.ListJobsRequest(job_queue="q")),
    ]
    for call in calls:
        assert await refusal(call) == (grpc.StatusCode.NOT_FOUND, "JobQueue q not found.")
    code, details = await refusal(
        client.jobs.DeleteJobQueue(pb.DeleteJobQueueRequest(job_queue="default"))
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "update it to DISABLED" in details
