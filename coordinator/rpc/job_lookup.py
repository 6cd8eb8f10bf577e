"""Jobs wherever they are: those that live in memory, those that have ended in the journal.

A job only ever moves from memory to the journal, so looking in this order misses none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from coordinator.core.arn import job_ref
from coordinator.core.errors import InvalidArgument, NotFound
from coordinator.core.ids import JobId
from coordinator.core.names import quote
from coordinator.core.state import ClusterState, Job
from coordinator.rpc.ports import Cluster

T = TypeVar("T")

Query = Callable[[ClusterState, Job], T]
"""Must copy what it keeps: the job goes on changing."""


async def each_job(cluster: Cluster, job_ids: Sequence[JobId], query: Query[T]) -> dict[JobId, T]:
    """The query's value of every job that is known."""

    def in_memory(state: ClusterState) -> dict[JobId, T]:
        return {id_: query(state, state.jobs[id_]) for id_ in job_ids if id_ in state.jobs}

    found = await cluster.read(in_memory)
    ended = []
    for job_id in job_ids:
        record = await cluster.record(job_id) if job_id not in found else None
        if record is not None:
            ended.append(await cluster.decode_job(record))
    if ended:
        found |= await cluster.read(lambda state: {job.job_id: query(state, job) for job in ended})
    return found


async def one_job(cluster: Cluster, job_id: JobId, query: Query[T]) -> T:
    """The query's value of a job. NotFound if there is none, or none any more."""
    found = await each_job(cluster, [job_id], query)
    if job_id not in found:
        raise NotFound(f"Job {job_id} does not exist")
    return found[job_id]


def whole_job(text: str, where: str = "jobId") -> JobId:
    """The id in a job's id or ARN. InvalidArgument also for a node's."""
    job_id, node_index = job_ref(text, where)
    if node_index is not None:
        raise InvalidArgument(f"{where} {quote(text)} is one node; give its job, {job_id}")
    return JobId(job_id)
