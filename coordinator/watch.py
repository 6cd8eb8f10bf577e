"""Watchers of jobs: each change reaches them when it is durable, and none of them can slow a step.

A slow watcher loses events (and is told how many), never states: what changed is kept as a set of
nodes to look at again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from coordinator.core.effects import Stamped, Step
from coordinator.core.events import Event
from coordinator.core.ids import JobId
from coordinator.core.state import ClusterState, Job
from coordinator.rpc.ports import WatchUpdate

EVENTS_MAX = 2_000
"""Events kept for one slow watcher: two for each node of the largest job."""


class Watch:
    """One watcher of one job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._nodes: dict[int, None] = {}
        self._events: list[Stamped] = []
        self._skipped = 0
        self._attempts = -1
        self._last = False
        self._changed = asyncio.Event()
        self._changed.set()

    def tell(self, job: Job, nodes: dict[int, None], events: list[Stamped], *, last: bool) -> None:
        self._job = job
        self._nodes |= nodes
        room = EVENTS_MAX - len(self._events)
        self._events += events[:room]
        self._skipped += max(len(events) - room, 0)
        self._last = last
        self._changed.set()

    async def updates(self) -> AsyncIterator[WatchUpdate]:
        """What changed, the whole at first and whenever an attempt begins."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            attempts = self._job.attempts
            reset = len(attempts) != self._attempts
            self._attempts = len(attempts)
            nodes = attempts[-1].nodes if attempts else {}
            update = WatchUpdate(
                job=self._job,
                nodes=sorted(nodes) if reset else [n for n in self._nodes if n in nodes],
                events=self._events,
                events_skipped=self._skipped,
                reset=reset,
                last=self._last,
            )
            self._nodes, self._events, self._skipped = {}, [], 0
            yield update
            if update.last:
                return

    def end(self) -> None:
        """The coordinator stops: the stream ends as if the connection broke."""
        self._last = True
        self._changed.set()


class Watches:
    """All watchers, by job."""

    def __init__(self) -> None:
        self._by_job: dict[JobId, list[Watch]] = {}

    @contextmanager
    def open(self, job: Job) -> Iterator[Watch]:
        watch = Watch(job)
        self._by_job.setdefault(job.job_id, []).append(watch)
        try:
            yield watch
        finally:
            watches = self._by_job[job.job_id]
            watches.remove(watch)
            if not watches:
                del self._by_job[job.job_id]

    def publish(self, step: Step, state: ClusterState) -> None:
        """Tell everybody what a durable step did."""
        if not self._by_job:
            return
        archived = {job.job_id: job for job in step.archived}
        events: dict[JobId, list[Stamped]] = {}
        for stamped in step.events:
            job_id = _job_of(stamped.event)
            if job_id in self._by_job:
                events.setdefault(job_id, []).append(stamped)
        for job_id in dict.fromkeys([*step.changed_nodes, *events]):
            for watch in self._by_job.get(job_id, ()):
                job = archived.get(job_id) or state.jobs[job_id]
                watch.tell(
                    job,
                    step.changed_nodes.get(job_id, {}),
                    events.get(job_id, []),
                    last=job_id in archived,
                )

    def close(self) -> None:
        for watches in self._by_job.values():
            for watch in watches:
                watch.end()


def _job_of(event: Event) -> JobId:
    return getattr(event, "job_id", JobId(""))
