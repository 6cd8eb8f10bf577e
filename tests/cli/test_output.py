"""Tables and JSON of the commands that ask once."""

from __future__ import annotations

import json
from pathlib import Path

from cli.hosts import _table
from cli.table import Style, ago, plain, rows, span
from muster.v1.host_service_pb2 import (
    DescribeHostsResponse,
    DrainHostResponse,
    ListHostsResponse,
    RefusedAgent,
)
from muster.v1.job_pb2 import (
    JobDefinition,
    JobDefinitionType,
    JobDetail,
    JobQueueDetail,
    JobQueueState,
    JobQueueStatus,
    JobStatus,
)
from muster.v1.job_service_pb2 import (
    CancelJobResponse,
    CreateJobQueueResponse,
    DescribeJobDefinitionsResponse,
    DescribeJobQueuesResponse,
    DescribeJobsRequest,
    DescribeJobsResponse,
    ExplainJobResponse,
    HostVerdict,
    ListJobsRequest,
    ListJobsResponse,
    RegisterJobDefinitionResponse,
    TerminateJobResponse,
)
from tests.cli.conftest import Muster
from tests.cli.fake_coordinator import FakeCoordinator
from tests.cli.records import AT, JOB, host, summary


def test_a_table_is_aligned_and_cut_at_the_width() -> None:
    cells = [("a", "RUNNING", "because\nof"), ("long-name", "FREE", "")]
    assert rows(("HOST", "STATE", "WHY"), cells, Style()) == [
        "HOST       STATE    WHY",
        "a          RUNNING  because of",
        "long-name  FREE     -",
    ]
    assert rows(("HOST", "STATE", "WHY"), cells, Style(width=22)) == [
        "HOST       STATE    WH",
        "a          RUNNING  be",
        "long-name  FREE     -",
    ]
    assert rows(("HOST", "STATE", "WHY"), cells, Style(width=12))[1] == "a          R"


def test_colour_is_by_state_and_keeps_the_columns() -> None:
    lines = rows(("STATE", "HOST"), [("FAILED", "a"), ("FREE", "b")], Style(colour=True))
    assert lines[1] == "\x1b[31mFAILED\x1b[0m  a"
    assert lines[2] == "\x1b[32mFREE  \x1b[0m  b"


def test_nothing_that_a_job_says_steers_the_terminal() -> None:
    assert plain("\x1b[2Jgone\r\n\x07") == "[2Jgone"


def test_times_are_relative_and_never_negative() -> None:
    assert [span(s * 1000) for s in (-5, 12, 192, 7500, 360_000)] == [
        "0s",
        "12s",
        "3m12s",
        "2h05m",
        "4d04h",
    ]
    assert ago(0, AT) == "-"
    assert ago(AT - 12_000, AT) == "12s ago"


async def test_hosts(fake: FakeCoordinator, muster: Muster) -> None:
    busy = host("b", "BUSY")
    busy.job_id = f"{JOB}#1"
    busy.draining = True
    fake.answer("ListHosts", ListHostsResponse(hosts=[host("a"), busy]))
    ended = await muster("hosts")
    lines = ended.text.splitlines()
    assert lines[0].split()[:4] == ["HOST", "STATE", "NODE", "ADDRESS"]
    assert lines[1].split()[:4] == ["a", "FREE", "-", "10.0.0.1"]
    assert lines[2].split()[:3] == ["b", "BUSY", f"{JOB}#1"]
    assert lines[2].endswith("ago  draining")
    assert "\x1b" not in ended.text


