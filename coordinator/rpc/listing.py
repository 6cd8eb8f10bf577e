"""ListJobs: the jobs of a queue, or the nodes of a job (aws-batch-spec section 12)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from heapq import nlargest
from typing import TypeVar

from coordinator.core.arn import definition_ref, queue_name
from coordinator.core.errors import InvalidArgument, NotFound
from coordinator.core.explain import status_reason
from coordinator.core.ids import JobId
from coordinator.core.names import quote
from coordinator.core.state import ClusterState, Job
from coordinator.core.states import JobState
from coordinator.journal.port import RecordQuery
from coordinator.rpc.convert import refuse
from coordinator.rpc.job_lookup import one_job, whole_job
from coordinator.rpc.paging import last_seen, page_size, token
from coordinator.rpc.render import Renderer
from coordinator.rpc.sizes import ITEM_BYTES, REPLY_BYTES_MAX
from coordinator.rpc.turns import Turns
from muster.v1.job_pb2 import JobStatus, JobSummary
from muster.v1.job_service_pb2 import KeyValuesPair, ListJobsRequest, ListJobsResponse

_PAGE_MAX = 1000
_PAGE_MAX_FILTERED = 100
_FEW_RECORDS, _MOST_RECORDS = 10, 200
_TURN_RECORD_BYTES = 1024 * 1024
_PAGE_RECORD_BYTES = 8 * 1024 * 1024
"""Of records' text, read in one turn and for one page: a 1000-node job's is up to megabytes."""
_MILLISECONDS = re.compile(r"[0-9]{1,15}")

K = TypeVar("K", int, tuple[int, str])

Age = tuple[int, str]
"""When a job was created, and its id: the order of a listing, newest first."""


@dataclass(frozen=True, slots=True)
class JobListing:
    """Answers ListJobs."""

    turns: Turns
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
        found, more = await self._in_memory(queue, query, after, size)
        if query.status is None or JobState(query.status).is_terminal:
            ended, more_ended = await self._ended(query, after, size)
            # What one of the two cut off, the next page begins with: nothing older is shown.
            cuts = [min(part) for part, cut in ((found, more), (ended, more_ended)) if cut and part]
            found = ended | found
            found = {age: row for age, row in found.items() if age >= max(cuts, default=age)}
            more = more or more_ended
        shown, more = _fitting(found, size, more=more)
        reply = ListJobsResponse(next_token=token("jobs", shown[-1]) if more and shown else None)
        await self.turns.put((found[age] for age in shown), reply.job_summary_list)
        return reply

    async def _in_memory(
        self, queue: str, query: RecordQuery, after: Age | None, size: int
    ) -> tuple[dict[Age, JobSummary], bool]:
        """The newest rows of the queue's jobs that have not left memory, and whether there are
        more."""

        def live(state: ClusterState) -> list[JobId]:
            if queue not in state.queues:
                raise NotFound(f"JobQueue {queue} not found.")
            return list(state.queues[queue].live)

        def age(state: ClusterState, job_id: JobId) -> Age | None:
            job = state.jobs.get(job_id)
            if job is None or (after is not None and _age(job) >= after):
                return None
            return _age(job) if _selects(query, job) else None

        def render(state: ClusterState, age: Age) -> JobSummary | None:
            job = state.jobs.get(JobId(age[1]))
            if job is None:
                return None
            waiting = status_reason(state, self.turns.cluster.settings, job)
            return self.renderer.job_summary(job, waiting)

        ages = await self.turns.each(await self.turns.cluster.read(live), age)
        newest = nlargest(size + 1, (each for each in ages if each is not None))
        shown, more = await self.turns.fill(newest, render, size)
        return dict(shown), more

    async def _ended(
        self, query: RecordQuery, after: Age | None, size: int
    ) -> tuple[dict[Age, JobSummary], bool]:
        """The newest rows of jobs that have left memory, and whether there may be more. Records
        are read a few at a time, and no more of them than is worth one page."""
        found: dict[Age, JobSummary] = {}
        read_bytes, few = 0, _FEW_RECORDS
        while True:
            job_records = await self.turns.records(query, after=after, limit=few)
            for record, job in job_records:
                after = record.created_at_ms, record.job_id
                found[after] = self.renderer.job_summary(job, None)
            if len(job_records) < few:
                return found, False
            longest = max(len(record.body) for record, _ in job_records)
            read_bytes += sum(len(record.body) for record, _ in job_records)
            if len(found) > size or read_bytes > _PAGE_RECORD_BYTES:
                return found, True
            few = max(1, min(_MOST_RECORDS, size + 1 - len(found), _TURN_RECORD_BYTES // longest))

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

        rows = {
            row.node_properties.node_index: row
            for row in await one_job(self.turns.cluster, job_id, summaries)
        }
        shown, more = _fitting(rows, size, more=False, newest_first=False)
        return ListJobsResponse(
            job_summary_list=[rows[index] for index in shown],
            next_token=token("nodes", (shown[-1],)) if more else None,
        )


def _fitting(
    rows: Mapping[K, JobSummary], size: int, *, more: bool, newest_first: bool = True
) -> tuple[list[K], bool]:
    """The keys of the rows of one page, in order, and whether there are more."""
    keys = sorted(rows, reverse=newest_first)
    shown: list[K] = []
    room = REPLY_BYTES_MAX
    for key in keys[:size]:
        room -= rows[key].ByteSize() + ITEM_BYTES
        if room < 0 and shown:
            break
        shown.append(key)
    return shown, more or len(shown) < len(keys)


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
