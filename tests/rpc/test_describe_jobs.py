"""Which members a record has, in each state: the tables of aws-batch-evidence section 6."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.json_format import ParseDict

from coordinator.core.states import Progress
from muster.v1 import job_service_pb2 as pb
from tests.fakes.cluster import START_MS, FakeCluster, FakeHosts
from tests.rpc.conftest import GANG, JSON, ONE, Client, refusal

ARN = "arn:aws:batch:local:000000000000"
ECS = "arn:aws:ecs:local:000000000000"
EXITED = "Essential container in task exited"

EVER = {"jobArn", "jobId", "jobName", "jobQueue", "status", "createdAt", "jobDefinition"}
"""On every record. proto3's JSON leaves out an empty list or map and a 0, which a client that
asks for defaults sees as `[]`, `{}` and 0."""
PARENT = EVER | {"retryStrategy", "nodeProperties", "parameters"}
NODE = EVER | {"nodeDetails", "container", "parameters"}
SINGLE = EVER | {"retryStrategy", "container"}


async def test_a_multi_node_job_before_it_runs(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    job_id = await client.submit(tags={"a": "b"})
    nodes = [f"{job_id}#{index}" for index in range(3)]

    # It waits: no node is there.
    waiting = await client.only(job_id)
    assert set(waiting) == PARENT | {"statusReason", "tags"}
    assert waiting["status"] == "RUNNABLE"
    assert waiting["statusReason"].startswith("CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - ")
    assert await client.describe(*nodes) == []

    # Hosts prepare: nothing is said, and still no node is there.
    hosts.join("h-1", "h-2", "h-3")
    assert set(await client.only(job_id)) == PARENT | {"tags"}
    assert await client.describe(*nodes) == []

    # Main starts: its record is created, with a task and no address.
    hosts.vote(job_id)
    launched_ms = cluster.now_ms
    assert await _statuses(client, job_id, *nodes) == {job_id: "STARTING", nodes[0]: "STARTING"}
    assert set(await client.only(job_id)) == PARENT | {"tags"}
    main = await client.only(nodes[0])
    assert set(main) == NODE
    assert main["createdAt"] == launched_ms
    assert main["nodeDetails"] == {"isMainNode": True}
    assert "networkInterfaces" not in main["container"]
    assert main["container"]["taskArn"] == f"{ECS}:task/muster/{job_id}-1-0"
    assert main["container"]["logStreamName"] == f"gang/default/{job_id}-1-0"


async def test_a_multi_node_job_that_runs(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    job_id = await client.submit()
    nodes = [f"{job_id}#{index}" for index in range(3)]
    hosts.join("h-1", "h-2", "h-3")
    hosts.vote(job_id)

    # Main runs: the parent mirrors it, and the children are launched.
    hosts.up(job_id, 0)
    running_ms = cluster.now_ms
    assert await _statuses(client, job_id, *nodes) == {
        job_id: "RUNNING",
        nodes[0]: "RUNNING",
        nodes[1]: "STARTING",
        nodes[2]: "STARTING",
    }
    parent, main, child, _ = await client.describe(job_id, *nodes)
    assert set(parent) == PARENT | {"startedAt"}
    assert set(main) == NODE | {"startedAt"}
    assert set(child) == NODE
    assert parent["startedAt"] == main["startedAt"] == child["createdAt"] == running_ms
    assert main["container"]["networkInterfaces"] == [
        {"attachmentId": f"eni-{job_id}-1-0", "privateIpv4Address": "10.0.0.1"}
    ]

    # A child ends: only its own record changes.
    hosts.up(job_id, 1)
    hosts.exit(job_id, 1, 3)
    parent, child = await client.describe(job_id, nodes[1])
    assert "attempts" not in parent
    assert set(child) == NODE | {"startedAt", "stoppedAt", "statusReason", "attempts"}
    assert (child["status"], child["statusReason"]) == ("FAILED", EXITED)
    assert child["container"]["exitCode"] == child["attempts"][0]["container"]["exitCode"] == 3


async def test_a_multi_node_job_that_has_ended(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    job_id = await client.submit()
    nodes = [f"{job_id}#{index}" for index in range(3)]
    hosts.join("h-1", "h-2", "h-3")
    hosts.vote(job_id)
    hosts.up(job_id, 0)
    running_ms = cluster.now_ms

    # Main ends: so has the job; a child that still stops is as it was.
    hosts.up(job_id, 2)
    hosts.exit(job_id, 0, 0)
    ended_ms = cluster.now_ms
    parent, main, _, stopping = await client.describe(job_id, *nodes)
    assert set(parent) == PARENT | {"startedAt", "stoppedAt", "statusReason", "attempts"}
    assert (parent["status"], parent["statusReason"]) == ("SUCCEEDED", EXITED)
    assert parent["stoppedAt"] == main["stoppedAt"] == ended_ms
    assert parent["attempts"] == [
        {
            "container": {"exitCode": 0, "logStreamName": f"gang/default/{job_id}-1-0"},
            "startedAt": running_ms,
            "stoppedAt": ended_ms,
            "statusReason": EXITED,
        }
    ]
    assert main["attempts"][0] == {
        "container": {
            "exitCode": 0,
            "logStreamName": f"gang/default/{job_id}-1-0",
            "taskArn": f"{ECS}:task/muster/{job_id}-1-0",
            "containerInstanceArn": f"{ECS}:container-instance/muster/h-1",
            "networkInterfaces": [
                {"attachmentId": f"eni-{job_id}-1-0", "privateIpv4Address": "10.0.0.1"}
            ],
        },
        "startedAt": running_ms,
        "stoppedAt": ended_ms,
        "statusReason": EXITED,
    }
    assert stopping["status"] == "RUNNING"
    assert "attempts" not in stopping

    # Nothing is left of it: it leaves memory, and is described as before.
    hosts.release(job_id)
    assert job_id not in cluster.state.jobs
    after = await client.describe(job_id, *nodes)
    assert after[:2] == [parent, main]
    assert after[3]["status"] == "FAILED"
    assert after[3]["attempts"][0]["container"]["exitCode"] == 137


async def _statuses(client: Client, *jobs: str) -> dict[str, str]:
    return {job["jobId"]: job["status"] for job in await client.describe(*jobs)}


async def test_what_a_parent_says_of_itself(client: Client, hosts: FakeHosts) -> None:
    earlier = await client.submit(ONE)
    job_id = await client.submit(
        GANG | {"schedulingPriority": 3, "propagateTags": True, "platformCapabilities": ["EC2"]},
        parameters={"size": "10"},
        dependsOn=[{"jobId": f"{ARN}:job/{earlier}", "type": "SEQUENTIAL"}],
        retryStrategy={"attempts": 2, "evaluateOnExit": [{"onExitCode": "1*", "action": "RETRY"}]},
        timeout={"attemptDurationSeconds": 90},
        nodeOverrides={
            "numNodes": 2,
            "nodePropertyOverrides": [
                {
                    "targetNodes": "0:",
                    "containerOverrides": {"environment": [{"name": "B", "value": "2"}]},
                }
            ],
        },
    )
    parent = await client.only(f"{ARN}:job/{job_id}")
    assert parent["statusReason"] == f"Waiting for the jobs it depends on: {earlier}"
    del parent["statusReason"]
    assert parent == {
        "jobArn": f"{ARN}:job/{job_id}",
        "jobName": "heat",
        "jobId": job_id,
        "jobQueue": f"{ARN}:job-queue/default",
        "status": "PENDING",
        "schedulingPriority": 3,
        "createdAt": START_MS + 4_000,
        "retryStrategy": {
            "attempts": 2,
            "evaluateOnExit": [{"onExitCode": "1*", "action": "RETRY"}],
        },
        "dependsOn": [{"jobId": earlier, "type": "SEQUENTIAL"}],
        "jobDefinition": f"{ARN}:job-definition/gang:1",
        "parameters": {"size": "10"},
        "nodeProperties": {
            "numNodes": 2,
            "nodeRangeProperties": [
                {
                    "targetNodes": "0:",
                    "container": {
                        "image": "busybox",
                        "command": ["solve", "10"],
                        "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                        "resourceRequirements": [
                            {"type": "VCPU", "value": "2"},
                            {"type": "MEMORY", "value": "512"},
                        ],
                    },
                }
            ],
        },
        "timeout": {"attemptDurationSeconds": 90},
        "propagateTags": True,
        "platformCapabilities": ["EC2"],
    }


async def test_a_node_shows_its_container_and_the_users_variables_only(
    client: Client, hosts: FakeHosts
) -> None:
    hosts.join("h-1", "h-2", "h-3")
    job_id = await client.submit(tags={"a": "b"})
    hosts.vote(job_id)
    main = await client.only(f"{ARN}:job/{job_id}#0")
    assert main == {
        "jobArn": f"{ARN}:job/{job_id}#0",
        "jobName": "heat",
        "jobId": f"{job_id}#0",
        "jobQueue": f"{ARN}:job-queue/default",
        "status": "STARTING",
        "createdAt": main["createdAt"],
        "jobDefinition": f"{ARN}:job-definition/gang:1",
        "parameters": {"size": "9"},
        "nodeDetails": {"isMainNode": True},
        "container": {
            "image": "busybox",
            "command": ["solve", "9"],
            "environment": [{"name": "A", "value": "1"}],
            "resourceRequirements": [
                {"type": "VCPU", "value": "2"},
                {"type": "MEMORY", "value": "512"},
            ],
            "containerInstanceArn": f"{ECS}:container-instance/muster/h-1",
            "taskArn": f"{ECS}:task/muster/{job_id}-1-0",
            "logStreamName": f"gang/default/{job_id}-1-0",
        },
    }


async def test_a_job_of_one_container_in_each_state(client: Client, hosts: FakeHosts) -> None:
    job_id = await client.submit(ONE)
    waiting = await client.only(job_id)
    assert set(waiting) == SINGLE | {"statusReason"}
    plain = {"image": "busybox", "command": ["true"], "vcpus": 1, "memory": 64}
    assert waiting["container"] == plain
    hosts.join("h-1")
    hosts.vote(job_id)
    task = {
        "containerInstanceArn": f"{ECS}:container-instance/muster/h-1",
        "taskArn": f"{ECS}:task/muster/{job_id}-1-0",
        "logStreamName": f"one/default/{job_id}-1-0",
    }
    starting = await client.only(job_id)
    assert set(starting) == SINGLE
    assert starting["container"] == plain | task
    hosts.up(job_id, 0)
    network = {
        "networkInterfaces": [
            {"attachmentId": f"eni-{job_id}-1-0", "privateIpv4Address": "10.0.0.1"}
        ]
    }
    running = await client.only(job_id)
    assert set(running) == SINGLE | {"startedAt"}
    assert running["container"] == plain | task | network
    hosts.exit(job_id, 0, 2, "OutOfMemoryError: Container killed due to memory usage")
    hosts.release(job_id)
    ended = await client.only(job_id)
    assert set(ended) == SINGLE | {"startedAt", "stoppedAt", "statusReason", "attempts"}
    end = {"exitCode": 2, "reason": "OutOfMemoryError: Container killed due to memory usage"}
    assert ended["container"] == plain | task | network | end
    assert ended["attempts"] == [
        {
            "container": task | network | end,
            "startedAt": ended["startedAt"],
            "stoppedAt": ended["stoppedAt"],
            "statusReason": EXITED,
        }
    ]
    # It has no nodes to describe.
    assert await client.describe(f"{job_id}#0") == []


async def test_attempts_of_nodes_belong_to_the_attempts_of_their_job(
    client: Client, hosts: FakeHosts
) -> None:
    hosts.join("h-1", "h-2", "h-3")
    job_id = await client.submit(retryStrategy={"attempts": 3})
    nodes = [f"{job_id}#{index}" for index in range(3)]
    # Attempt 1 ends before children are launched: they have no record at all.
    hosts.vote(job_id)
    hosts.exit(job_id, 0, None, "CannotStartContainerError: no such file")
    assert [job["jobId"] for job in await client.describe(job_id, *nodes)] == [job_id, nodes[0]]
    hosts.release(job_id, attempt=1)
    # Attempt 2 runs everywhere.
    hosts.vote(job_id)
    hosts.up(job_id, 0)
    child = await client.only(nodes[1])
    assert [_codes(attempt) for attempt in child["attempts"]] == [None]
    hosts.up(job_id, 1)
    hosts.exit(job_id, 1, 5)
    second_created = (await client.only(nodes[1]))["createdAt"]
    hosts.exit(job_id, 0, 6)
    # Between attempts a node keeps its last end, and the parent says that it waits.
    parent, main, child = await client.describe(job_id, *nodes[:2])
    assert parent["status"] == "RUNNABLE"
    assert "is being stopped" in parent["statusReason"]
    assert (main["status"], child["status"]) == ("FAILED", "FAILED")
    assert main["container"]["exitCode"] == 6
    hosts.release(job_id, attempt=2)
    # Attempt 3.
    hosts.vote(job_id)
    assert (await client.only(job_id))["status"] == "STARTING"
    assert "startedAt" not in await client.only(job_id)
    assert (await client.only(nodes[0]))["container"]["taskArn"].endswith(f"{job_id}-3-0")
    assert (await client.only(nodes[1]))["container"]["taskArn"].endswith(f"{job_id}-2-1")
    hosts.up(job_id, 0)
    hosts.up(job_id, 1)
    hosts.exit(job_id, 0, 0)
    hosts.release(job_id)
    parent, main, child, other = await client.describe(job_id, *nodes)
    assert parent["status"] == "SUCCEEDED"
    assert [_codes(attempt) for attempt in parent["attempts"]] == [None, 6, 0]
    assert [_codes(attempt) for attempt in main["attempts"]] == [None, 6, 0]
    assert [_codes(attempt) for attempt in child["attempts"]] == [None, 5, 137]
    assert [_codes(attempt) for attempt in other["attempts"]] == [None, 137, 137]
    # The first launch is when the record came to be.
    assert child["createdAt"] == second_created
    assert parent["attempts"][0] == main["attempts"][0] | {
        "container": {
            "reason": "CannotStartContainerError: no such file",
            "logStreamName": f"gang/default/{job_id}-1-0",
        }
    }
    assert parent["attempts"][0]["statusReason"] == "Task failed to start"
    # The attempt that a child was not launched in has no task.
    assert child["attempts"][0]["container"] == {}
    assert child["attempts"][0]["stoppedAt"] == parent["attempts"][0]["stoppedAt"]


def _codes(attempt: JSON) -> int | None:
    code: int | None = attempt["container"].get("exitCode")
    return code


@pytest.mark.parametrize("definition", [GANG, ONE], ids=["gang", "one"])
async def test_an_attempt_that_no_host_could_start(
    client: Client, hosts: FakeHosts, definition: JSON
) -> None:
    hosts.join("h-1", "h-2", "h-3", "h-4", "h-5")
    job_id = await client.submit(definition)
    reason = "CannotPullContainerError: no such image"
    while job_id in hosts.cluster.state.jobs:
        key = hosts.key(job_id, 0)
        hosts.host_of(key).say(key, Progress.REFUSED, reason=reason, permanent=True)
    job = await client.only(job_id)
    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    assert job["stoppedAt"] > 0
    assert "startedAt" not in job
    assert job["attempts"] == [
        {
            "container": {"reason": reason},
            "stoppedAt": job["stoppedAt"],
            "statusReason": "Task failed to start",
        }
    ]
    if definition is ONE:
        assert job["container"]["reason"] == reason
        assert "taskArn" not in job["container"]
    else:
        assert await client.describe(f"{job_id}#0") == []
    listed = await client.jobs.ListJobs(
        ParseDict({"jobQueue": "default", "jobStatus": "FAILED"}, pb.ListJobsRequest())
    )
    assert listed.job_summary_list[0].container.reason == reason


async def test_a_lost_main_has_no_exit_code(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    hosts.join("h-1", "h-2", "h-3")
    job_id = await client.submit()
    hosts.vote(job_id)
    hosts.up(job_id, 0)
    cluster.tick(31)
    (parent,) = await client.describe(job_id)
    assert parent["statusReason"].startswith("The main node's host h-1 is silent since 2023-11-14")
    cluster.tick(270)
    parent, main = await client.describe(job_id, f"{job_id}#0")
    assert parent["statusReason"] == "Host EC2 (instance h-1) terminated."
    assert parent["statusReason"] == main["statusReason"]
    assert "exitCode" not in parent["attempts"][0]["container"]
    assert "exitCode" not in main["container"]


async def test_which_jobs_are_described(client: Client, hosts: FakeHosts) -> None:
    first = await client.submit(ONE)
    second = await client.submit(ONE)
    hosts.join("h-1")
    hosts.run(first)
    asked = [second, "no-such-job", "not an id", f"{first}#x", first, second, f"{ARN}:job/{first}"]
    found = await client.describe(*asked)
    assert [job["jobId"] for job in found] == [second, first, second, first]
    assert len(await client.describe(*[first] * 100)) == 100
    code, details = await refusal(
        client.jobs.DescribeJobs(pb.DescribeJobsRequest(jobs=[first] * 101))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "Maximum number of jobs supported is  100"
    code, details = await refusal(client.jobs.DescribeJobs(pb.DescribeJobsRequest()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "jobs is required" in details


async def test_while_it_is_being_stopped_the_job_says_so_and_what_holds_it_up(
    client: Client, hosts: FakeHosts
) -> None:
    hosts.join("h-1", "h-2", "h-3")
    job_id = await client.submit()
    hosts.vote(job_id)
    hosts.up(job_id, 0)
    assert "statusReason" not in await client.only(job_id)
    await client.jobs.TerminateJob(pb.TerminateJobRequest(job_id=job_id, reason="hang"))
    stopping = await client.only(job_id)
    assert (stopping["status"], stopping["statusReason"]) == ("RUNNING", "Stopping: hang")
    key = hosts.key(job_id, 0)
    host = hosts.host_of(key)
    host.say(key, Progress.UP, private_ipv4=host.address, unclean_reason="podman hangs")
    told = f"Stopping: hang; host {host.host_id} cannot be cleaned up: podman hangs"
    assert (await client.only(job_id))["statusReason"] == told
    assert "statusReason" not in await client.only(f"{job_id}#0")
    hosts.exit(job_id, 0, 137)
    assert (await client.only(job_id))["statusReason"] == "hang"
    hosts.release(job_id)
    ended = await client.only(job_id)
    assert (ended["status"], ended["statusReason"]) == ("FAILED", "hang")
    assert [attempt["statusReason"] for attempt in ended["attempts"]] == ["hang"]
