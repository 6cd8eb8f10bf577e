"""Streams that go on after the coordinator was away.

The coordinator may be restarted at any time; what it answered before is durable, so a reader
resumes where it was. Only the first call of a stream fails for good: then the address is more
likely wrong than the coordinator away.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable

from grpc.aio import AioRpcError

from cli.connect import RETRYABLE, Backoff, Coordinator
from muster.v1.job_service_pb2 import (
    GetNodeLogRequest,
    GetNodeLogResponse,
    WatchJobRequest,
    WatchJobResponse,
)

HasEnded = Callable[[], Awaitable[bool]]
"""Whether a job has ended, so that a host which has gone will hardly come back."""

_PATIENCE_AT_END_SECONDS = 10
"""How long to wait at least for output that is out of reach, though its job has ended."""


def tell(text: str) -> None:
    """A line about the command itself, apart from what it was asked for."""
    print(f"muster: {text}", file=sys.stderr, flush=True)


async def watch_job(
    coordinator: Coordinator, job_id: str
) -> AsyncGenerator[WatchJobResponse, None]:
    """A job's state and its changes until the stream ends; says when it has to reconnect.

    After a reconnect the whole state comes again, with `reset`.
    """
    backoff, connected = Backoff(), False
    while True:
        call = coordinator.jobs.WatchJob(WatchJobRequest(job_id=job_id))
        try:
            async for response in call:
                if backoff.waited:
                    tell("connected again")
                    backoff.reset()
                connected = True
                yield response
            return
        except AioRpcError as error:
            if error.code() not in RETRYABLE or not connected:
                raise
            if not backoff.waited:
                tell(
                    f"lost the coordinator at {coordinator.address} ({error.details()}); "
                    "the job goes on, connecting again"
                )
        finally:
            call.cancel()
        await backoff.wait()


async def node_log(
    coordinator: Coordinator, request: GetNodeLogRequest, has_ended: HasEnded
) -> AsyncGenerator[GetNodeLogResponse, None]:
    """One node's output from `request.offset` on, each byte once.

    Following, what is out of reach is asked for again: as long as the job goes on, since its host
    may come back at any time, and for a while after it has ended. Then what is kept of it is asked
    for, and without `follow` at once. AioRpcError(UNAVAILABLE) when there is nothing.
    """
    request = GetNodeLogRequest.FromString(request.SerializeToString())
    clock = asyncio.get_running_loop().time
    follow, backoff, lost_at, is_hopeless = request.follow, Backoff(), 0.0, False
    while True:
        call = coordinator.jobs.GetNodeLog(request)
        try:
            async for chunk in call:
                if backoff.waited:
                    tell(f"the output of {request.job_id} goes on")
                    backoff.reset()
                    request.follow, is_hopeless = follow, False
                request.offset = chunk.offset + len(chunk.data)
                yield chunk
            return
        except AioRpcError as error:
            if error.code() not in RETRYABLE or not request.follow:
                raise
            if not backoff.waited:
                # Counted from here: a node may have been silent for long before it was lost.
                lost_at = clock()
                tell(f"lost the output of {request.job_id} ({error.details()}); trying again")
        finally:
            call.cancel()
        # Hopeless only with one more try: a host that comes back with the news that its node has
        # ended has the rest of the output too.
        request.follow = not is_hopeless
        is_hopeless = clock() - lost_at >= _PATIENCE_AT_END_SECONDS and await has_ended()
        await backoff.wait()
