"""The journal port: where durable facts live, whatever keeps them.

Nothing here is shaped like sqlite: an implementation on a replicated key-value store fits the
same four verbs. An entry's body is text made by `codec.py`; the journal never looks inside.
Must not import `coordinator.core.machine`, `rpc`, grpc or protobuf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event of a stream (`job/<id>`, `queue/<name>`, `definition/<name>`, `host/<id>`,
    `coordinator`). Order is that of the commits, never that of `at_ms`: clocks are set back.

    When it is appended, an entry may stand for others: the newest `replaces` entries of its open
    stream go, or all when there are fewer. A store that can only append may apply that when it
    reads. The member does not come back from a read.
    """

    stream: str
    at_ms: int
    kind: str
    body: str
    replaces: int = field(default=0, compare=False)
    seq: int = field(default=0, compare=False)
    """Its number in the journal, by which people find it; 0 before it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """An entry to move out of its stream, why, and what takes its place, if anything does."""

    seq: int
    reason: str
    instead: Entry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The final record of a job that ended: what Describe and List of old jobs read.

    The members beside `body` are what a listing selects by.
    """

    job_id: str
    job_queue: str
    job_name: str
    definition_name: str
    definition_revision: int
    status: str
    created_at_ms: int
    stopped_at_ms: int
    client_token: str | None
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTail:
    """The last bytes of one node's output in one attempt; `offset` is where they begin."""

    job_id: str
    node_index: int
    attempt: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one commit makes durable, all or nothing, in this order.

    A stream in `closed` ends: replay no longer yields it. Closing a job stream goes with its
    Record in the same batch, so a job is always in exactly one of the two places.
    """

    entries: Sequence[Entry] = ()
    tails: Sequence[LogTail] = ()
    records: Sequence[Record] = ()
    closed: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """The little that must stay in memory of a recorded job: dependencies and tokens need it."""

    job_id: str
    status: str
    client_token: str | None
    stopped_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Everything a start needs: the open streams' entries in commit order, and the ended jobs."""

    entries: Sequence[Entry]
    ended: Sequence[EndedJob]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordQuery:
    """Selects records; a member that is None does not restrict. `name_prefix` True makes
    `job_name` a case-insensitive prefix, else it is a case-insensitive whole name; likewise
    `definition_prefix` for `definition_name`, which is case-sensitive."""

    job_queue: str | None = None
    status: str | None = None
    job_name: str | None = None
    name_prefix: bool = False
    definition_name: str | None = None
    definition_prefix: bool = False
    definition_revision: int | None = None
    created_before_ms: int | None = None
    created_after_ms: int | None = None


class Journal(Protocol):
    """Durable facts. One writer. Every verb raises JournalError and nothing else; after a
    failed `append` the journal refuses everything, since what is durable is then unknown. The one
    exception is JournalFull.

    Entries have numbers from 1, which grow in commit order and may leave gaps. None is used twice,
    also when the entry that had it is gone: hosts are told numbers, and say them again.
    """

    @property
    def position(self) -> int:
        """The number of the newest durable entry, as of the last `append` that returned, also when
        that entry has been forgotten or set aside since; 0 when there has been none."""
        ...

    async def append(self, batch: Batch) -> None:
        """Make the batch durable. Returns only when it would survive a power cut. JournalFull:
        there is no room for it, also not in the reserve."""
        ...

    @property
    def shortage(self) -> str:
        """Why nothing should be written that can wait: too little room, or a file that the next
        start would not find; empty when nothing is wrong. As it was after the newest `append` or
        `measure`."""
        ...

    async def measure(self) -> None:
        """Look at `shortage` anew; take the reserve again when there is room for it."""
        ...

    async def replay(self) -> Replay:
        """All entries of streams not closed, in commit order, and the recorded jobs."""
        ...

    async def history(
        self, stream: str, *, after: int = 0, limit: int
    ) -> Sequence[tuple[int, Entry]]:
        """One stream's entries in order with their numbers, closed or not: the first `limit`
        behind number `after`; empty when there are none."""
        ...

    async def record(self, job_id: str) -> Record | None: ...

    async def records(
        self, query: RecordQuery, *, after: tuple[int, str] | None, limit: int
    ) -> Sequence[Record]:
        """Newest first by (created_at_ms, job_id), strictly older than `after`."""
        ...

    async def log_tail(self, job_id: str, node_index: int, attempt: int) -> LogTail | None: ...

    async def forget(self, stopped_before_ms: int, limit: int) -> Sequence[str]:
        """Delete records that ended before then, with their streams and tails, at most `limit`
        jobs a call; returns their job ids. JournalFull as for `append`."""
        ...

    async def set_aside(self, rows: Sequence[SetAside]) -> None:
        """Move entries out of their streams, all in one commit, and keep them with the reason.
        What is written instead has the number and the stream of the entry whose place it takes.
        For repairs: nobody else uses the journal meanwhile."""
        ...

    async def close(self) -> None: ...


class JournalError(Exception):
    """The journal cannot do what was asked; the message names the file or peer and the cause."""


class JournalInUse(JournalError):
    """Another process has the journal open."""


class JournalFull(JournalError):
    """There is no room. Nothing of what was asked is durable, the journal goes on, and the same may
    be asked again."""