def test_hosts_on_a_narrow_terminal_are_read_in_full() -> None:
    stopped = host("a-long-name", "STOPPED")
    stopped.job_id, stopped.reason = f"{JOB}#0", "its agent was stopped; " + "and so on " * 12
    reply = ListHostsResponse(hosts=[host("b"), stopped])
    for width, last in ((80, "SEEN"), (120, "SEEN")):
        lines = _table(reply, Style(width=width))
        assert max(map(len, lines)) <= width
        assert lines[0].split()[:3] == ["HOST", "STATE", "NODE"]
        assert lines[0].split()[-1] == last
        assert len(lines[1].split()) >= 5
        told = " ".join(line.strip() for line in lines[3:])
        assert told == stopped.reason.strip(), "nothing is cut"
        assert all(line.startswith("    ") for line in lines[3:])
    assert "REMARK" in _table(reply, Style(width=400))[0]
    assert "REMARK" in _table(reply, Style())[0]


async def test_hosts_tell_what_operators_should_know(fake: FakeCoordinator, muster: Muster) -> None:
    notice = "the disk of the coordinator (/var/lib/muster) has 3 MiB free, less than 64"
    fake.answer("ListHosts", ListHostsResponse(hosts=[host("a")], notice=notice))
    ended = await muster("hosts")
    assert ended.err == f"muster: {notice}\n"
    assert "MiB free" not in ended.text


async def test_hosts_name_the_agents_that_were_refused(
    fake: FakeCoordinator, muster: Muster
) -> None:
    refused = RefusedAgent(host_id="b", private_ipv4_address="10.0.0.9", at=AT, reason="a\ncopy")
    fake.answer("ListHosts", ListHostsResponse(hosts=[host("a")], refused=[refused]))
    ended = await muster("hosts")
    assert ended.err.startswith("muster: the agent b (10.0.0.9) was refused ")
    assert ended.err.endswith(" ago: a copy\n")
    assert len(ended.text.splitlines()) == 2


async def test_hosts_of_many_pages(fake: FakeCoordinator, muster: Muster) -> None:
    first = ListHostsResponse(hosts=[host("a")], next_token="behind a")
    fake.answer("ListHosts", first, ListHostsResponse(hosts=[host("b")]))
    lines = (await muster("hosts")).text.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["a", "b"]
    assert [request.next_token for request in fake.asked("ListHosts")] == ["", "behind a"]


