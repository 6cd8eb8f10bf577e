"""`muster list`: the jobs of a queue, or the nodes of a job."""

from __future__ import annotations

import argparse
import sys

from cli.arguments import Parser
from cli.connect import ANSWER_SECONDS, Coordinator, coordinator
from cli.failure import ExitCode, Failure
from cli.table import Style, ago, now_ms, rows, span
from muster.v1.job_pb2 import JobStatus, JobSummary
from muster.v1.job_service_pb2 import KeyValuesPair, ListJobsRequest, ListJobsResponse

_PAGE = 100
_STATUSES = [status for status in JobStatus.keys() if JobStatus.Value(status)]  # noqa: SIM118
_NODE_STATUSES = ("STARTING", "RUNNING", "SUCCEEDED", "FAILED")


def arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("--queue", default="default", metavar="Q", help="default: default")
    add("--status", choices=_STATUSES, metavar="S", help=f"one of {', '.join(_STATUSES)}")
    add("--name", metavar="PREFIX", help="jobs whose name begins so, in any case")
    add("--all", action="store_true", help=f"not only the newest {_PAGE}")
    add("--nodes", metavar="JOB", help="the nodes of this job that were launched")


async def run(args: argparse.Namespace) -> int:
    if args.nodes and args.name:
        raise Failure("--nodes lists one job, so --name has no meaning with it", ExitCode.USAGE)
    async with coordinator(args) as there:
        reply = await (_nodes(there, args) if args.nodes else _jobs(there, args))
    if args.output == "json":
        from cli.jsonout import show

        show(reply)
    else:
        print("\n".join(_table(reply, Style.of(sys.stdout))))
    return 0


async def _jobs(there: Coordinator, args: argparse.Namespace) -> ListJobsResponse:
    """Newest first. A filter lists jobs of every status, so it makes the status ours to choose."""
    request = ListJobsRequest(job_queue=args.queue, max_results=_PAGE)
    if args.name:
        request.filters.append(KeyValuesPair(name="JOB_NAME", values=[f"{args.name}*"]))
    elif args.status:
        request.job_status = JobStatus.Value(args.status)
    else:
        request.filters.append(KeyValuesPair(name="AFTER_CREATED_AT", values=["0"]))
    whole = ListJobsResponse()
    while True:
        page = await there.jobs.ListJobs(request, timeout=ANSWER_SECONDS)
        whole.job_summary_list.extend(
            job
            for job in page.job_summary_list
            if args.status in (None, JobStatus.Name(job.status))
        )
        if not page.next_token:
            return whole
        if not args.all and len(whole.job_summary_list) >= _PAGE:
            whole.next_token = page.next_token
            return whole
        request.next_token = page.next_token


async def _nodes(there: Coordinator, args: argparse.Namespace) -> ListJobsResponse:
    """By index. Filters are not for nodes, so every status is asked for by itself."""
    found: list[JobSummary] = []
    for status in _NODE_STATUSES:
        if args.status in (None, status):
            request = ListJobsRequest(
                multi_node_job_id=args.nodes, job_status=JobStatus.Value(status), max_results=1000
            )
            while True:
                page = await there.jobs.ListJobs(request, timeout=ANSWER_SECONDS)
                found.extend(page.job_summary_list)
                if not page.next_token:
                    break
                request.next_token = page.next_token
    found.sort(key=lambda node: node.node_properties.node_index)
    return ListJobsResponse(job_summary_list=found)


def _table(reply: ListJobsResponse, style: Style) -> list[str]:
    if not reply.job_summary_list:
        return ["nothing to list; `muster submit` makes a job"]
    headers = ("JOB", "NAME", "STATUS", "NODES", "CREATED", "RAN", "EXIT", "REASON")
    table = rows(headers, [_cells(job, now_ms()) for job in reply.job_summary_list], style)
    return [*table, "older jobs are not shown; --all shows them"] if reply.next_token else table


def _cells(job: JobSummary, now: float) -> tuple[object, ...]:
    nodes = job.node_properties
    count: object = nodes.num_nodes or 1
    if nodes.HasField("node_index"):
        count = "main" if nodes.is_main_node else "child"
    return (
        job.job_id,
        job.job_name,
        JobStatus.Name(job.status),
        count,
        ago(job.created_at, now),
        span((job.stopped_at or now) - job.started_at, tenths=True) if job.started_at else "",
        job.container.exit_code if job.container.HasField("exit_code") else "",
        job.status_reason,
    )
