"""Watchers of jobs: each change reaches them when it is durable, and none of them can slow a step.

What a watcher is shown is rendered between two steps, when all that the state says is durable: at
once after a commit for a watcher that waits, else when it comes back. A live job never gets out.
A slow watcher loses events (and is told how many), never states: what changed is kept as a set of
nodes to look at again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Generic, NamedTuple, TypeVar, cast

from coordinator.core.effects import Stamped, Step
from coordinator.core.errors import NotFound
from coordinator.core.events import Event
from coordinator.core.ids import JobId
from coordinator.core.state import ClusterState, Job
from coordinator.rpc.ports import Changes, Read, Render, Watching

T = TypeVar("T")

EVENTS_MAX = 2_000
"""Events kept for one slow watcher: two for each node of the largest job."""
STEPS_MAX = 100
"""Steps that are kept apart for a slow watcher, so that telling it one costs next to nothing."""


class _Told(NamedTuple):
    """What a step did to a job. All watchers share it, so nobody writes to it."""

    nodes: Mapping[int, None]
    events: Sequence[Stamped]
    events_skipped: int = 0


_Shared = dict[tuple[Render[Any], int], object]
"""What watchers of a job were shown, by their question and the attempt that they had seen."""


class Watch(Generic[T]):
    """One watcher of one job."""

    def __init__(self, job_id: JobId, render: Render[T]) -> None:
        self._job_id = job_id
        self._render = render
        self._told: list[_Told] = []
        self._attempts = -1
        self._archived: Job | None = None
        self._over = False
        self._waiter: asyncio.Future[T | None] | None = None

    def tell(self, told: _Told, archived: Job | None) -> None:
        """A step is durable that changed the job; with `archived` it was the last."""
        self._told.append(told)
        if len(self._told) > STEPS_MAX:
            self._told = [_joined(self._told)]
        self._archived = archived

    def offer(self, state: ClusterState, shared: _Shared) -> None:
        """Show a watcher that waits what it was told last; all that wait were told the same."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        try:
            waiter.set_result(self.show(state, shared))
        except Exception as error:  # a defect in a reader's question is the reader's
            waiter.set_exception(error)

    def show(self, state: ClusterState, shared: _Shared) -> T | None:
        """`take`, for a watcher that was told the same as all that have shown what is `shared`: it
        has what others with the same question were shown."""
        question = self._render, self._attempts
        job = self._job(state)
        if question in shared and job is not None:
            self._seen(job)
        else:
            shared[question] = self.take(state)
        return cast("T | None", shared[question])

    def take(self, state: ClusterState) -> T | None:
        """What changed since the last time, the whole at first and whenever an attempt begins.
        None for a job that has left memory before this watcher was told. Between steps only."""
        job = self._job(state)
        if job is None:
            return None
        told = _joined(self._told)
        nodes = job.attempts[-1].nodes if job.attempts else {}
        reset = len(job.attempts) != self._attempts
        changes = Changes(
            nodes=sorted(nodes) if reset else [n for n in told.nodes if n in nodes],
            events=told.events,
            events_skipped=told.events_skipped,
            reset=reset,
            last=self._archived is not None,
        )
        self._seen(job)
        return self._render(state, job, changes)

    def _job(self, state: ClusterState) -> Job | None:
        return self._archived or state.jobs.get(self._job_id)

    def _seen(self, job: Job) -> None:
        self._told = []
        self._attempts = len(job.attempts)
        self._over = self._over or self._archived is not None

    async def updates(self, first: T, read: Read) -> AsyncGenerator[T, None]:
        """`first`, and then whatever changes; ends after the last change, or when the coordinator
        stops."""
        yield first
        while not self._over:
            update = await (read(self.take) if self._told else self._offered())
            if update is not None:
                yield update

    async def _offered(self) -> T | None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def end(self) -> None:
        """The coordinator stops: the stream ends as if the connection broke."""
        self._over = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Watches:
    """All watchers, by job."""

    def __init__(self) -> None:
        self._by_job: dict[JobId, list[Watch[Any]]] = {}
        self._begun: dict[JobId, _Shared] = {}
        """What watches that began since the last step were shown."""

    @asynccontextmanager
    async def open(
        self, job_id: JobId, render: Render[T], read: Read, position: Callable[[], int]
    ) -> AsyncIterator[Watching[T]]:
        """Watch a job from the moment that `read` answers. NotFound when it is not in memory."""
        watch = Watch(job_id, render)

        def begin(state: ClusterState) -> tuple[T, int]:
            first = watch.show(state, self._begun.setdefault(job_id, {}))
            if first is None:
                raise NotFound(f"Job {job_id} is not in memory")
            self._by_job.setdefault(job_id, []).append(watch)
            return first, position()

        try:
            first, begun_at = await read(begin)
            async with aclosing(watch.updates(first, read)) as updates:
                yield Watching(begun_at=begun_at, updates=updates)
        finally:
            self._forget(job_id, watch)

    def _forget(self, job_id: JobId, watch: Watch[Any]) -> None:
        watches = self._by_job.get(job_id, [])
        if watch in watches:
            watches.remove(watch)
        if not watches:
            self._by_job.pop(job_id, None)

    def publish(self, step: Step, state: ClusterState) -> None:
        """Tell everybody what a durable step did: before anybody is answered who asked during the
        step, so that a watch that begins with it is not told what came before."""
        self._begun.clear()
        if not self._by_job:
            return
        archived = {job.job_id: job for job in step.archived}
        events: dict[JobId, list[Stamped]] = {}
        for stamped in step.events:
            job_id = _job_of(stamped.event)
            if job_id in self._by_job:
                events.setdefault(job_id, []).append(stamped)
        for job_id in dict.fromkeys([*step.changed_nodes, *events]):
            told = _Told(step.changed_nodes.get(job_id, {}), events.get(job_id, []))
            shared: _Shared = {}
            for watch in self._by_job.get(job_id, ()):
                watch.tell(told, archived.get(job_id))
                watch.offer(state, shared)

    def close(self) -> None:
        for watches in self._by_job.values():
            for watch in watches:
                watch.end()


def _joined(told: Sequence[_Told]) -> _Told:
    """The first events are kept, so that what is left out is in one place: at the end."""
    nodes: dict[int, None] = {}
    events: list[Stamped] = []
    skipped = 0
    for each in told:
        nodes |= each.nodes
        room = EVENTS_MAX - len(events)
        events += each.events[:room]
        skipped += max(len(each.events) - room, 0) + each.events_skipped
    return _Told(nodes, events, skipped)


def _job_of(event: Event) -> JobId:
    return getattr(event, "job_id", JobId(""))
