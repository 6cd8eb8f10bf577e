"""`muster submit`: one job, made once however often the call has to be repeated."""

from __future__ import annotations

import argparse
import asyncio
import sys
import uuid
from contextlib import aclosing

import grpc
from grpc.aio import AioRpcError

from cli.arguments import Parser, pair, whole
from cli.connect import ANSWER_SECONDS, RETRYABLE, Backoff, Coordinator, coordinator
from cli.failure import ExitCode, Failure
from cli.jsonin import DESCRIBED, read
from cli.stream import tell, watch_job
from cli.table import Style
from cli.view import View, exit_code
from cli.watch import lines
from muster.v1.container_pb2 import ContainerOverrides, KeyValuePair
from muster.v1.job_pb2 import JobDefinition, JobDefinitionType
from muster.v1.job_service_pb2 import (
    DescribeJobDefinitionsRequest,
    DescribeJobsRequest,
    RegisterJobDefinitionRequest,
    SubmitJobRequest,
    SubmitJobResponse,
)

_PATIENCE_SECONDS = 30
"""How long an absent or busy coordinator is asked again; the token makes that safe."""


def arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("job_name", metavar="JOB_NAME", nargs="?", help="need not be unique")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--definition", metavar="D", help="name, name:revision or ARN")
    what.add_argument(
        "--file", metavar="JSON", help="register this definition first, then run that revision"
    )
    add("--json", metavar="FILE", help="SubmitJob's own JSON, - for stdin; flags go over it")
    add("--override-json", metavar="FILE", help="nodeOverrides or containerOverrides, as JSON")
    add("--queue", metavar="Q", help="default: default")
    add("--num-nodes", type=whole(1), metavar="N", help="instead of the definition's")
    many = {"action": "append", "default": [], "type": pair, "metavar": "K=V"}
    add("--parameter", **many, help="value of Ref::K")  # type: ignore[arg-type]
    add("--env", **many, help="variable of every node")  # type: ignore[arg-type]
    add("--tag", **many, help="tag of the job")  # type: ignore[arg-type]
    add("--depends-on", action="append", default=[], metavar="ID", help="start after it SUCCEEDED")
    add("--attempts", type=whole(1), metavar="N", help="tries in total")
    add("--timeout", type=whole(1), metavar="SECONDS", help="of each attempt, from main's start")
    add(
        "--barrier",
        type=whole(1),
        metavar="SECONDS",
        help="children's commands wait until every node runs, for this long",
    )
    add(
        "--verdict-after",
        type=whole(1),
        metavar="SECONDS",
        help="a host that is silent for so long has failed what it runs; never sooner than the "
        "cluster calls a host lost, and never later than the lease",
    )
    add("--client-token", metavar="T", help="a repeat of T gives the same job (default: random)")
    add("--wait", action="store_true", help="until the job has ended; exit as its main node did")
    add(
        "--command",
        nargs=argparse.REMAINDER,
        metavar="ARG",
        help="of every node; takes the rest of the line, so it comes last",
    )


async def run(args: argparse.Namespace) -> int:
    request = _request(args)
    async with coordinator(args) as there:
        if args.file:
            registration = read(args.file, RegisterJobDefinitionRequest(), DESCRIBED)
            made = await there.jobs.RegisterJobDefinition(registration, timeout=ANSWER_SECONDS)
            request.job_definition = f"{made.job_definition_name}:{made.revision}"
        if args.env or args.command:
            override = ContainerOverrides(
                command=args.command or (),
                environment=[KeyValuePair(name=name, value=value) for name, value in args.env],
            )
            _override_all(request, await _definition(there, request.job_definition), override)
        submitted = await submit(there, request)
        _print_submitted(args, submitted)
        return await _wait(there, submitted.job_id, args.output) if args.wait else ExitCode.OK


