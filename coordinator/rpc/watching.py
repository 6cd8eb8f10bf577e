"""WatchJob: the whole of a job first, then each change as it happens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from coordinator.core.effects import Stamped
from coordinator.core.errors import NotFound
from coordinator.core.explain import status_reason
from coordinator.core.ids import JobId
from coordinator.core.state import ClusterState, Job
from coordinator.core.states import JobState
from coordinator.rpc.errors import Stopping
from coordinator.rpc.job_lookup import one_job
from coordinator.rpc.ports import Cluster, WatchUpdate
from coordinator.rpc.render import Renderer, job_event, node_view
from muster.v1.job_pb2 import JobSummary
from muster.v1.job_service_pb2 import NodeView, WatchJobResponse


@dataclass(frozen=True, slots=True)
class JobWatch:
    """Answers WatchJob for one job."""

    cluster: Cluster
    renderer: Renderer
    job_id: JobId

    async def responses(self) -> AsyncGenerator[WatchJobResponse, None]:
        """Ends when the job has ended and nothing of it is left on any host; Stopping before."""
        async with AsyncExitStack() as stack:
            try:
                updates = await stack.enter_async_context(self.cluster.watch(self.job_id))
            except NotFound:
                yield await self._ended()
                return
            settled = False
            recent: Sequence[Stamped] | None = None
            async for update in updates:
                # Before anything is awaited: the job goes on changing.
                response = self._response(update)
                settled = update.job.state.is_terminal and not update.job.unsettled
                if recent is None:
                    response.reset = True
                    events = await self.cluster.history(self.job_id)
                    recent = [stamped for stamped in events if stamped.at_ms == events[-1].at_ms]
                else:
                    events = _untold(update.events, recent)
                response.events.extend(map(job_event, events))
                if _has_reason(update.job):
                    response.job.CopyFrom(await self._summary(response.job))
                yield response
        if not settled:
            raise Stopping(f"the coordinator stops; job {self.job_id} goes on: watch it again")

    def _response(self, update: WatchUpdate) -> WatchJobResponse:
        return WatchJobResponse(
            job=self.renderer.job_summary(update.job, None),
            nodes=_nodes(update.job, update.nodes),
            events_skipped=update.events_skipped,
            reset=update.reset,
        )

    async def _summary(self, otherwise: JobSummary) -> JobSummary:
        """With the reason why the job waits or stops, which only the whole state can tell."""

        def query(state: ClusterState) -> JobSummary:
            job = state.jobs.get(self.job_id)
            if job is None:
                return otherwise
            waiting = status_reason(state, self.cluster.settings, job)
            return self.renderer.job_summary(job, waiting)

        return await self.cluster.read(query)

    async def _ended(self) -> WatchJobResponse:
        """All there is to say of a job that has left memory. NotFound if there never was one."""

        def query(_: ClusterState, job: Job) -> WatchJobResponse:
            return WatchJobResponse(
                job=self.renderer.job_summary(job, None),
                nodes=_nodes(job, sorted(job.attempts[-1].nodes) if job.attempts else ()),
                reset=True,
            )

        response = await one_job(self.cluster, self.job_id, query)
        response.events.extend(map(job_event, await self.cluster.history(self.job_id)))
        return response


def _has_reason(job: Job) -> bool:
    """`explain.status_reason` has something to say of it."""
    waits = job.state is JobState.PENDING or (job.state is JobState.RUNNABLE and not job.current)
    return waits or job.state in (JobState.STARTING, JobState.RUNNING)


def _nodes(job: Job, indices: Iterable[int]) -> list[NodeView]:
    """Nodes of the newest attempt; one that was handed back just now is not there."""
    if not job.attempts:
        return []
    attempt = job.attempts[-1]
    return [
        node_view(job, attempt, attempt.nodes[index]) for index in indices if index in attempt.nodes
    ]


def _untold(events: Sequence[Stamped], recent: Sequence[Stamped]) -> Sequence[Stamped]:
    """Without what the history told already: it is read a moment after the watch began. Times
    never decrease, so what is older than `recent`, the history's last millisecond, was in it."""
    last_ms = recent[-1].at_ms if recent else 0
    return [
        stamped
        for stamped in events
        if stamped.at_ms > last_ms or (stamped.at_ms == last_ms and stamped not in recent)
    ]
