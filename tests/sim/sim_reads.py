"""What readers ask of the simulated coordinator (`rpc.ports.Cluster`), in a loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypeVar

from coordinator import shell
from coordinator.core.ids import JobId, NodeKey, SessionId
from coordinator.core.state import ClusterState, Job
from coordinator.journal.port import LogTail, Record
from coordinator.rpc import log_source
from coordinator.rpc.log_relay import LogRelay
from coordinator.rpc.outbox import Outbox
from coordinator.rpc.ports import Full, Render, Watching
from tests.sim.sim_loop import SimLoop

if TYPE_CHECKING:
    from tests.sim.sim_coordinator import SimCoordinator

T = TypeVar("T")


class SimReads:
    """They live as long as one life of the coordinator."""

    def __init__(self, coordinator: SimCoordinator) -> None:
        self._coordinator = coordinator
        self.loop = SimLoop(coordinator.clock, coordinator.later)
        self.relay = LogRelay()
        self.outboxes: dict[SessionId, Outbox] = {}
        self._waiting: list[asyncio.Future[None]] = []

    def settled(self) -> None:
        """Whoever waits looks again: all that was decided is durable now, or the disk is full."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def session_ended(self, session_id: SessionId) -> None:
        outbox = self.outboxes.pop(session_id, None)
        if outbox is not None:
            self.relay.end(outbox)

    async def read(self, query: Callable[[ClusterState], T]) -> T:
        while self._coordinator.is_uncommitted:
            if self._coordinator.is_held:
                raise Full("the disk is full")
            future: asyncio.Future[None] = self.loop.create_future()
            self._waiting.append(future)
            await future
        return query(self._coordinator.machine.state)

    async def record(self, job_id: JobId) -> Record | None:
        return await self._coordinator.journal.record(job_id)

    async def decode_job(self, record: Record) -> Job:
        return shell.job_of(record)

    async def log_tail(self, key: NodeKey) -> LogTail | None:
        return await self._coordinator.journal.log_tail(key.job_id, key.node_index, key.attempt)

    def watch(self, job_id: JobId, render: Render[T]) -> AbstractAsyncContextManager[Watching[T]]:
        raise AssertionError(f"{job_id}: only what has been launched is read here")

    def read_log(
        self, key: NodeKey, *, offset: int, follow: bool
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        return log_source.read_log(
            self, self.relay, self.outboxes, key, offset=offset, follow=follow
        )
