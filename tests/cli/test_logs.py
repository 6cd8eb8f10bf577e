"""`logs`: whole lines of all nodes, and not a byte lost or repeated when a stream breaks."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

from cli.logs import Prefixed
from muster.v1.job_pb2 import JobDetail, JobStatus
from muster.v1.job_service_pb2 import DescribeJobsResponse, GetNodeLogRequest
from tests.cli.conftest import Muster
from tests.cli.fake_coordinator import AWAY, Answer, FakeCoordinator, Refusal
from tests.cli.records import JOB, chunk, multinode, node, summary, told

_NONE = Refusal(grpc.StatusCode.NOT_FOUND, "this node was never launched")


def _by_node(answers: dict[int, Answer]) -> Answer:
    def choose(request: GetNodeLogRequest) -> Answer:
        return answers[int(request.job_id.partition("#")[2])]

    return choose


async def test_one_node_is_printed_as_it_is(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("DescribeJobs", multinode())
    fake.answer("GetNodeLog", [chunk(0, b"\xff\x00 half a li"), chunk(12, b"ne")])
    ended = await muster("logs", f"{JOB}#2", "--attempt", "1", "--tail", "50")
    assert (ended.code, ended.out) == (0, b"\xff\x00 half a line")
    request = fake.asked("GetNodeLog")[0]
    assert (request.job_id, request.attempt, request.offset) == (f"{JOB}#2", 1, -50)
    assert not request.follow


async def test_following_resumes_by_offset(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("DescribeJobs", multinode())
    fake.answer(
        "GetNodeLog",
        [chunk(100, b"one\n"), chunk(104, b"two\n"), AWAY],
        AWAY,
        [chunk(108, b"three\n", "8 bytes are gone")],
    )
    ended = await muster("logs", f"{JOB}#2", "-f", "--tail", "9")
    assert ended.out == b"one\ntwo\nthree\n"
    assert [request.offset for request in fake.asked("GetNodeLog")] == [-9, 108, 108]
    assert "trying again" in ended.err
    assert f"muster: {JOB}#2: 8 bytes are gone" in ended.err


def _job(status: str) -> DescribeJobsResponse:
    response = multinode()
    response.jobs[0].status = JobStatus.Value(status)
    return response


async def test_following_waits_for_a_host_as_long_as_the_job_goes_on(
    fake: FakeCoordinator, muster: Muster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it was silent before: of a quiet node nothing comes for hours."""
    monkeypatch.setattr("cli.logs._PATIENCE_SECONDS", 0, raising=False)
    monkeypatch.setattr("cli.stream._PATIENCE_AT_END_SECONDS", 0, raising=False)
    fake.answer("DescribeJobs", _job("RUNNING"))
    fake.answer("GetNodeLog", [chunk(0, b"one\n"), AWAY], AWAY, AWAY, [chunk(4, b"two\n")])
    ended = await muster("logs", f"{JOB}#2", "-f")
    assert (ended.code, ended.out) == (0, b"one\ntwo\n")
    assert ended.err == (
        f"muster: lost the output of {JOB}#2 (going away); trying again\n"
        f"muster: the output of {JOB}#2 goes on\n"
    )


