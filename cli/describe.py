"""`muster describe`: jobs and nodes in full."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from cli.arguments import Parser
from cli.connect import ANSWER_SECONDS, Coordinator, coordinator
from cli.failure import ExitCode, Failure
from cli.table import Style, ago, date, fields, now_ms, rows, span
from muster.v1.job_pb2 import AttemptDetail, JobDetail, JobStatus
from muster.v1.job_service_pb2 import DescribeJobsRequest, DescribeJobsResponse

_PAGE = 100
_ATTEMPT_HEADERS = ("ATTEMPT", "EXIT", "STARTED", "RAN", "REASON")
_NODE_HEADERS = ("NODE", "STATUS", "HOST", "ADDRESS", "ATTEMPTS", "EXIT", "REASON")


def arguments(parser: Parser) -> None:
    parser.add_argument("jobs", nargs="+", metavar="JOB[#N]", help="ids or ARNs")


async def run(args: argparse.Namespace) -> int:
    async with coordinator(args) as there:
        reply = DescribeJobsResponse(jobs=await describe(there, args.jobs))
        if args.output == "json":
            from cli.jsonout import show

            show(reply)
        else:
            style = Style.of(sys.stdout)
            blocks = [render(job, await nodes_of(there, job), style) for job in reply.jobs]
            print("\n\n".join("\n".join(block) for block in blocks))
    known = [name for job in reply.jobs for name in (job.job_id, job.job_arn)]
    unknown = [job for job in args.jobs if job not in known]
    if unknown:
        raise Failure(
            f"there is no job or launched node {', '.join(unknown)}; `muster list` shows all jobs",
            ExitCode.NOT_FOUND,
        )
    return 0


async def describe(there: Coordinator, ids: Sequence[str]) -> list[JobDetail]:
    """The records that are known, in the order asked."""
    found: list[JobDetail] = []
    for start in range(0, len(ids), _PAGE):
        request = DescribeJobsRequest(jobs=ids[start : start + _PAGE])
        found += (await there.jobs.DescribeJobs(request, timeout=ANSWER_SECONDS)).jobs
    return found


async def nodes_of(there: Coordinator, job: JobDetail) -> list[JobDetail]:
    """The records of a job's launched nodes, by index; none for a node or a single container."""
    count = job.node_properties.num_nodes
    return await describe(there, [f"{job.job_id}#{index}" for index in range(count)])


def render(job: JobDetail, nodes: Sequence[JobDetail], style: Style) -> list[str]:
    """A record for people: what it is, how it stands, its attempts and its nodes."""
    lines = fields(_facts(job), style)
    if job.attempts:
        cells = [_attempt(number, one) for number, one in enumerate(job.attempts, 1)]
        lines += ["", *rows(_ATTEMPT_HEADERS, cells, style)]
    if nodes:
        lines += ["", *rows(_NODE_HEADERS, map(_node, nodes), style)]
    return lines


def _facts(job: JobDetail) -> Iterator[tuple[str, object]]:
    container, now = job.container, now_ms()
    yield "job", job.job_id
    yield "name", job.job_name
    yield "status", JobStatus.Name(job.status)
    yield "reason", job.status_reason
    for left in job.may_still_run:
        until = f", until {date(left.until)} at most" if left.HasField("until") else ""
        node = f"node {left.node_index} of attempt {left.attempt}"
        yield "may still run", f"{node} on {left.host_id}{until}"
    yield "queue", job.job_queue.rpartition("/")[2]
    yield "definition", job.job_definition.rpartition("/")[2]
    if job.HasField("node_properties"):
        yield "nodes", f"{job.node_properties.num_nodes}, main #{job.node_properties.main_node}"
    if job.HasField("node_details"):
        kind = "main" if job.node_details.is_main_node else "child"
        yield "node", f"#{job.node_details.node_index}, {kind}"
    if job.HasField("container"):
        yield "image", container.image
        yield "command", " ".join(container.command)
        yield "host", container.container_instance_arn.rpartition("/")[2]
        yield "address", _address(job)
        yield "exit code", container.exit_code if container.HasField("exit_code") else None
        yield "error", container.reason
    yield "created", f"{date(job.created_at)} ({ago(job.created_at, now)})"
    if job.started_at:
        yield "started", f"{date(job.started_at)} ({ago(job.started_at, now)})"
    if job.stopped_at:
        yield "stopped", f"{date(job.stopped_at)} ({ago(job.stopped_at, now)})"
    if job.started_at:
        yield "ran", span((job.stopped_at or now) - job.started_at, tenths=True)
    yield "depends on", ", ".join(dependency.job_id for dependency in job.depends_on)
    yield "parameters", ", ".join(f"{key}={job.parameters[key]}" for key in sorted(job.parameters))
    if job.HasField("start_barrier"):
        yield "start barrier", f"{job.start_barrier.timeout_seconds}s"
    if job.HasField("verdict_after_seconds"):
        yield "waits", f"{job.verdict_after_seconds}s for a silent host, within lost and lease"
    if job.HasField("timeout"):
        yield "timeout", f"{job.timeout.attempt_duration_seconds}s"
    if job.retry_strategy.attempts:
        yield "tries", f"at most {job.retry_strategy.attempts}"
    yield "tags", ", ".join(f"{key}={job.tags[key]}" for key in sorted(job.tags))


def _attempt(number: int, one: AttemptDetail) -> tuple[object, ...]:
    return (
        number,
        one.container.exit_code if one.container.HasField("exit_code") else "",
        date(one.started_at),
        span(one.stopped_at - one.started_at, tenths=True) if one.started_at else "",
        " ".join(filter(None, (one.status_reason, _bracketed(one.container.reason)))),
    )


def _bracketed(reason: str) -> str:
    return f"({reason})" if reason else ""


def _node(node: JobDetail) -> tuple[object, ...]:
    details, container = node.node_details, node.container
    return (
        f"#{details.node_index}{' main' if details.is_main_node else ''}",
        JobStatus.Name(node.status),
        container.container_instance_arn.rpartition("/")[2],
        _address(node),
        len(node.attempts),
        container.exit_code if container.HasField("exit_code") else "",
        container.reason or node.status_reason,
    )


def _address(node: JobDetail) -> str:
    return ", ".join(one.private_ipv4_address for one in node.container.network_interfaces)
