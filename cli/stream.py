"""Streams that go on after the coordinator was away.

The coordinator may be restarted at any time; what it answered before is durable, so a reader
resumes where it was. Only the first call of a stream fails for good: then the address is more
likely wrong than the coordinator away.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable

from grpc.aio import AioRpcError

from cli.connect import RETRYABLE, Backoff, Coordinator
from muster.v1.job_service_pb2 import (
    GetNodeLogRequest,
    GetNodeLogResponse,
    WatchJobRequest,
    WatchJobResponse,
)


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
    coordinator: Coordinator, request: GetNodeLogRequest, patience_seconds: Callable[[], float]
) -> AsyncGenerator[GetNodeLogResponse, None]:
    """One node's output from `request.offset` on, each byte once.

    Raises AioRpcError(UNAVAILABLE) when it has been out of reach for `patience_seconds`.
    """
    request = GetNodeLogRequest.FromString(request.SerializeToString())
    clock = asyncio.get_running_loop().time
    backoff, reached_at = Backoff(), clock()
    while True:
        call = coordinator.jobs.GetNodeLog(request)
        try:
            async for chunk in call:
                backoff.reset()
                reached_at = clock()
                request.offset = chunk.offset + len(chunk.data)
                yield chunk
            return
        except AioRpcError as error:
            if error.code() not in RETRYABLE or clock() - reached_at >= patience_seconds():
                raise
            if not backoff.waited:
                tell(f"lost the output of {request.job_id} ({error.details()}); trying again")
        finally:
            call.cancel()
        await backoff.wait()
