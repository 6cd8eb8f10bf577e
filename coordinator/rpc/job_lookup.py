"""Jobs wherever they are: those that live in memory, those that have ended in the journal.

A job only ever moves from memory to the journal, so looking in this order misses none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from coordinator.core.arn import job_ref
from coordinator.core.errors import InvalidArgument, NotFound
from coordinator.core.ids import JobId
from coordinator.core.names import quote
from coordinator.core.state import ClusterState, Job
from coordinator.rpc.ports import Jobs

T = TypeVar("T")

Query = Callable[[ClusterState, Job], T]
"""Must copy what it keeps: the job goes on changing."""


async def one_job(cluster: Jobs, job_id: JobId, query: Query[T]) -> T:
    """The query's value of a job. NotFound if there is none, or none any more."""

    def in_memory(state: ClusterState) -> list[T]:
        return [query(state, state.jobs[job_id])] if job_id in state.jobs else []

    found = await cluster.read(in_memory)
    if found:
        return found[0]
    record = await cluster.record(job_id)
    if record is None:
        raise NotFound(f"Job {job_id} does not exist")
    job = await cluster.decode_job(record)
    return await cluster.read(lambda state: query(state, job))


def whole_job(text: str, where: str = "jobId") -> JobId:
    """The id in a job's id or ARN. InvalidArgument also for a node's."""
    job_id, node_index = job_ref(text, where)
    if node_index is not None:
        raise InvalidArgument(f"{where} {quote(text)} is one node; give its job, {job_id}")
    return JobId(job_id)