async def test_json_is_the_apis_own(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("ListHosts", ListHostsResponse(hosts=[host("a")]))
    for argv in (["-o", "json", "hosts"], ["hosts", "-o", "json"], ["hosts", "list", "-o", "json"]):
        document = json.loads((await muster(*argv)).text)
        assert document["hosts"][0]["hostId"] == "a"
        assert document["hosts"][0]["draining"] is False
        assert "jobId" not in document["hosts"][0]


async def test_times_in_json_are_integers(fake: FakeCoordinator, muster: Muster) -> None:
    job = JobDetail(job_id=JOB, created_at=AT, status=JobStatus.RUNNABLE)
    fake.answer("DescribeJobs", DescribeJobsResponse(jobs=[job]))
    ended = await muster("describe", JOB, "-o", "json")
    assert '"createdAt": 1700000000123,' in ended.text
    assert '"startedAt": 0,' in ended.text
    assert '"dependsOn": []' in ended.text


async def test_describe_shows_attempts_and_nodes(fake: FakeCoordinator, muster: Muster) -> None:
    job = JobDetail(job_id=JOB, job_name="heat", status=JobStatus.SUCCEEDED, created_at=AT)
    job.node_properties.num_nodes = 2
    job.attempts.add(started_at=AT, stopped_at=AT + 3000).container.exit_code = 5
    child = JobDetail(job_id=f"{JOB}#1", status=JobStatus.FAILED)
    child.node_details.node_index = 1
    child.container.exit_code = 137
    child.container.container_instance_arn = "arn:aws:ecs:local:000000000000:ci/default/host-1"
    child.container.network_interfaces.add(private_ipv4_address="10.0.0.9")

    def known(request: DescribeJobsRequest) -> DescribeJobsResponse:
        return DescribeJobsResponse(jobs=[r for r in (job, child) if r.job_id in request.jobs])

    fake.answer("DescribeJobs", known)
    ended = await muster("describe", JOB, "other")
    words = [line.split() for line in ended.text.splitlines()]
    assert ["status", "SUCCEEDED"] in words
    assert ["nodes", "2,", "main", "#0"] in words
    assert any(line[:2] == ["1", "5"] and line[-2:] == ["3.0s", "-"] for line in words)
    assert ["#1", "FAILED", "host-1", "10.0.0.9", "0", "137", "-"] in words
    assert ended.code == 3
    assert "muster: there is no job or launched node other" in ended.err


async def test_list_asks_for_every_status_and_page(fake: FakeCoordinator, muster: Muster) -> None:
    first = ListJobsResponse(job_summary_list=[summary("RUNNING")] * 100, next_token="2")
    rest = ListJobsResponse(job_summary_list=[summary("FAILED", exit_code=3)])
    fake.answer("ListJobs", first, rest)
    ended = await muster("list")
    assert ended.text.count("RUNNING") == 100
    assert ended.text.endswith("--all shows them\n")
    asked: ListJobsRequest = fake.asked("ListJobs")[0]
    assert (asked.job_queue, asked.filters[0].name) == ("default", "AFTER_CREATED_AT")
    assert list(asked.filters[0].values) == ["0"]

    fake.answer("ListJobs", first, rest)
    ended = await muster("list", "--all", "-o", "json")
    document = json.loads(ended.text)
    assert len(document["jobSummaryList"]) == 101
    assert "nextToken" not in document
    assert document["jobSummaryList"][100]["container"] == {"exitCode": 3}
    assert fake.asked("ListJobs")[-1].next_token == "2"


async def test_list_chooses_among_a_filters_statuses(fake: FakeCoordinator, muster: Muster) -> None:
    both = [summary("RUNNING"), summary("FAILED")]
    fake.answer("ListJobs", ListJobsResponse(job_summary_list=both))
    ended = await muster("list", "--name", "he", "--status", "FAILED", "--queue", "q")
    assert "RUNNING" not in ended.text
    assert "FAILED" in ended.text
    asked: ListJobsRequest = fake.asked("ListJobs")[0]
    assert (asked.job_queue, list(asked.filters[0].values)) == ("q", ["he*"])
    await muster("list", "--status", "FAILED")
    assert fake.asked("ListJobs")[1].job_status == JobStatus.FAILED
    assert not fake.asked("ListJobs")[1].filters


async def test_nodes_are_listed_by_index(fake: FakeCoordinator, muster: Muster) -> None:
    def nodes(request: ListJobsRequest) -> ListJobsResponse:
        index = {JobStatus.RUNNING: 1, JobStatus.FAILED: 0}.get(request.job_status)
        if request.next_token:
            index = 2
        if index is None:
            return ListJobsResponse()
        job = summary(JobStatus.Name(request.job_status))
        job.job_id = f"{JOB}#{index}"
        job.node_properties.node_index = index
        job.node_properties.is_main_node = not index
        return ListJobsResponse(
            job_summary_list=[job], next_token="behind 1" if index == 1 else None
        )

    fake.answer("ListJobs", nodes)
    lines = (await muster("list", "--nodes", JOB)).text.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [f"{JOB}#0", f"{JOB}#1", f"{JOB}#2"]
    assert [line.split()[3] for line in lines[1:]] == ["main", "child", "child"]


async def test_explain(fake: FakeCoordinator, muster: Muster) -> None:
    reply = ExplainJobResponse(
        status=JobStatus.RUNNABLE,
        summary="It waits for 1 more host.",
        needs=["3 hosts of one type"],
        hosts=[HostVerdict(host_id="a", usable=True), HostVerdict(host_id="b", reason="is busy")],
    )
    fake.answer("ExplainJob", reply)
    assert (await muster("explain", JOB)).text.splitlines() == [
        "RUNNABLE: It waits for 1 more host.",
        "- 3 hosts of one type",
        "",
        "1 of 2 hosts could take a node now:",
        "HOST  USABLE  WHY",
        "a     yes     -",
        "b     no      is busy",
    ]
    reply.hosts_left_out = 9_000
    assert (await muster("explain", JOB)).text.splitlines()[-1] == (
        "and 9000 hosts more, which one reply does not hold"
    )


async def test_ending_jobs(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("CancelJob", CancelJobResponse())
    fake.answer("TerminateJob", TerminateJobResponse())
    assert (await muster("cancel", "a")).code == 0
    assert (await muster("terminate", "a", "b#1", "--reason", "enough")).code == 0
    assert fake.asked("CancelJob")[0].reason == "Canceled with the muster command"
    assert [r.job_id for r in fake.asked("TerminateJob")] == ["a", "b#1"]
    assert fake.asked("TerminateJob")[1].reason == "enough"


async def test_operators_words(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("DrainHost", DrainHostResponse(host=host("a")))
    fake.answer("CreateJobQueue", CreateJobQueueResponse(job_queue_name="q"))
    assert "FREE" in (await muster("hosts", "drain", "a", "--reason", "new disk")).text
    assert fake.asked("DrainHost")[0].reason == "new disk"
    assert (await muster("queues", "create", "q", "--priority", "-3")).text == "queue q: created\n"
    assert fake.asked("CreateJobQueue")[0].priority == -3
    assert fake.asked("CreateJobQueue")[0].state == JobQueueState.ENABLED


async def test_queues(fake: FakeCoordinator, muster: Muster) -> None:
    queue = JobQueueDetail(
        job_queue_name="default",
        state=JobQueueState.ENABLED,
        status=JobQueueStatus.VALID,
        status_reason="JobQueue Healthy",
    )
    fake.answer("DescribeJobQueues", DescribeJobQueuesResponse(job_queues=[queue]))
    assert (await muster("queues")).text.splitlines() == [
        "QUEUE    STATE    PRIORITY  STATUS  REASON",
        "default  ENABLED  0         VALID   JobQueue Healthy",
    ]


async def test_definitions(fake: FakeCoordinator, muster: Muster, tmp_path: Path) -> None:
    definition = JobDefinition(
        job_definition_name="d", revision=2, status="ACTIVE", type=JobDefinitionType.multinode
    )
    definition.node_properties.num_nodes = 8
    for target in ("0", "1:"):
        group = definition.node_properties.node_range_properties.add(target_nodes=target)
        group.container.image = "image"
    page = DescribeJobDefinitionsResponse(job_definitions=[definition], next_token="more")
    last = DescribeJobDefinitionsResponse(job_definitions=[definition])
    fake.answer("DescribeJobDefinitions", page, last)
    lines = (await muster("definitions")).text.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["d:2", "ACTIVE", "multinode", "8", "1", "image"]
    ] * 2
    assert [r.next_token for r in fake.asked("DescribeJobDefinitions")] == ["", "more"]
    assert fake.asked("DescribeJobDefinitions")[0].status == "ACTIVE"

    fake.answer("DescribeJobDefinitions", DescribeJobDefinitionsResponse())
    assert (await muster("definitions", "describe", "d:9")).code == 3

    fake.answer(
        "RegisterJobDefinition",
        RegisterJobDefinitionResponse(job_definition_name="d", revision=3),
    )
    path = tmp_path / "d.json"
    path.write_text('{"jobDefinitionName": "d"}')
    assert (await muster("definitions", "register", str(path))).text == "d:3\n"


async def test_an_unknown_host_is_told_after_the_known(
    fake: FakeCoordinator, muster: Muster
) -> None:
    fake.answer("DescribeHosts", DescribeHostsResponse(hosts=[host("a", "LOST")]))
    ended = await muster("hosts", "describe", "a", "b")
    assert ["state", "LOST"] in [line.split() for line in ended.text.splitlines()]
    assert (ended.code, ended.err) == (
        3,
        "muster: there is no host b; `muster hosts` shows all\n",
    )
