"""GetNodeLog: one node's output, from the host that has it, else the last bytes that are kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from coordinator.core.arn import job_ref
from coordinator.core.errors import InvalidArgument, NotFound
from coordinator.core.ids import JobId, NodeKey
from coordinator.core.state import Job
from coordinator.core.unreadable import names_of
from coordinator.journal.port import LogTail
from coordinator.rpc.errors import Stopping
from coordinator.rpc.job_lookup import one_job
from coordinator.rpc.ports import Output, Unreachable
from coordinator.rpc.render import newest_run
from muster.v1.job_service_pb2 import GetNodeLogRequest, GetNodeLogResponse


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which output; None of `node_index` is the main node, of `attempt` the newest launch."""

    job_id: JobId
    node_index: int | None
    attempt: int | None


@dataclass(frozen=True, slots=True)
class _Found:
    """The node's run, or why there is none; `may_come` is true while it could still be launched."""

    key: NodeKey | None
    missing: str = ""
    may_come: bool = False


async def node_log(
    cluster: Output, request: GetNodeLogRequest
) -> AsyncGenerator[GetNodeLogResponse, None]:
    """Pieces of output in order. Following, it waits for a node that is still to be launched."""
    key = await _launched(cluster, _wanted(request), wait=request.follow)
    position = request.offset
    known = await cluster.log_tail(key)
    try:
        pieces = cluster.read_log(key, offset=request.offset, follow=request.follow)
        async with aclosing(pieces):
            async for offset, data in pieces:
                notice = None
                if 0 <= position < offset:
                    notice = f"bytes {position} to {offset - 1} are not kept any more"
                position = offset + len(data)
                yield GetNodeLogResponse(offset=offset, data=data, notice=notice)
        if known is not None:
            # A disk that was copied, or brought back from before, may have the beginning alone.
            for response in _from_tail(known, position, "the host's own copy ends before them"):
                yield response
    except Unreachable as unreachable:
        tail = await cluster.log_tail(key)
        # Who follows wants all of it, and the host that is back soon has all of it.
        too_little = unreachable.is_passing and request.follow
        if tail is None or (too_little and _first_wanted(tail, position) < tail.offset):
            again = f"from offset {position} on" if position >= 0 else "with the same offset"
            raise Unreachable(f"{unreachable}; ask again {again}") from unreachable
        for response in _from_tail(tail, position, str(unreachable)):
            yield response


def _wanted(request: GetNodeLogRequest) -> _Wanted:
    job_id, node_index = job_ref(request.job_id)
    attempt = request.attempt if request.HasField("attempt") else None
    if attempt is not None and attempt < 1:
        raise InvalidArgument(f"attempt is {attempt}; attempts are counted from 1")
    return _Wanted(JobId(job_id), node_index, attempt)


async def _launched(cluster: Output, wanted: _Wanted, *, wait: bool) -> NodeKey:
    found = await _look_up(cluster, wanted)
    if wait and found.may_come:
        found = await _wait(cluster, wanted)
    if found.key is None:
        raise NotFound(found.missing)
    return found.key


async def _look_up(cluster: Output, wanted: _Wanted) -> _Found:
    return await one_job(cluster, wanted.job_id, lambda _, job: _find(job, wanted))


async def _wait(cluster: Output, wanted: _Wanted) -> _Found:
    """Until the node is launched, or never will be. Stopping when the coordinator goes before."""
    async with AsyncExitStack() as stack:
        try:
            watching = await stack.enter_async_context(
                cluster.watch(wanted.job_id, lambda _, job, __: _find(job, wanted))
            )
        except NotFound:
            # It left memory before it could be watched, so it has changed for the last time.
            return await _look_up(cluster, wanted)
        async for found in watching.updates:
            if not found.may_come:
                return found
    raise Stopping(f"the coordinator stops; job {wanted.job_id} goes on: follow it again")


def _find(job: Job, wanted: _Wanted) -> _Found:
    if job.set_aside:
        where = f"; it may be on {names_of(job.may_be_on)}" if job.may_be_on else ""
        return _Found(None, f"Job {job.job_id} is UNREADABLE: its output cannot be found{where}")
    index = job.spec.main_node if wanted.node_index is None else wanted.node_index
    named = f"{job.job_id}#{index}"
    if wanted.node_index is not None and not (job.spec.is_multinode and index < job.spec.num_nodes):
        return _Found(None, f"Job {named} does not exist")
    run = newest_run(job, index)
    if wanted.attempt is not None:
        attempt = next((each for each in job.attempts if each.number == wanted.attempt), None)
        node = attempt.nodes.get(index) if attempt is not None else None
        if node is not None and node.state.is_launched:
            return _Found(NodeKey(job.job_id, wanted.attempt, index))
        named += f" attempt {wanted.attempt}"
        may_come = not job.state.is_terminal and not (attempt is not None and attempt.over)
    elif run is not None:
        return _Found(NodeKey(job.job_id, run[0].number, index))
    else:
        may_come = not job.state.is_terminal
    if may_come:
        return _Found(
            None,
            f"{named} has not been launched yet: the job is {job.state}; "
            "follow its output to wait for it",
            may_come=True,
        )
    return _Found(
        None,
        f"{named} was never launched, so it has no output; the job is {job.state}"
        f"{f': {job.status_reason}' if job.status_reason else ''}",
    )


def _from_tail(tail: LogTail, position: int, why: str) -> list[GetNodeLogResponse]:
    """What of the wanted bytes is kept."""
    wanted = _first_wanted(tail, position)
    start = max(wanted, tail.offset)
    data = tail.data[start - tail.offset :]
    notice = None
    if start > wanted:
        notice = f"only the last {len(tail.data)} bytes of the output are kept here, and {why}"
    if not data and notice is None:
        return []
    return [GetNodeLogResponse(offset=start, data=data, notice=notice)]


def _first_wanted(tail: LogTail, position: int) -> int:
    """`position` may be negative: from the end."""
    return position if position >= 0 else max(tail.offset + len(tail.data) + position, 0)
