"""`muster explain`: why a job waits, host by host."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from cli.arguments import Parser
from cli.connect import ANSWER_SECONDS, coordinator
from cli.table import Style, plain, rows
from muster.v1.job_pb2 import JobStatus
from muster.v1.job_service_pb2 import ExplainJobRequest, ExplainJobResponse


def arguments(parser: Parser) -> None:
    parser.add_argument("job", metavar="JOB", help="id or ARN")


async def run(args: argparse.Namespace) -> int:
    async with coordinator(args) as there:
        request = ExplainJobRequest(job_id=args.job)
        reply = await there.jobs.ExplainJob(request, timeout=ANSWER_SECONDS)
    if args.output == "json":
        from cli.jsonout import show

        show(reply)
    else:
        print("\n".join(_render(reply, Style.of(sys.stdout))))
    return 0


def _render(reply: ExplainJobResponse, style: Style) -> Iterator[str]:
    yield f"{style.state(JobStatus.Name(reply.status))}: {plain(reply.summary)}"
    if reply.status_reason not in ("", reply.summary):
        yield f"statusReason: {plain(reply.status_reason)}"
    for need in reply.needs:
        yield f"- {plain(need)}"
    for node in reply.nodes:
        yield f"- {plain(node)}"
    if reply.hosts:
        yield ""
        usable = sum(host.usable for host in reply.hosts)
        yield f"{usable} of {len(reply.hosts)} hosts could take a node now:"
        cells = [(h.host_id, "yes" if h.usable else "no", h.reason) for h in reply.hosts]
        yield from rows(("HOST", "USABLE", "WHY"), cells, style)
        if reply.hosts_left_out:
            yield f"and {reply.hosts_left_out} hosts more, which one reply does not hold"
