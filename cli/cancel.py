"""`muster cancel` and `muster terminate`: the two ways to end a job."""

from __future__ import annotations

import argparse

from google.protobuf.message import Message

from cli.arguments import Parser
from cli.connect import ANSWER_SECONDS, coordinator
from muster.v1.job_service_pb2 import CancelJobRequest, TerminateJobRequest


def arguments(parser: Parser) -> None:
    ends = "terminate" in parser.prog
    parser.add_argument(
        "jobs",
        nargs="+",
        metavar="JOB[#N]" if ends else "JOB",
        help="id or ARN; of a child node, ends that node alone" if ends else "id or ARN",
    )
    verb = "Terminated" if ends else "Canceled"
    parser.add_argument(
        "--reason",
        default=f"{verb} with the muster command",
        help="becomes the statusReason (default: %(default)s)",
    )
    parser.set_defaults(terminate=ends)


async def run(args: argparse.Namespace) -> int:
    async with coordinator(args) as there:
        reply: Message
        for job_id in args.jobs:
            if args.terminate:
                end = TerminateJobRequest(job_id=job_id, reason=args.reason)
                reply = await there.jobs.TerminateJob(end, timeout=ANSWER_SECONDS)
                told = f"{job_id}: terminated, unless it had ended"
            else:
                request = CancelJobRequest(job_id=job_id, reason=args.reason)
                reply = await there.jobs.CancelJob(request, timeout=ANSWER_SECONDS)
                told = (
                    f"{job_id}: cancelled, unless it had started; then `muster terminate` ends it"
                )
            if args.output == "json":
                from cli.jsonout import show

                show(reply)
            else:
                print(told)
    return 0