def _request(args: argparse.Namespace) -> SubmitJobRequest:
    """The request as far as the command line alone says it."""
    request = read(args.json, SubmitJobRequest()) if args.json else SubmitJobRequest()
    if args.override_json:
        overrides = read(args.override_json, SubmitJobRequest())
        extra = [
            field.json_name
            for field, _ in overrides.ListFields()
            if field.name not in ("node_overrides", "container_overrides")
        ]
        if extra:
            raise Failure(
                f"{args.override_json}: {', '.join(extra)} is not an override; the file must hold "
                "nodeOverrides or containerOverrides (--json takes a whole request)",
                ExitCode.USAGE,
            )
        request.MergeFrom(overrides)
    request.job_name = args.job_name or request.job_name
    request.job_queue = args.queue or request.job_queue or "default"
    request.job_definition = args.definition or request.job_definition
    request.parameters.update(args.parameter)
    request.tags.update(args.tag)
    for job_id in args.depends_on:
        request.depends_on.add(job_id=job_id)
    if args.num_nodes is not None:
        request.node_overrides.num_nodes = args.num_nodes
    if args.attempts is not None:
        request.retry_strategy.attempts = args.attempts
    if args.timeout is not None:
        request.timeout.attempt_duration_seconds = args.timeout
    if args.verdict_after is not None:
        request.verdict_after_seconds = args.verdict_after
    if args.barrier is not None:
        request.start_barrier.timeout_seconds = args.barrier
    request.client_token = args.client_token or request.client_token or str(uuid.uuid4())
    if not request.job_name:
        raise Failure("no job name; give JOB_NAME, or --json with jobName", ExitCode.USAGE)
    if not (request.job_definition or args.file):
        raise Failure(
            "no job definition; give --definition, --file or --json with jobDefinition",
            ExitCode.USAGE,
        )
    return request


def _override_all(
    request: SubmitJobRequest, definition: JobDefinition, override: ContainerOverrides
) -> None:
    """Override every container of the definition; the API overrides node groups by their range."""
    if definition.type != JobDefinitionType.multinode:
        request.container_overrides.MergeFrom(override)
        return
    overridden = {
        group.target_nodes: group for group in request.node_overrides.node_property_overrides
    }
    for group in definition.node_properties.node_range_properties:
        known = overridden.get(group.target_nodes)
        if known is None:
            known = request.node_overrides.node_property_overrides.add(
                target_nodes=group.target_nodes
            )
        if override.command:
            del known.container_overrides.command[:]
        known.container_overrides.MergeFrom(override)


async def _definition(there: Coordinator, name: str) -> JobDefinition:
    """The revision that `name` means now."""
    request = DescribeJobDefinitionsRequest(status="ACTIVE", max_results=1)
    if ":" in name:
        request.job_definitions.append(name)
    else:
        request.job_definition_name = name
    found = await there.jobs.DescribeJobDefinitions(request, timeout=ANSWER_SECONDS)
    if not found.job_definitions:
        raise Failure(
            f"there is no ACTIVE job definition {name}; `muster definitions` shows all",
            ExitCode.NOT_FOUND,
        )
    return found.job_definitions[0]


async def submit(there: Coordinator, request: SubmitJobRequest) -> SubmitJobResponse:
    """Submit once: repeats, while the coordinator is away or busy, carry the same token."""
    clock = asyncio.get_running_loop().time
    give_up_at, backoff = clock() + _PATIENCE_SECONDS, Backoff()
    while True:
        try:
            return await there.jobs.SubmitJob(request, timeout=ANSWER_SECONDS)
        except AioRpcError as error:
            # Whether a call without an answer was done nobody knows: the token is for this.
            again = error.code() in (*RETRYABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if not again or clock() >= give_up_at:
                raise
            if not backoff.waited:
                tell(
                    f"the coordinator at {there.address} cannot take the job now "
                    f"({error.details()}); asking again for {_PATIENCE_SECONDS} s"
                )
        await backoff.wait()


def _print_submitted(args: argparse.Namespace, submitted: SubmitJobResponse) -> None:
    if submitted.warning:
        tell(f"warning: {submitted.warning}")
    if args.output == "json":
        from cli.jsonout import show, show_line

        (show_line if args.wait else show)(submitted)
    else:
        # The id alone, so that a script can take it as it is.
        print(submitted.job_id, flush=True)


async def _wait(there: Coordinator, job_id: str, output: str) -> int:
    view, style = View(), Style.of(sys.stderr)
    try:
        async with aclosing(watch_job(there, job_id)) as responses:
            async for response in responses:
                for line in lines(view, view.apply(response), style):
                    print(line, file=sys.stderr, flush=True)
                if view.ended:
                    break
    except asyncio.CancelledError:
        tell(f"job {job_id} goes on; `muster terminate {job_id}` ends it")
        raise
    if output == "json":
        from cli.jsonout import show_line

        show_line(
            await there.jobs.DescribeJobs(
                DescribeJobsRequest(jobs=[job_id]), timeout=ANSWER_SECONDS
            )
        )
    return exit_code(view.job)
