"""WatchJob: the whole of a job first, page by page, then each change as it happens.

The order of events is that of the journal, by number: times may repeat and go back. No response
has more than a page of events, so that each fits what a gRPC client takes by default.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cache

from coordinator.core.errors import NotFound
from coordinator.core.explain import status_reason
from coordinator.core.ids import JobId
from coordinator.core.settings import Settings
from coordinator.core.state import ClusterState, Job
from coordinator.rpc.errors import Stopping
from coordinator.rpc.job_lookup import one_job
from coordinator.rpc.ports import Changes, Cluster
from coordinator.rpc.render import Renderer, job_event, node_view
from muster.v1.job_service_pb2 import NodeView, WatchJobResponse

EVENTS_PAGE = 500
"""With every text at its longest, and with the views of 1000 nodes, that many fit into 4 MiB."""


@dataclass(frozen=True, slots=True)
class _Update:
    """What one update makes of a job. Watchers share it, so nobody writes to it."""

    responses: tuple[WatchJobResponse, ...]
    last: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Render:
    """`ports.Render`, the same object for every watcher, so that thousands are shown one value."""

    renderer: Renderer
    settings: Settings

    def __call__(self, state: ClusterState, job: Job, changes: Changes) -> _Update:
        waiting = status_reason(state, self.settings, job)
        summary = self.renderer.job_summary(job, waiting)
        first = WatchJobResponse(
            job=summary,
            nodes=_nodes(job, changes.nodes),
            events=map(job_event, changes.events[:EVENTS_PAGE]),
            events_skipped=changes.events_skipped,
            reset=changes.reset,
        )
        rest = [
            WatchJobResponse(
                job=summary, events=map(job_event, changes.events[start : start + EVENTS_PAGE])
            )
            for start in range(EVENTS_PAGE, len(changes.events), EVENTS_PAGE)
        ]
        return _Update((first, *rest), changes.last)


_render_of = cache(_Render)


@dataclass(frozen=True, slots=True)
class JobWatch:
    """Answers WatchJob for one job."""

    cluster: Cluster
    renderer: Renderer
    job_id: JobId

    async def responses(self) -> AsyncGenerator[WatchJobResponse, None]:
        """Ends when the job has ended and nothing of it is left on any host; Stopping before."""
        render = _render_of(self.renderer, self.cluster.settings)
        async with AsyncExitStack() as stack:
            try:
                watching = await stack.enter_async_context(self.cluster.watch(self.job_id, render))
            except NotFound:
                whole = await one_job(self.cluster, self.job_id, self._ended)
                async for response in self._with_history(whole, None):
                    yield response
                return
            last, begun = False, False
            async for update in watching.updates:
                if not begun:
                    (whole,) = update.responses
                    async for response in self._with_history(whole, watching.begun_at):
                        yield response
                    begun = True
                    continue
                for response in update.responses:
                    yield response
                last = update.last
        if not last:
            raise Stopping(f"the coordinator stops; job {self.job_id} goes on: watch it again")

    async def _with_history(
        self, whole: WatchJobResponse, until: int | None
    ) -> AsyncGenerator[WatchJobResponse, None]:
        """The whole of a job with its events up to number `until`, or all. Pages follow it: the
        job as it was at first, and more events."""
        response, after, more = WatchJobResponse(), 0, True
        response.CopyFrom(whole)
        while more:
            page = await self.cluster.history(self.job_id, after=after, limit=EVENTS_PAGE)
            told = [stamped for number, stamped in page if until is None or number <= until]
            if after and not told:
                return
            more = len(told) == EVENTS_PAGE
            after = page[-1][0] if page else after
            response.events.extend(map(job_event, told))
            yield response
            response = WatchJobResponse(job=whole.job)

    def _ended(self, _: ClusterState, job: Job) -> WatchJobResponse:
        """All but the history of a job that has left memory."""
        return WatchJobResponse(
            job=self.renderer.job_summary(job, None),
            nodes=_nodes(job, sorted(job.attempts[-1].nodes) if job.attempts else ()),
            reset=True,
        )


def _nodes(job: Job, indices: Iterable[int]) -> list[NodeView]:
    """Nodes of the newest attempt; one that was handed back just now is not there."""
    if not job.attempts:
        return []
    attempt = job.attempts[-1]
    return [
        node_view(job, attempt, attempt.nodes[index]) for index in indices if index in attempt.nodes
    ]
