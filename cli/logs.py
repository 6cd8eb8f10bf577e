"""`muster logs`: the output of a job's nodes, merged line by line, or of one node as it is."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import BinaryIO, Protocol

import grpc
from grpc.aio import AioRpcError

from cli.arguments import INT64_MAX, Parser, whole
from cli.connect import ANSWER_SECONDS, RETRYABLE, Coordinator, coordinator
from cli.failure import ExitCode, Failure
from cli.stream import node_log, tell, watch_job
from cli.view import View
from muster.v1.job_pb2 import JobStatus
from muster.v1.job_service_pb2 import (
    DescribeJobsRequest,
    GetNodeLogRequest,
    GetNodeLogResponse,
)

_LAUNCHED = ("STARTING", "RUNNING", "STOPPING", "SUCCEEDED", "FAILED")


def arguments(parser: Parser) -> None:
    parser.add_argument(
        "job", metavar="JOB[#N]", help="a job: all its nodes, each line after `#N | `; or one node"
    )
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on until the output is complete"
    )
    parser.add_argument(
        "--attempt",
        type=whole(1),
        metavar="K",
        help="of this attempt, from 1 (default: the newest)",
    )
    parser.add_argument(
        "--tail",
        type=whole(1, INT64_MAX),
        metavar="BYTES",
        help="only so many last bytes of each node",
    )


async def run(args: argparse.Namespace) -> int:
    if args.follow and args.attempt and "#" not in args.job:
        raise Failure(
            "-f follows a job into its next attempts, so --attempt has no meaning with it; "
            f"one node of one attempt is {args.job}#N",
            ExitCode.USAGE,
        )
    request = GetNodeLogRequest(
        job_id=args.job, attempt=args.attempt, follow=args.follow, offset=-(args.tail or 0)
    )
    sink: Sink = Documents() if args.output == "json" else Raw(sys.stdout.buffer)
    async with coordinator(args) as there:
        # Asked first for a single node too: whoever cannot reach the coordinator, or has the wrong
        # id, should know at once, while a host that is out of reach is waited for.
        nodes = await _count_nodes(there, args.job.partition("#")[0])
        if nodes and "#" not in args.job:
            return await merged(there, request, nodes, as_json=args.output == "json")
        try:
            await _read(there, request, sink)
        except AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            # The coordinator has just answered: it is the host that is out of reach.
            what = f"the output of {args.job} is not complete: {error.details()}"
            raise Failure(what, ExitCode.UNREACHABLE) from error
        return ExitCode.OK


async def merged(
    there: Coordinator, request: GetNodeLogRequest, nodes: int, *, as_json: bool = False
) -> int:
    """Print the output of all nodes of a job. Following, in order of arrival; else by node."""
    out = sys.stdout.buffer

    def sink_of(index: int) -> Sink:
        return Documents() if as_json else Prefixed(out, index)

    if request.follow:
        return await _Following(there, request, sink_of).run()
    missing = [await _read_node(there, request, index, sink_of(index)) for index in range(nodes)]
    return ExitCode.FAILED if any(missing) else ExitCode.OK


class _Following:
    """One reader for each node and attempt, from the moment that WatchJob shows it launched."""

    def __init__(
        self,
        there: Coordinator,
        request: GetNodeLogRequest,
        sink_of: Callable[[int], Sink],
    ) -> None:
        self._there, self._request, self._sink_of = there, request, sink_of
        self._seen: set[tuple[int, int]] = set()

    async def run(self) -> int:
        try:
            async with asyncio.TaskGroup() as group:
                readers = await self._discover(group)
        except ExceptionGroup as failed:
            # The first failure ends all readers; it is what the user has to know.
            raise failed.exceptions[0] from failed
        return ExitCode.FAILED if any(reader.result() for reader in readers) else ExitCode.OK

    async def _discover(self, group: asyncio.TaskGroup) -> list[asyncio.Task[bool]]:
        view = View()
        readers: list[asyncio.Task[bool]] = []
        async with aclosing(watch_job(self._there, self._request.job_id)) as responses:
            async for response in responses:
                for node in view.apply(response).nodes:
                    key = (node.attempt, node.node_index)
                    if node.state in _LAUNCHED and key not in self._seen:
                        self._seen.add(key)
                        readers.append(group.create_task(self._read(*key)))
        return readers

    async def _read(self, attempt: int, index: int) -> bool:
        request = GetNodeLogRequest()
        request.CopyFrom(self._request)
        request.attempt = attempt
        return await _read_node(self._there, request, index, self._sink_of(index))


async def _read_node(
    there: Coordinator,
    request: GetNodeLogRequest,
    index: int,
    sink: Sink,
) -> bool:
    """Read one node among others: what is missing of it is told, and does not stop the others.
    Whether something is missing."""
    job_id, request = request.job_id, GetNodeLogRequest.FromString(request.SerializeToString())
    request.job_id = f"{job_id}#{index}"
    try:
        await _read(there, request, sink)
    except AioRpcError as error:
        # A node that was never launched, in this attempt, has no output to miss.
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return False
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        tell(f"the output of #{index} is not complete: {error.details()}")
        return True
    return False


async def _read(there: Coordinator, request: GetNodeLogRequest, sink: Sink) -> None:
    async def has_ended() -> bool:
        return await _has_ended(there, request.job_id.partition("#")[0])

    try:
        async with aclosing(node_log(there, request, has_ended)) as chunks:
            async for chunk in chunks:
                if chunk.HasField("notice"):
                    tell(f"{request.job_id}: {chunk.notice}")
                sink.take(chunk)
    finally:
        sink.end()


class Sink(Protocol):
    """Where one node's output goes. A chunk may be empty."""

    def take(self, chunk: GetNodeLogResponse) -> None: ...

    def end(self) -> None:
        """Nothing more comes, for whatever reason."""


