"""`muster definitions`: the job definitions and their revisions."""

from __future__ import annotations

import argparse
import sys

from google.protobuf.message import Message

from cli.arguments import Parser
from cli.connect import ANSWER_SECONDS, Coordinator, coordinator
from cli.failure import ExitCode, Failure
from cli.jsonin import DESCRIBED, read
from cli.table import Style, rows
from muster.v1.job_pb2 import JobDefinition, JobDefinitionType
from muster.v1.job_service_pb2 import (
    DeregisterJobDefinitionRequest,
    DescribeJobDefinitionsRequest,
    DescribeJobDefinitionsResponse,
    RegisterJobDefinitionRequest,
    RegisterJobDefinitionResponse,
)


def arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    listing = actions.add_parser("list", help="ACTIVE revisions (the default)")
    listing.add_argument("--all", action="store_true", help="INACTIVE ones too")
    register = actions.add_parser("register", help="make the next revision of a definition")
    register.add_argument("file", metavar="JSON", help="as `aws batch register-job-definition`'s")
    describe = actions.add_parser("describe", help="all revisions of a name, or one, as JSON")
    describe.add_argument("name", metavar="NAME[:REV]")
    deregister = actions.add_parser("deregister", help="make a revision INACTIVE")
    deregister.add_argument("name", metavar="NAME:REV")
    parser.set_defaults(all=False)


async def run(args: argparse.Namespace) -> int:
    async with coordinator(args) as there:
        reply = await _ask(there, args)
    if args.output == "json" or args.action == "describe":
        from cli.jsonout import show

        show(reply)
    elif isinstance(reply, DescribeJobDefinitionsResponse):
        print("\n".join(_table(reply, Style.of(sys.stdout))))
    elif isinstance(reply, RegisterJobDefinitionResponse):
        print(f"{reply.job_definition_name}:{reply.revision}")
    else:
        print(f"{args.name}: INACTIVE")
    return 0


async def _ask(there: Coordinator, args: argparse.Namespace) -> Message:
    match args.action:
        case "register":
            request = read(args.file, RegisterJobDefinitionRequest(), DESCRIBED)
            return await there.jobs.RegisterJobDefinition(request, timeout=ANSWER_SECONDS)
        case "deregister":
            gone = DeregisterJobDefinitionRequest(job_definition=args.name)
            return await there.jobs.DeregisterJobDefinition(gone, timeout=ANSWER_SECONDS)
        case "describe":
            which = DescribeJobDefinitionsRequest()
            if ":" in args.name:
                which.job_definitions.append(args.name)
            else:
                which.job_definition_name = args.name
            found = await _pages(there, which)
            if not found.job_definitions:
                raise Failure(
                    f"there is no job definition {args.name}; `muster definitions list --all` "
                    "shows all",
                    ExitCode.NOT_FOUND,
                )
            return found
        case _:
            status = None if args.all else "ACTIVE"
            return await _pages(there, DescribeJobDefinitionsRequest(status=status))


async def _pages(
    there: Coordinator, request: DescribeJobDefinitionsRequest
) -> DescribeJobDefinitionsResponse:
    whole = DescribeJobDefinitionsResponse()
    while True:
        page = await there.jobs.DescribeJobDefinitions(request, timeout=ANSWER_SECONDS)
        whole.job_definitions.extend(page.job_definitions)
        if not page.next_token:
            return whole
        request.next_token = page.next_token


def _table(reply: DescribeJobDefinitionsResponse, style: Style) -> list[str]:
    if not reply.job_definitions:
        return ["no job definitions; `muster definitions register JSON` makes one"]
    return rows(
        ("DEFINITION", "STATUS", "TYPE", "NODES", "ATTEMPTS", "IMAGE"),
        map(_cells, reply.job_definitions),
        style,
    )


def _cells(definition: JobDefinition) -> tuple[object, ...]:
    groups = definition.node_properties.node_range_properties
    images = [group.container.image for group in groups]
    images = images or [definition.container_properties.image]
    return (
        f"{definition.job_definition_name}:{definition.revision}",
        definition.status,
        JobDefinitionType.Name(definition.type),
        definition.node_properties.num_nodes or 1,
        definition.retry_strategy.attempts or 1,
        ", ".join(dict.fromkeys(images)),
    )
