"""`muster queues`: the job queues and their priorities."""

from __future__ import annotations

import argparse
import sys

from google.protobuf.message import Message

from cli.arguments import INT32_MIN, Parser, whole
from cli.connect import ANSWER_SECONDS, Coordinator, coordinator
from cli.table import Style, rows
from muster.v1.job_pb2 import JobQueueState, JobQueueStatus
from muster.v1.job_service_pb2 import (
    CreateJobQueueRequest,
    DeleteJobQueueRequest,
    DescribeJobQueuesRequest,
    DescribeJobQueuesResponse,
    UpdateJobQueueRequest,
)


def arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="all queues (the default)")
    create = actions.add_parser("create", help="make a queue")
    create.add_argument("--disabled", action="store_true", help="it takes no jobs yet")
    update = actions.add_parser("update", help="change what is given of a queue")
    state = update.add_mutually_exclusive_group()
    state.add_argument("--enable", action="store_true", help="take submissions")
    state.add_argument("--disable", action="store_true", help="refuse submissions")
    delete = actions.add_parser("delete", help="delete a DISABLED queue and terminate its jobs")
    for action in (create, update, delete):
        action.add_argument("name", metavar="NAME")
    create.add_argument(
        "--priority", type=whole(INT32_MIN), default=0, metavar="P", help="higher comes first"
    )
    update.add_argument("--priority", type=whole(INT32_MIN), metavar="P", help="higher comes first")


async def run(args: argparse.Namespace) -> int:
    async with coordinator(args) as there:
        if args.action in (None, "list"):
            reply: Message = await _all(there)
        else:
            reply = await _change(there, args)
    if args.output == "json":
        from cli.jsonout import show

        show(reply)
    elif isinstance(reply, DescribeJobQueuesResponse):
        print("\n".join(_table(reply, Style.of(sys.stdout))))
    else:
        print(f"queue {args.name}: {args.action}d")
    return 0


async def _all(there: Coordinator) -> DescribeJobQueuesResponse:
    whole, token = DescribeJobQueuesResponse(), ""
    while True:
        request = DescribeJobQueuesRequest(next_token=token)
        page = await there.jobs.DescribeJobQueues(request, timeout=ANSWER_SECONDS)
        whole.job_queues.extend(page.job_queues)
        token = page.next_token
        if not token:
            return whole


async def _change(there: Coordinator, args: argparse.Namespace) -> Message:
    match args.action:
        case "create":
            state = JobQueueState.DISABLED if args.disabled else JobQueueState.ENABLED
            create = CreateJobQueueRequest(
                job_queue_name=args.name, priority=args.priority, state=state
            )
            return await there.jobs.CreateJobQueue(create, timeout=ANSWER_SECONDS)
        case "update":
            update = UpdateJobQueueRequest(job_queue=args.name, priority=args.priority)
            if args.enable:
                update.state = JobQueueState.ENABLED
            if args.disable:
                update.state = JobQueueState.DISABLED
            return await there.jobs.UpdateJobQueue(update, timeout=ANSWER_SECONDS)
        case _:
            delete = DeleteJobQueueRequest(job_queue=args.name)
            return await there.jobs.DeleteJobQueue(delete, timeout=ANSWER_SECONDS)


def _table(reply: DescribeJobQueuesResponse, style: Style) -> list[str]:
    cells = [
        (
            queue.job_queue_name,
            JobQueueState.Name(queue.state),
            queue.priority,
            JobQueueStatus.Name(queue.status),
            queue.status_reason,
        )
        for queue in reply.job_queues
    ]
    return rows(("QUEUE", "STATE", "PRIORITY", "STATUS", "REASON"), cells, style)