class Raw:
    """One node's bytes, as they are."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def take(self, chunk: GetNodeLogResponse) -> None:
        self._out.write(chunk.data)
        self._out.flush()

    def end(self) -> None:
        """A last line without newline stays without."""


class Prefixed:
    """One node's whole lines, each after `#N | `, so that nodes never share a line."""

    def __init__(self, out: BinaryIO, index: int) -> None:
        self._out = out
        self._prefix = f"#{index} | ".encode()
        self._partial: list[bytes] = []

    def take(self, chunk: GetNodeLogResponse) -> None:
        head, newline, rest = chunk.data.rpartition(b"\n")
        if newline:
            whole = b"".join([*self._partial, head])
            self._partial = []
            self._write(whole)
        if rest:
            self._partial.append(rest)

    def end(self) -> None:
        """Complete a last line that has no newline."""
        if self._partial:
            self._write(b"".join(self._partial))
            self._partial = []

    def _write(self, lines: bytes) -> None:
        self._out.write(b"".join(self._prefix + line + b"\n" for line in lines.split(b"\n")))
        self._out.flush()


class Documents:
    """The stream's messages as JSON."""

    def take(self, chunk: GetNodeLogResponse) -> None:
        from cli.jsonout import show_line

        show_line(chunk)

    def end(self) -> None:
        """A stream of documents has no end of its own."""


async def _count_nodes(there: Coordinator, job_id: str) -> int:
    """How many nodes a job has; 0 for a job of one container, which has no `#N` records."""
    request = DescribeJobsRequest(jobs=[job_id])
    found = (await there.jobs.DescribeJobs(request, timeout=ANSWER_SECONDS)).jobs
    if not found:
        raise Failure(f"there is no job {job_id}; `muster list` shows all", ExitCode.NOT_FOUND)
    return found[0].node_properties.num_nodes


async def _has_ended(there: Coordinator, job_id: str) -> bool:
    """Whether a job has ended; not so while the coordinator is away, since nobody knows."""
    try:
        request = DescribeJobsRequest(jobs=[job_id])
        found = (await there.jobs.DescribeJobs(request, timeout=ANSWER_SECONDS)).jobs
    except AioRpcError as error:
        if error.code() in (*RETRYABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return False
        raise
    return not found or found[0].status in (JobStatus.SUCCEEDED, JobStatus.FAILED)
