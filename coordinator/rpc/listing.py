"""ListJobs: the jobs of a queue, or the nodes of a job (aws-batch-spec section 12)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from heapq import nlargest

from coordinator.core.arn import definition_ref, queue_name
from coordinator.core.errors import InvalidArgument, NotFound
from coordinator.core.explain import status_reason
from coordinator.core.names import quote
from coordinator.core.state import ClusterState, Job
from coordinator.core.states import JobState
from coordinator.journal.port import Record, RecordQuery
from coordinator.rpc.convert import refuse
from coordinator.rpc.job_lookup import one_job, whole_job
from coordinator.rpc.paging import last_seen, page, page_size
from coordinator.rpc.ports import Cluster
from coordinator.rpc.render import Renderer
from muster.v1.job_pb2 import JobStatus, JobSummary
from muster.v1.job_service_pb2 import KeyValuesPair, ListJobsRequest, ListJobsResponse

_PAGE_MAX = 1000
_PAGE_MAX_FILTERED = 100
_MILLISECONDS = re.compile(r"[0-9]{1,15}")

Age = tuple[int, str]
"""When a job was created, and its id: the order of a listing, newest first."""


@dataclass(frozen=True, slots=True)
class JobListing:
    """Answers ListJobs."""

    cluster: Cluster
    renderer: Renderer

    async def answer(self, request: ListJobsRequest) -> ListJobsResponse:
        refuse(request, "array_job_id")
        if request.HasField("job_queue") == request.HasField("multi_node_job_id"):
            raise InvalidArgument("give exactly one of jobQueue and multiNodeJobId")
        if request.HasField("job_queue"):
            return await self._jobs(request)
        return await self._nodes(request)

    async def _jobs(self, request: ListJobsRequest) -> ListJobsResponse:
        queue = queue_name(request.job_queue)
        query = replace(_query(request), job_queue=queue)
        size = _size(request, _PAGE_MAX_FILTERED if request.filters else _PAGE_MAX)
        after = last_seen(request.next_token, "jobs", (0, ""))
        # Memory first: a job that leaves it meanwhile is then found twice, never missed.
        found: dict[Age, JobSummary | Record] = {}
        found |= await self.cluster.read(
            lambda state: self._in_memory(state, queue, query, after, size + 1)
        )
        if query.status is None or JobState(query.status).is_terminal:
            for record in await self.cluster.records(query, after=after, limit=size + 1):
                found.setdefault((record.created_at_ms, record.job_id), record)
        ages, next_token = page(sorted(found, reverse=True), size, "jobs", lambda age: age)
        return ListJobsResponse(
            job_summary_list=[await self._summary(found[age]) for age in ages],
            next_token=next_token,
        )

    def _in_memory(
        self, state: ClusterState, queue: str, query: RecordQuery, after: Age | None, limit: int
    ) -> dict[Age, JobSummary]:
        if queue not in state.queues:
            raise NotFound(f"JobQueue {queue} not found.")
        jobs = (state.jobs[job_id] for job_id in state.queues[queue].live)
        older = (job for job in jobs if after is None or _age(job) < after)
        selected = nlargest(limit, (job for job in older if _selects(query, job)), key=_age)
        settings = self.cluster.settings
        return {
            _age(job): self.renderer.job_summary(job, status_reason(state, settings, job))
            for job in selected
        }

    async def _summary(self, found: JobSummary | Record) -> JobSummary:
        if isinstance(found, JobSummary):
            return found
        return self.renderer.job_summary(await self.cluster.decode_job(found), None)

    async def _nodes(self, request: ListJobsRequest) -> ListJobsResponse:
        job_id = whole_job(request.multi_node_job_id, "multiNodeJobId")
        if request.filters:
            raise InvalidArgument("filters are for jobs; of nodes, list one jobStatus at a time")
        status = _status(request)
        size = _size(request, _PAGE_MAX)
        (after,) = last_seen(request.next_token, "nodes", (0,)) or (-1,)

        def summaries(state: ClusterState, job: Job) -> list[JobSummary]:
            if not job.spec.is_multinode:
                raise InvalidArgument(f"multiNodeJobId {job_id} is not a multi-node job")
            rows = (
                self.renderer.node_summary(job, index)
                for index in range(after + 1, job.spec.num_nodes)
            )
            return [row for row in rows if row is not None and JobStatus.Name(row.status) == status]

        rows, next_token = page(
            await one_job(self.cluster, job_id, summaries),
            size,
            "nodes",
            lambda row: (row.node_properties.node_index,),
        )
        return ListJobsResponse(job_summary_list=rows, next_token=next_token)


def _size(request: ListJobsRequest, most: int) -> int:
    return page_size(request.max_results if request.HasField("max_results") else None, most)


def _status(request: ListJobsRequest) -> str:
    if not request.job_status:
        return JobState.RUNNING
    if request.job_status not in JobStatus.values():
        words = ", ".join(JobState)
        raise InvalidArgument(f"jobStatus is {request.job_status}; it must be one of {words}")
    return JobStatus.Name(request.job_status)


def _query(request: ListJobsRequest) -> RecordQuery:
    """What the request selects. A filter makes the status not count (aws-batch-spec section 12)."""
    if not request.filters:
        return RecordQuery(status=_status(request))
    if len(request.filters) > 1:
        raise InvalidArgument(f"filters has {len(request.filters)} elements; at most one may be")
    return _filter(request.filters[0])


def _filter(given: KeyValuesPair) -> RecordQuery:
    if len(given.values) != 1:
        raise InvalidArgument(f"filters[0].values has {len(given.values)} elements; it must be one")
    text = given.values[0]
    match given.name:
        case "JOB_NAME":
            return RecordQuery(job_name=_pattern(text), name_prefix=text.endswith("*"))
        case "JOB_DEFINITION" if text.endswith("*"):
            return RecordQuery(definition_name=_pattern(text), definition_prefix=True)
        case "JOB_DEFINITION":
            name, revision = definition_ref(text)
            return RecordQuery(definition_name=name, definition_revision=revision)
        case "BEFORE_CREATED_AT":
            return RecordQuery(created_before_ms=_milliseconds(text))
        case "AFTER_CREATED_AT":
            return RecordQuery(created_after_ms=_milliseconds(text))
        case "SHARE_IDENTIFIER":
            raise InvalidArgument(
                "filters[0].name SHARE_IDENTIFIER is not supported: a job queue is first in, "
                "first out"
            )
    raise InvalidArgument(
        f"filters[0].name is {quote(given.name)}; it must be one of JOB_NAME, JOB_DEFINITION, "
        "BEFORE_CREATED_AT, AFTER_CREATED_AT"
    )


def _pattern(text: str) -> str:
    name = text.removesuffix("*")
    if "*" in name:
        raise InvalidArgument(f"filters[0].values[0] {quote(text)} may have one * at its end only")
    return name


def _milliseconds(text: str) -> int:
    if not _MILLISECONDS.fullmatch(text):
        raise InvalidArgument(
            f"filters[0].values[0] {quote(text)} is not a time in milliseconds since 1970"
        )
    return int(text)


def _age(job: Job) -> Age:
    return job.created_at_ms, job.job_id


def _selects(query: RecordQuery, job: Job) -> bool:
    """What the journal does with records, for a job in memory. Its queue is right already."""
    spec = job.spec
    before, after = query.created_before_ms, query.created_after_ms
    return (
        query.status in (None, job.state)
        and query.definition_revision in (None, spec.definition_revision)
        and (before is None or job.created_at_ms < before)
        and (after is None or job.created_at_ms > after)
        and (
            query.job_name is None
            or _names(query.job_name.lower(), spec.job_name.lower(), query.name_prefix)
        )
        and (
            query.definition_name is None
            or _names(query.definition_name, spec.definition_name, query.definition_prefix)
        )
    )


def _names(wanted: str, name: str, is_prefix: bool) -> bool:
    return name.startswith(wanted) if is_prefix else name == wanted
