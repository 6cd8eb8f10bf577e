"""What the services need of the daemon, so that they can be tested without one.

Must not import `coordinator.daemon`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from coordinator.core.effects import Stamped
from coordinator.core.ids import JobId, NodeKey
from coordinator.core.inputs import Input
from coordinator.core.settings import Settings
from coordinator.core.state import ClusterState, Job
from coordinator.journal.port import LogTail, Record, RecordQuery

T = TypeVar("T")


class Overloaded(Exception):
    """The inbox is full; nothing was done. Answered as RESOURCE_EXHAUSTED."""


class Full(Overloaded):
    """The coordinator's disk is full: until there is room, nothing is taken and nothing shown."""


class Unreachable(Exception):
    """A node's output is on a host that cannot be asked. `is_passing`: the host is back soon, or
    else is known as lost."""

    def __init__(self, why: str, *, is_passing: bool = False) -> None:
        super().__init__(why)
        self.is_passing = is_passing


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchUpdate:
    """What changed since the update before. `job` is as it is now, also when it just ended.

    `nodes` are indices into the newest attempt; with `reset` they are all of them. `last` is
    true when nothing can change any more.
    """

    job: Job
    nodes: Sequence[int]
    events: Sequence[Stamped]
    events_skipped: int
    reset: bool
    last: bool


class Cluster(Protocol):
    """The daemon, as the services see it."""

    @property
    def settings(self) -> Settings: ...

    async def ask(self, given: Input) -> object:
        """Put an input to the machine; its reply, once everything it did is durable. Raises the
        Rejected that refused it, or Overloaded."""
        ...

    async def read(self, query: Callable[[ClusterState], T]) -> T:
        """Evaluate on the state, between steps, when all of it is durable. The query must copy
        what it keeps: the state goes on changing."""
        ...

    async def record(self, job_id: JobId) -> Record | None: ...

    async def records(
        self, query: RecordQuery, *, after: tuple[int, str] | None, limit: int
    ) -> Sequence[Record]: ...

    async def history(self, job_id: JobId) -> Sequence[Stamped]:
        """Everything that happened to a job, in order."""
        ...

    async def log_tail(self, key: NodeKey) -> LogTail | None: ...

    def watch(self, job_id: JobId) -> AbstractAsyncContextManager[AsyncIterator[WatchUpdate]]:
        """Updates of a job that is in memory, the first one with `reset`; ends after `last`.
        NotFound when it is not in memory."""
        ...

    def read_log(
        self, key: NodeKey, *, offset: int, follow: bool
    ) -> AsyncIterator[tuple[int, bytes]]:
        """A node's output from the host that has it. Raises Unreachable."""
        ...

    def decode_job(self, record: Record) -> Job:
        """The job of a final record."""
        ...
