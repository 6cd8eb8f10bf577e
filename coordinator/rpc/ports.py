"""What the services need of the daemon, so that they can be tested without one.

Must not import `coordinator.daemon`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

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
class Changes:
    """What changed of a job since its watcher was shown it before; all of it is durable.

    `nodes` are indices into the newest attempt; with `reset` they are all of them. `last` is
    true when nothing can change any more.
    """

    nodes: Sequence[int]
    events: Sequence[Stamped]
    events_skipped: int
    reset: bool
    last: bool


Render = Callable[[ClusterState, Job, Changes], T]
"""What a watcher is shown of a job. Evaluated between steps; must copy what it keeps. Watchers
with equal ones share a value."""


class Read(Protocol):
    """`Cluster.read`."""

    async def __call__(self, query: Callable[[ClusterState], T]) -> T: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching(Generic[T]):
    """A watch that has begun. Of the job's history, what is numbered up to `begun_at` came before
    the first update, and all that comes later is in the updates after it."""

    begun_at: int
    updates: AsyncIterator[T]


class Jobs(Protocol):
    """Jobs wherever they are: those in memory, and the records of those that have ended."""

    async def read(self, query: Callable[[ClusterState], T]) -> T:
        """Evaluate on the state, between steps, when all of it is durable. What the query returns
        must hold no live object of the state, which goes on changing: values and copies only."""
        ...

    async def record(self, job_id: JobId) -> Record | None: ...

    async def decode_job(self, record: Record) -> Job:
        """The job of a final record. It may be large, so it is not decoded on the event loop."""
        ...


class Output(Jobs, Protocol):
    """What a reader of output is served from."""

    async def log_tail(self, key: NodeKey) -> LogTail | None: ...

    def watch(self, job_id: JobId, render: Render[T]) -> AbstractAsyncContextManager[Watching[T]]:
        """Updates of a job that is in memory, the first one with `reset`; they end after `last`,
        or when the coordinator stops. NotFound when it is not in memory."""
        ...

    def read_log(
        self, key: NodeKey, *, offset: int, follow: bool
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """A node's output from the host that has it; closed when its reader goes. Raises
        Unreachable."""
        ...


class Cluster(Output, Protocol):
    """The daemon, as the services see it."""

    @property
    def settings(self) -> Settings: ...

    async def ask(self, given: Input) -> object:
        """Put an input to the machine; its reply, once everything it did is durable. Raises the
        Rejected that refused it, or Overloaded."""
        ...

    async def records(
        self, query: RecordQuery, *, after: tuple[int, str] | None, limit: int
    ) -> Sequence[Record]: ...

    async def history(
        self, job_id: JobId, *, after: int, limit: int
    ) -> Sequence[tuple[int, Stamped]]:
        """What happened to a job, in order, with numbers that grow: at most `limit` events behind
        number `after`, of which 0 is before the first."""
        ...
