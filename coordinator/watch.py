"""Watchers of jobs: each change reaches them when it is durable, and none of them can slow a step.

What a watcher is shown is rendered between two steps, when all that the state says is durable: at
once after a commit for a watcher that waits, else when it comes back. A live job never gets out.
A slow watcher loses events (and is told how many), never states: what changed is kept as a set of
nodes to look at again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Generic, TypeVar

from coordinator.core.effects import Stamped, Step
from coordinator.core.errors import NotFound
from coordinator.core.events import Event
from coordinator.core.ids import JobId
from coordinator.core.state import ClusterState, Job
from coordinator.rpc.ports import Changes, Read, Render, Watching

T = TypeVar("T")

EVENTS_MAX = 2_000
"""Events kept for one slow watcher: two for each node of the largest job."""


class Watch(Generic[T]):
    """One watcher of one job."""

    def __init__(self, job_id: JobId, render: Render[T]) -> None:
        self._job_id = job_id
        self._render = render
        self._nodes: dict[int, None] = {}
        self._events: list[Stamped] = []
        self._skipped = 0
        self._changed = False
        self._attempts = -1
        self._archived: Job | None = None
        self._over = False
        self._waiter: asyncio.Future[T | None] | None = None

    def tell(self, nodes: dict[int, None], events: list[Stamped], archived: Job | None) -> None:
        """A step is durable that changed the job; with `archived` it was the last."""
        self._nodes |= nodes
        room = EVENTS_MAX - len(self._events)
        self._events += events[:room]
        self._skipped += max(len(events) - room, 0)
        self._archived = archived
        self._changed = True

    def offer(self, state: ClusterState, shared: dict[tuple[Render[T], int], T | None]) -> None:
        """Show a watcher that waits what it was told last. All that wait have been told the same,
        so `shared` has what others with the same question were shown."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        question = self._render, self._attempts
        try:
            if question in shared:
                self._taken(state)
            else:
                shared[question] = self.take(state)
            waiter.set_result(shared[question])
        except Exception as error:  # a defect in a reader's question is the reader's
            waiter.set_exception(error)

    def take(self, state: ClusterState) -> T | None:
        """What changed since the last time, the whole at first and whenever an attempt begins.
        None for a job that has left memory before this watcher was told. Between steps only."""
        found = self._taken(state)
        return self._render(state, *found) if found is not None else None

    def _taken(self, state: ClusterState) -> tuple[Job, Changes] | None:
        job = self._archived or state.jobs.get(self._job_id)
        if job is None:
            return None
        attempts = job.attempts
        reset = len(attempts) != self._attempts
        nodes = attempts[-1].nodes if attempts else {}
        changes = Changes(
            nodes=sorted(nodes) if reset else [n for n in self._nodes if n in nodes],
            events=self._events,
            events_skipped=self._skipped,
            reset=reset,
            last=self._archived is not None,
        )
        self._attempts = len(attempts)
        self._nodes, self._events, self._skipped = {}, [], 0
        self._changed = False
        self._over = self._over or changes.last
        return job, changes

    async def updates(self, first: T, read: Read) -> AsyncGenerator[T, None]:
        """`first`, and then whatever changes; ends after the last change, or when the coordinator
        stops."""
        yield first
        while not self._over:
            update = await (read(self.take) if self._changed else self._offered())
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

    @asynccontextmanager
    async def open(
        self, job_id: JobId, render: Render[T], read: Read, position: Callable[[], int]
    ) -> AsyncIterator[Watching[T]]:
        """Watch a job from the moment that `read` answers. NotFound when it is not in memory."""
        watch = Watch(job_id, render)

        def begin(state: ClusterState) -> tuple[T, int]:
            first = watch.take(state)
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
        if not self._by_job:
            return
        archived = {job.job_id: job for job in step.archived}
        events: dict[JobId, list[Stamped]] = {}
        for stamped in step.events:
            job_id = _job_of(stamped.event)
            if job_id in self._by_job:
                events.setdefault(job_id, []).append(stamped)
        for job_id in dict.fromkeys([*step.changed_nodes, *events]):
            shared: dict[tuple[Render[object], int], object] = {}
            for watch in self._by_job.get(job_id, ()):
                nodes = step.changed_nodes.get(job_id, {})
                watch.tell(nodes, events.get(job_id, []), archived.get(job_id))
                watch.offer(state, shared)

    def close(self) -> None:
        for watches in self._by_job.values():
            for watch in watches:
                watch.end()


def _job_of(event: Event) -> JobId:
    return getattr(event, "job_id", JobId(""))
