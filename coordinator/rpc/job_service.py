"""JobService: convert, ask or read, render. Decides nothing."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from coordinator.core import inputs as i
from coordinator.core.arn import Arns, JobRef, definition_ref, job_ref, queue_name
from coordinator.core.definition import JobDefinition, Submission
from coordinator.core.errors import InvalidArgument
from coordinator.core.events import TimeLimitAction
from coordinator.core.explain import explain, status_reason
from coordinator.core.ids import JobId
from coordinator.core.leftovers import leftovers, namesakes
from coordinator.core.names import quote
from coordinator.core.settings import COMPUTE_ENVIRONMENT
from coordinator.core.state import ClusterState, Job
from coordinator.core.validation import validate_reason
from coordinator.rpc import catalogue
from coordinator.rpc.convert import from_proto, refuse
from coordinator.rpc.errors import answering
from coordinator.rpc.job_lookup import one_job, whole_job
from coordinator.rpc.listing import JobListing
from coordinator.rpc.node_log import node_log
from coordinator.rpc.ports import Cluster
from coordinator.rpc.render import Renderer
from coordinator.rpc.seats import Seats
from coordinator.rpc.sizes import REPLY_BYTES_MAX
from coordinator.rpc.turns import Turns, too_much
from coordinator.rpc.watching import JobWatch
from muster.v1 import job_pb2
from muster.v1 import job_service_pb2 as pb
from muster.v1.job_service_pb2_grpc import JobServiceServicer

_DESCRIBED_MAX = 100
_LARGE_BYTES = 4 * 1024
SMALL_MAX, LARGE_MAX = 200, 8
"""Definitions and submissions in one step of the machine: about 30 ms of it either way."""

Detail: TypeAlias = job_pb2.JobDetail
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@answering
class JobService(JobServiceServicer):
    """AWS Batch's operations, and WatchJob, GetNodeLog and ExplainJob, which AWS lacks."""

    def __init__(self, cluster: Cluster, arns: Arns) -> None:
        self._cluster = cluster
        self._arns = arns
        self._renderer = Renderer(arns)
        self._turns = Turns(cluster)
        self._readers = Seats()
        self._small, self._large = asyncio.Semaphore(SMALL_MAX), asyncio.Semaphore(LARGE_MAX)
        self._listing = JobListing(self._turns, self._renderer)

    # definitions

    async def RegisterJobDefinition(
        self, request: pb.RegisterJobDefinitionRequest, context: Context
    ) -> pb.RegisterJobDefinitionResponse:
        asked = i.RegisterDefinition(
            definition=from_proto(JobDefinition, request), size_bytes=_size_bytes(request)
        )
        made = cast("JobDefinition", await self._ask(asked))
        name, revision = made.job_definition_name, made.revision
        return pb.RegisterJobDefinitionResponse(
            job_definition_name=name,
            job_definition_arn=self._arns.job_definition(name, revision),
            revision=revision,
        )

    async def DeregisterJobDefinition(
        self, request: pb.DeregisterJobDefinitionRequest, context: Context
    ) -> pb.DeregisterJobDefinitionResponse:
        name, revision = definition_ref(request.job_definition)
        if revision is None:
            raise InvalidArgument(
                f"jobDefinition {quote(request.job_definition)} names no revision; "
                f"write {name}:<revision>, or the ARN"
            )
        await self._cluster.ask(i.DeregisterDefinition(name=name, revision=revision))
        return pb.DeregisterJobDefinitionResponse()

    async def DescribeJobDefinitions(
        self, request: pb.DescribeJobDefinitionsRequest, context: Context
    ) -> pb.DescribeJobDefinitionsResponse:
        return await catalogue.definitions(self._turns, request, self._renderer)

    # jobs

    async def SubmitJob(
        self, request: pb.SubmitJobRequest, context: Context
    ) -> pb.SubmitJobResponse:
        asked = i.Submit(
            submission=from_proto(Submission, request),
            size_bytes=_size_bytes(request),
            new_job_id=JobId(str(uuid.uuid4())),
        )
        job_id = cast("JobId", await self._ask(asked))
        warning = await self._cluster.read(
            lambda state: namesakes(state, self._cluster.settings, request.job_name)
        )
        return pb.SubmitJobResponse(
            job_arn=self._arns.job(job_id),
            job_name=request.job_name,
            job_id=job_id,
            warning=warning or None,
        )

    async def DescribeJobs(
        self, request: pb.DescribeJobsRequest, context: Context
    ) -> pb.DescribeJobsResponse:
        if not request.jobs:
            raise InvalidArgument("jobs is required: 1 to 100 job ids or ARNs")
        if len(request.jobs) > _DESCRIBED_MAX:
            # The two spaces are AWS's own.
            raise InvalidArgument(f"Maximum number of jobs supported is  {_DESCRIBED_MAX}")
        refs = [ref for ref in map(_job_ref_or_none, request.jobs) if ref is not None]
        reply = pb.DescribeJobsResponse()
        await self._turns.put(await self._details(refs), reply.jobs)
        return reply

    async def _details(self, refs: Sequence[JobRef]) -> list[job_pb2.JobDetail]:
        """Memory first: a job only ever moves from there to the journal, so none is missed."""

        def live(state: ClusterState, key: tuple[int, JobRef]) -> Detail | None:
            job = state.jobs.get(JobId(key[1].job_id))
            return self._detail(state, job, key[1]) if job is not None else None

        keys = list(enumerate(refs))
        shown, more = await self._turns.fill(keys, live, len(keys))
        found = dict(shown)
        ended: dict[JobId, list[tuple[int, JobRef]]] = {}
        for key in keys:
            if key not in found:
                ended.setdefault(JobId(key[1].job_id), []).append(key)
        for job_id, theirs in ended.items():
            job = None if more else await self._turns.ended_job(job_id)
            if job is not None:
                shown, more = await self._ended_details(job, theirs)
                found |= dict(shown)
                more = more or sum(each.ByteSize() for each in found.values()) > REPLY_BYTES_MAX
        if more:
            raise too_much("jobs", len(refs), len(found))
        return [found[key] for key in keys if key in found]

    async def _ended_details(
        self, job: Job, keys: Sequence[tuple[int, JobRef]]
    ) -> tuple[list[tuple[tuple[int, JobRef], Detail]], bool]:
        return await self._turns.fill(
            keys, lambda state, key: self._detail(state, job, key[1]), len(keys)
        )

    def _detail(self, state: ClusterState, job: Job, ref: JobRef) -> Detail | None:
        if ref.node_index is not None:
            return self._renderer.node(job, ref.node_index)
        settings = self._cluster.settings
        waiting = status_reason(state, settings, job)
        return self._renderer.job(job, waiting, leftovers(state, settings, job))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        return await self._listing.answer(request)

    async def CancelJob(
        self, request: pb.CancelJobRequest, context: Context
    ) -> pb.CancelJobResponse:
        job_id, node_index = job_ref(request.job_id)
        validate_reason(request.reason)
        await self._cluster.ask(
            i.Cancel(job_id=JobId(job_id), node_index=node_index, reason=request.reason)
        )
        return pb.CancelJobResponse()

    async def TerminateJob(
        self, request: pb.TerminateJobRequest, context: Context
    ) -> pb.TerminateJobResponse:
        job_id, node_index = job_ref(request.job_id)
        validate_reason(request.reason)
        await self._cluster.ask(
            i.Terminate(job_id=JobId(job_id), node_index=node_index, reason=request.reason)
        )
        return pb.TerminateJobResponse()

    async def _ask(self, asked: i.RegisterDefinition | i.Submit) -> object:
        """What is long to check. All that wait for one step are checked in it, so few may."""
        async with self._small if asked.size_bytes < _LARGE_BYTES else self._large:
            return await self._cluster.ask(asked)

    # queues

    async def CreateJobQueue(
        self, request: pb.CreateJobQueueRequest, context: Context
    ) -> pb.CreateJobQueueResponse:
        _check_queue(request)
        if request.job_queue_type not in ("", "ECS"):
            raise InvalidArgument(
                f"jobQueueType is {quote(request.job_queue_type)}; it must be ECS or absent"
            )
        await self._cluster.ask(
            i.CreateQueue(
                name=request.job_queue_name,
                priority=request.priority,
                enabled=request.state != job_pb2.DISABLED,
                tags=dict(sorted(request.tags.items())),
                time_limits=_time_limits(request),
            )
        )
        return pb.CreateJobQueueResponse(
            job_queue_name=request.job_queue_name,
            job_queue_arn=self._arns.job_queue(request.job_queue_name),
        )

    async def UpdateJobQueue(
        self, request: pb.UpdateJobQueueRequest, context: Context
    ) -> pb.UpdateJobQueueResponse:
        name = queue_name(request.job_queue)
        _check_queue(request)
        await self._cluster.ask(
            i.UpdateQueue(
                name=name,
                priority=request.priority if request.HasField("priority") else None,
                enabled=request.state == job_pb2.ENABLED if request.state else None,
                time_limits=_time_limits(request) or None,
            )
        )
        return pb.UpdateJobQueueResponse(
            job_queue_name=name, job_queue_arn=self._arns.job_queue(name)
        )

    async def DeleteJobQueue(
        self, request: pb.DeleteJobQueueRequest, context: Context
    ) -> pb.DeleteJobQueueResponse:
        await self._cluster.ask(i.DeleteQueue(name=queue_name(request.job_queue)))
        return pb.DeleteJobQueueResponse()

    async def DescribeJobQueues(
        self, request: pb.DescribeJobQueuesRequest, context: Context
    ) -> pb.DescribeJobQueuesResponse:
        return await catalogue.queues(self._turns, request, self._renderer)

    # beyond AWS

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchJobResponse]:
        watch = JobWatch(self._cluster, self._renderer, whole_job(request.job_id))
        with self._readers.one():
            async with aclosing(watch.responses()) as responses:
                async for response in responses:
                    yield response

    async def GetNodeLog(
        self, request: pb.GetNodeLogRequest, context: Context
    ) -> AsyncIterator[pb.GetNodeLogResponse]:
        with self._readers.one():
            async with aclosing(node_log(self._cluster, request)) as responses:
                async for response in responses:
                    yield response

    async def ExplainJob(
        self, request: pb.ExplainJobRequest, context: Context
    ) -> pb.ExplainJobResponse:
        def query(state: ClusterState, job: Job) -> pb.ExplainJobResponse:
            found = explain(state, self._cluster.settings, job)
            reply = pb.ExplainJobResponse(
                status=job_pb2.JobStatus.Value(job.state),
                summary=found.summary,
                status_reason=found.status_reason,
                needs=found.needs,
                nodes=found.nodes,
                hosts=[
                    pb.HostVerdict(
                        host_id=verdict.host_id, usable=verdict.usable, reason=verdict.reason
                    )
                    for verdict in found.hosts
                ],
            )
            while reply.hosts and reply.ByteSize() > REPLY_BYTES_MAX:
                del reply.hosts[-(len(reply.hosts) // 10 + 1) :]
            reply.hosts_left_out = len(found.hosts) - len(reply.hosts)
            return reply

        return await one_job(self._cluster, whole_job(request.job_id), query)


def _size_bytes(request: Message) -> int:
    """How long the request is as JSON without spaces: AWS limits the JSON that it is sent, and a
    definition must not fit or fail to fit by the encoding it came in."""
    text = json.dumps(MessageToDict(request), separators=(",", ":"), ensure_ascii=False)
    return len(text.encode())


def _job_ref_or_none(text: str) -> JobRef | None:
    """None for what cannot be a job's name: AWS leaves out whatever it does not know."""
    try:
        return job_ref(text)
    except InvalidArgument:
        return None


def _check_queue(request: pb.CreateJobQueueRequest | pb.UpdateJobQueueRequest) -> None:
    refuse(request, "scheduling_policy_arn", "service_environment_order")
    if request.state not in job_pb2.JobQueueState.values():
        raise InvalidArgument(f"state is {request.state}; it must be ENABLED or DISABLED")
    for index, each in enumerate(request.compute_environment_order):
        name = each.compute_environment
        if name != COMPUTE_ENVIRONMENT and not name.endswith(
            f":compute-environment/{COMPUTE_ENVIRONMENT}"
        ):
            raise InvalidArgument(
                f"computeEnvironmentOrder[{index}].computeEnvironment is {quote(name)}; there is "
                f"one compute environment, {COMPUTE_ENVIRONMENT}, with all hosts"
            )


def _time_limits(
    request: pb.CreateJobQueueRequest | pb.UpdateJobQueueRequest,
) -> tuple[TimeLimitAction, ...]:
    return tuple(
        from_proto(TimeLimitAction, each, f"jobStateTimeLimitActions[{index}]")
        for index, each in enumerate(request.job_state_time_limit_actions)
    )
