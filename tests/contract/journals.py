"""What the journal suites share: the kinds of journal under test, and values to put in them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

from coordinator.journal.memory import MemoryJournal
from coordinator.journal.port import Batch, Entry, Journal, JournalError, LogTail, Record
from coordinator.journal.sqlite import SqliteJournal


class Store(Protocol):
    """One place where facts stay while journals on it come and go."""

    async def open(self) -> Journal:
        """A journal on the store, after whatever happened to the one before."""
        ...

    async def fail_append(self, batch: Batch) -> JournalError:
        """Append the batch to the newest journal so that it fails, and return its complaint."""
        ...

    def fill(self) -> None:
        """Leave the newest journal no room, until `make_room`."""
        ...

    def make_room(self) -> None: ...

    async def close(self) -> None: ...


class MemoryStore:
    def __init__(self) -> None:
        self.journal = MemoryJournal()

    async def open(self) -> MemoryJournal:
        self.journal = self.journal.reopened()
        return self.journal

    async def fail_append(self, batch: Batch) -> JournalError:
        self.journal.fail_next_append("no space")
        return await complaint_of(self.journal, batch)

    def fill(self) -> None:
        self.journal.fill()

    def make_room(self) -> None:
        self.journal.make_room()

    async def close(self) -> None:
        await self.journal.close()


class SqliteStore:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal: SqliteJournal | None = None

    async def open(self) -> SqliteJournal:
        await self.close()
        self.journal = await SqliteJournal.open(self.path)
        return self.journal

    async def fail_append(self, batch: Batch) -> JournalError:
        """The last entry cannot be stored, when all before it are already in the transaction."""
        assert self.journal is not None
        entries = [*batch.entries, entry("job/unstorable", "\ud800")]
        return await complaint_of(self.journal, dataclasses.replace(batch, entries=entries))

    def fill(self) -> None:
        self._limit_pages(1)

    def make_room(self) -> None:
        self._limit_pages(2**30)

    def _limit_pages(self, count: int) -> None:
        """A limit below the present size lets what is there be and nothing grow."""
        assert self.journal is not None
        self.journal._connection.execute(f"PRAGMA max_page_count = {count}")

    async def close(self) -> None:
        if self.journal is not None:
            await self.journal.close()


async def complaint_of(journal: Journal, batch: Batch) -> JournalError:
    try:
        await journal.append(batch)
    except JournalError as complaint:
        return complaint
    raise AssertionError("the append should have failed")


def entry(stream: str, body: str = "{}", *, at_ms: int = 1000, kind: str = "Happened") -> Entry:
    return Entry(stream=stream, at_ms=at_ms, kind=kind, body=body)


def tail(job_id: str, node_index: int = 0, attempt: int = 1, data: bytes = b"end\n") -> LogTail:
    return LogTail(job_id=job_id, node_index=node_index, attempt=attempt, offset=7, data=data)


def record(
    job_id: str,
    *,
    job_queue: str = "default",
    job_name: str = "train",
    definition: tuple[str, int] = ("solver", 1),
    status: str = "SUCCEEDED",
    created_at_ms: int = 1000,
    stopped_at_ms: int = 2000,
    client_token: str | None = None,
) -> Record:
    return Record(
        job_id=job_id,
        job_queue=job_queue,
        job_name=job_name,
        definition_name=definition[0],
        definition_revision=definition[1],
        status=status,
        created_at_ms=created_at_ms,
        stopped_at_ms=stopped_at_ms,
        client_token=client_token,
        body=f'{{"job_id":"{job_id}"}}',
    )


def ending(*records: Record) -> Batch:
    """What the coordinator commits when jobs have ended."""
    return Batch(records=records, closed=[f"job/{each.job_id}" for each in records])
