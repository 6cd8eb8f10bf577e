"""`submit`: what it sends, that it never doubles a job, and how `--wait` ends."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import grpc
import pytest

from muster.v1.job_pb2 import JobDefinition, JobDefinitionType
from muster.v1.job_service_pb2 import (
    DescribeJobDefinitionsResponse,
    RegisterJobDefinitionResponse,
    SubmitJobRequest,
    SubmitJobResponse,
)
from tests.cli.conftest import Muster, spawn
from tests.cli.fake_coordinator import AWAY, FakeCoordinator, Refusal
from tests.cli.records import JOB, multinode, node, summary, told

_MADE = SubmitJobResponse(job_id=JOB, job_name="a")


def _sent(fake: FakeCoordinator) -> SubmitJobRequest:
    request: SubmitJobRequest = fake.asked("SubmitJob")[-1]
    return request


async def test_flags_become_the_request(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("SubmitJob", _MADE)
    argv = (
        "submit a --definition d --num-nodes 4 --parameter x=1=2 --parameter y= --attempts 3 "
        "--timeout 60 --tag k=v --depends-on one --depends-on two --client-token t "
        "--verdict-after 90"
    )
    ended = await muster(*argv.split())
    assert (ended.code, ended.text) == (0, f"{JOB}\n")
    expected = SubmitJobRequest(
        job_name="a",
        job_queue="default",
        job_definition="d",
        parameters={"x": "1=2", "y": ""},
        tags={"k": "v"},
        client_token="t",
    )
    expected.node_overrides.num_nodes = 4
    expected.retry_strategy.attempts = 3
    expected.timeout.attempt_duration_seconds = 60
    expected.verdict_after_seconds = 90
    expected.depends_on.add(job_id="one")
    expected.depends_on.add(job_id="two")
    assert _sent(fake) == expected


async def test_a_warning_is_told_beside_the_id(fake: FakeCoordinator, muster: Muster) -> None:
    warned = SubmitJobResponse(job_id=JOB, job_name="a", warning="it may still run")
    fake.answer("SubmitJob", warned)
    ended = await muster("submit", "a", "--definition", "d")
    assert (ended.code, ended.text) == (0, f"{JOB}\n")
    assert "warning: it may still run" in ended.err


async def test_flags_go_over_json(fake: FakeCoordinator, muster: Muster, tmp_path: Path) -> None:
    fake.answer("SubmitJob", _MADE)
    job = tmp_path / "job.json"
    job.write_text(
        '{"jobName": "a", "jobQueue": "q", "jobDefinition": "d", "clientToken": "t",'
        ' "arrayProperties": {"size": 2}, "retryStrategy": null}'
    )
    over = tmp_path / "over.json"
    over.write_text('{"nodeOverrides": {"numNodes": 7}}')
    ended = await muster("submit", "b", "--json", str(job), "--override-json", str(over))
    assert ended.code == 0
    sent = _sent(fake)
    assert (sent.job_name, sent.job_queue, sent.client_token) == ("b", "q", "t")
    assert sent.node_overrides.num_nodes == 7
    # Not offered, so the coordinator refuses it by name: the command must not drop it.
    assert sent.array_properties["size"] == 2
    assert not sent.HasField("retry_strategy")

    over.write_text('{"jobName": "c"}')
    ended = await muster("submit", "b", "--definition", "d", "--override-json", str(over))
    assert ended.code == 2
    assert "jobName is not an override" in ended.err


async def test_environment_reaches_every_node_group(fake: FakeCoordinator, muster: Muster) -> None:
    definition = JobDefinition(type=JobDefinitionType.multinode)
    for target in ("0", "1:"):
        definition.node_properties.node_range_properties.add(target_nodes=target)
    fake.answer(
        "DescribeJobDefinitions", DescribeJobDefinitionsResponse(job_definitions=[definition])
    )
    fake.answer("SubmitJob", _MADE)
    await muster("submit", "a", "--definition", "d", "--env", "A=1", "--command", "sh", "-c", "x")
    overrides = _sent(fake).node_overrides.node_property_overrides
    assert [group.target_nodes for group in overrides] == ["0", "1:"]
    for group in overrides:
        assert list(group.container_overrides.command) == ["sh", "-c", "x"]
        assert group.container_overrides.environment[0].name == "A"

    alone = JobDefinition(type=JobDefinitionType.container)
    fake.answer("DescribeJobDefinitions", DescribeJobDefinitionsResponse(job_definitions=[alone]))
    await muster("submit", "a", "--definition", "d:3", "--env", "A=1")
    assert fake.asked("DescribeJobDefinitions")[-1].job_definitions == ["d:3"]
    assert _sent(fake).container_overrides.environment[0].value == "1"


async def test_a_file_is_registered_first(
    fake: FakeCoordinator, muster: Muster, tmp_path: Path
) -> None:
    path = tmp_path / "d.json"
    path.write_text('{"jobDefinitionName": "d", "type": "multinode"}')
    fake.answer(
        "RegisterJobDefinition",
        RegisterJobDefinitionResponse(job_definition_name="d", revision=5),
    )
    fake.answer("SubmitJob", _MADE)
    assert (await muster("submit", "a", "--file", str(path))).code == 0
    assert fake.asked("RegisterJobDefinition")[0].type == JobDefinitionType.multinode
    assert _sent(fake).job_definition == "d:5"


async def test_a_repeat_carries_the_same_token(fake: FakeCoordinator, muster: Muster) -> None:
    busy = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "the inbox is full")
    fake.answer("SubmitJob", AWAY, busy, _MADE)
    ended = await muster("submit", "a", "--definition", "d")
    assert ended.code == 0
    tokens = [request.client_token for request in fake.asked("SubmitJob")]
    assert len(tokens) == 3
    assert len(set(tokens)) == 1
    assert 1 <= len(tokens[0]) <= 64
    assert len(ended.err.splitlines()) == 1


async def test_a_refused_job_is_not_repeated(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("SubmitJob", Refusal(grpc.StatusCode.INVALID_ARGUMENT, "no"))
    assert (await muster("submit", "a", "--definition", "d")).code == 2
    assert len(fake.asked("SubmitJob")) == 1


@pytest.mark.parametrize(
    ("status", "exit_code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 42, 42), ("FAILED", None, 1)],
)
async def test_wait_exits_as_main_did(
    fake: FakeCoordinator, muster: Muster, status: str, exit_code: int | None, expected: int
) -> None:
    fake.answer("SubmitJob", _MADE)
    never = asyncio.Event()
    fake.answer(
        "WatchJob",
        [
            told(summary("RUNNING"), node(0, "RUNNING"), reset=True),
            told(summary(status, exit_code=exit_code), node(0, status)),
            # Children may take their time to stop; main's end is the job's.
            never,
        ],
    )
    ended = await muster("submit", "a", "--definition", "d", "--wait")
    never.set()
    assert (ended.code, ended.text) == (expected, f"{JOB}\n")
    assert f"job {JOB} {status}" in ended.err


async def test_wait_as_json_ends_with_the_record(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("SubmitJob", _MADE)
    fake.answer("WatchJob", [told(summary("SUCCEEDED", exit_code=0), reset=True)])
    fake.answer("DescribeJobs", multinode())
    ended = await muster("submit", "a", "--definition", "d", "--wait", "-o", "json")
    made, record = map(json.loads, ended.text.splitlines())
    assert made["jobId"] == record["jobs"][0]["jobId"] == JOB


async def test_an_interrupted_wait_leaves_the_job_alone(fake: FakeCoordinator) -> None:
    fake.answer("SubmitJob", _MADE)
    forever = asyncio.Event()
    fake.answer("WatchJob", [told(summary("RUNNING"), reset=True), forever])
    process = await spawn(fake, "submit", "a", "--definition", "d", "--wait")
    assert process.stderr
    assert b"RUNNING" in await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    forever.set()
    assert process.returncode == 130
    assert err.decode() == f"muster: job {JOB} goes on; `muster terminate {JOB}` ends it\n"
    assert not fake.asked("TerminateJob")