async def test_after_the_end_of_the_job_what_is_kept_must_do(
    fake: FakeCoordinator, muster: Muster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one try more for all of it: a host that comes back tells of the end and has it."""
    monkeypatch.setattr("cli.stream._PATIENCE_AT_END_SECONDS", 0)
    first: Answer = [chunk(0, b"one\n"), AWAY]
    fake.answer("DescribeJobs", _job("RUNNING"), _job("RUNNING"), AWAY, _job("SUCCEEDED"))
    fake.answer("GetNodeLog", first, AWAY, AWAY, AWAY, [chunk(9, b"!", "5 bytes are gone")])
    ended = await muster("logs", f"{JOB}#2", "-f")
    assert (ended.code, ended.out) == (0, b"one\n!")
    asked = [(request.offset, request.follow) for request in fake.asked("GetNodeLog")]
    assert asked == [(0, True), (4, True), (4, True), (4, True), (4, False)]
    assert "5 bytes are gone" in ended.err

    fake.answer("DescribeJobs", _job("RUNNING"), _job("SUCCEEDED"))
    fake.answer("GetNodeLog", first, [chunk(4, b"two\n")])
    ended = await muster("logs", f"{JOB}#2", "-f")
    assert (ended.code, ended.out) == (0, b"one\ntwo\n")

    fake.answer("GetNodeLog", first, AWAY)
    ended = await muster("logs", f"{JOB}#2", "-f")
    assert (ended.code, ended.out) == (4, b"one\n")
    assert ended.err.endswith(f"the output of {JOB}#2 is not complete: going away\n")


async def test_without_follow_an_absent_host_is_an_error(
    fake: FakeCoordinator, muster: Muster
) -> None:
    fake.answer("DescribeJobs", multinode())
    fake.answer("GetNodeLog", AWAY)
    ended = await muster("logs", f"{JOB}#2")
    assert (ended.code, len(fake.asked("GetNodeLog"))) == (4, 1)
    assert ended.err == f"muster: the output of {JOB}#2 is not complete: going away\n"


async def test_nodes_are_merged_in_order(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("DescribeJobs", multinode())
    fake.answer(
        "GetNodeLog",
        _by_node({0: [chunk(0, b"a\nb"), chunk(3, b"c\n\nd")], 1: _NONE, 2: [chunk(0, b"e\n")]}),
    )
    ended = await muster("logs", JOB)
    assert ended.out == b"#0 | a\n#0 | bc\n#0 | \n#0 | d\n#2 | e\n"
    assert (ended.code, ended.err) == (0, "")


async def test_what_is_missing_of_one_node_does_not_hide_the_others(
    fake: FakeCoordinator, muster: Muster
) -> None:
    fake.answer("DescribeJobs", multinode(2))
    fake.answer("GetNodeLog", _by_node({0: AWAY, 1: [chunk(0, b"e\n")]}))
    ended = await muster("logs", JOB)
    assert (ended.code, ended.out) == (1, b"#1 | e\n")
    assert ended.err == "muster: the output of #0 is not complete: going away\n"


async def test_following_finds_nodes_as_they_launch(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("DescribeJobs", multinode())
    both_run = asyncio.Event()
    fake.answer(
        "WatchJob",
        [
            told(summary("STARTING"), node(0, "STARTING"), node(1, "PREPARED"), reset=True),
            told(summary("RUNNING"), node(0, "RUNNING"), node(1, "STARTING")),
            both_run,
            told(summary("RUNNABLE"), node(0, "STARTING", attempt=2), reset=True),
            told(summary("SUCCEEDED"), node(0, "SUCCEEDED", attempt=2)),
        ],
    )
    outputs: dict[tuple[int, int], Answer] = {
        # The child's line may come between the halves of main's, but never into its line.
        (0, 1): [chunk(0, b"main "), both_run, chunk(5, b"done\n")],
        (1, 1): [chunk(0, b"child\n"), both_run],
        (0, 2): [chunk(0, b"again\n")],
    }

    def logs(request: GetNodeLogRequest) -> Answer:
        assert request.follow
        if len(fake.asked("GetNodeLog")) == 2:
            both_run.set()
        return outputs[int(request.job_id.partition("#")[2]), request.attempt]

    fake.answer("GetNodeLog", logs)
    ended = await muster("logs", JOB, "-f")
    assert ended.code == 0
    assert sorted(ended.out.splitlines()) == [b"#0 | again", b"#0 | main done", b"#1 | child"]
    assert len(fake.asked("GetNodeLog")) == 3


async def test_a_refusal_of_one_reader_ends_the_command(
    fake: FakeCoordinator, muster: Muster
) -> None:
    fake.answer("DescribeJobs", multinode())
    fake.answer("WatchJob", [told(summary("RUNNING"), node(0, "RUNNING"), reset=True)])
    fake.answer("GetNodeLog", Refusal(grpc.StatusCode.PERMISSION_DENIED, "not yours"))
    ended = await muster("logs", JOB, "-f")
    assert ended.code == 1
    assert "not yours" in ended.err


async def test_json_keeps_the_offsets(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("DescribeJobs", multinode())
    fake.answer("GetNodeLog", [chunk(7, b"hello")])
    ended = await muster("logs", f"{JOB}#0", "-o", "json")
    assert [json.loads(line) for line in ended.text.splitlines()] == [
        {"offset": "7", "data": "aGVsbG8="}
    ]


async def test_a_job_of_one_container_has_no_prefix(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("DescribeJobs", DescribeJobsResponse(jobs=[JobDetail(job_id=JOB)]))
    fake.answer("GetNodeLog", [chunk(0, b"alone\n")])
    assert (await muster("logs", JOB)).out == b"alone\n"


async def test_logs_of_an_unknown_job(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("DescribeJobs", DescribeJobsResponse())
    ended = await muster("logs", JOB)
    assert (ended.code, ended.err) == (
        3,
        f"muster: there is no job {JOB}; `muster list` shows all\n",
    )


def test_lines_are_the_same_however_the_bytes_were_cut() -> None:
    import io

    text = b"one\n\ntwo \xe2\x82\xac\r\nlast"
    expected = b"#7 | one\n#7 | \n#7 | two \xe2\x82\xac\r\n#7 | last\n"
    for size in range(1, len(text) + 1):
        out = io.BytesIO()
        prefixed = Prefixed(out, 7)
        for start in range(0, len(text), size):
            prefixed.take(chunk(start, text[start : start + size]))
            assert not out.getvalue() or out.getvalue().endswith(b"\n")
            prefixed.take(chunk(0, b""))
        prefixed.end()
        assert out.getvalue() == expected


async def test_an_absent_coordinator_is_not_waited_for(
    fake: FakeCoordinator, muster: Muster
) -> None:
    await fake.stop()
    ended = await muster("logs", f"{JOB}#1", "-f")
    assert (ended.code, len(ended.err.splitlines())) == (4, 1)
