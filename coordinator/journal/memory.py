"""The journal without a disk: for tests and for the simulator, held to the same contract.

The simulator has no event loop, so `append_now`, `replay_now` and `forget_now` do the work and the
async verbs call them. Must not import `coordinator.core`, `rpc`, grpc or protobuf.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

from coordinator.journal.port import (
    Batch,
    EndedJob,
    Entry,
    JournalError,
    JournalFull,
    LogTail,
    Record,
    RecordQuery,
    Replay,
    SetAside,
)


@dataclass(slots=True)
class _Facts:
    """What a disk would hold, and so what outlives one MemoryJournal."""

    position: int = 0
    open: dict[str, list[tuple[int, Entry]]] = field(default_factory=dict)
    closed: dict[str, list[tuple[int, Entry]]] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    tails: dict[str, dict[tuple[int, int], LogTail]] = field(default_factory=dict)
    set_aside: list[tuple[Entry, str]] = field(default_factory=list)


class MemoryJournal:
    """`Journal` in this process's memory. Keep its facts over a crash with `reopened`."""

    def __init__(self) -> None:
        self._facts = _Facts()
        self._refusal: str | None = None
        self._fault: tuple[str, bool] | None = None
        self._is_full = False
        self._reserve = 0

    def reopened(self) -> MemoryJournal:
        """A journal with the facts of this one, as after a crash; this one refuses from now on."""
        successor = MemoryJournal()
        successor._facts = self._facts
        successor._is_full, successor._reserve = self._is_full, self._reserve
        self._refusal = "it was opened again"
        return successor

    def copied(self) -> MemoryJournal:
        """Another journal with what this one holds now: a backup."""
        copy = MemoryJournal()
        copy._facts = deepcopy(self._facts)
        return copy

    def fail_next_append(self, reason: str, *, durable: bool = False) -> None:
        """Make the next append raise. A real commit may fail before or after it became durable,
        and the caller cannot tell: `durable` chooses which."""
        self._fault = (reason, durable)

    @property
    def position(self) -> int:
        return self._facts.position

    def fill(self, reserve: int = 0) -> None:
        """There is room for so many appends yet, and then for none, until `make_room`."""
        self._is_full, self._reserve = True, reserve

    def make_room(self) -> None:
        self._is_full = False

    @property
    def shortage(self) -> str:
        return "the journal in memory has no room" if self._is_full else ""

    def append_now(self, batch: Batch) -> None:
        self._check("append")
        self._take_room()
        if self._fault is None:
            self._commit(batch)
            return
        reason, durable = self._fault
        if durable:
            self._commit(batch)
        self._refusal = f"an append failed ({reason})"
        raise JournalError(f"cannot append to memory: {reason}")

    def replay_now(self) -> Replay:
        self._check("replay")
        numbered = sorted(
            (pair for pairs in self._facts.open.values() for pair in pairs),
            key=lambda pair: pair[0],
        )
        return Replay(
            entries=[replace(entry, seq=seq) for seq, entry in numbered],
            ended=[
                EndedJob(
                    job_id=record.job_id,
                    status=record.status,
                    client_token=record.client_token,
                    stopped_at_ms=record.stopped_at_ms,
                )
                for record in sorted(self._facts.records.values(), key=_end)
            ],
        )

    def _take_room(self) -> None:
        if self._is_full and self._reserve == 0:
            raise JournalFull("cannot write to the journal in memory: it has no room")
        self._reserve = max(self._reserve - 1, 0)

    async def append(self, batch: Batch) -> None:
        self.append_now(batch)

    async def measure(self) -> None:
        self._check("measure")

    async def replay(self) -> Replay:
        return self.replay_now()

    async def history(
        self, stream: str, *, after: int = 0, limit: int
    ) -> Sequence[tuple[int, Entry]]:
        self._check("read")
        numbered = self._facts.closed.get(stream, []) + self._facts.open.get(stream, [])
        return [pair for pair in numbered if pair[0] > after][:limit]

    async def record(self, job_id: str) -> Record | None:
        self._check("read")
        return self._facts.records.get(job_id)

    async def records(
        self, query: RecordQuery, *, after: tuple[int, str] | None, limit: int
    ) -> Sequence[Record]:
        self._check("read")
        selected = sorted(
            (record for record in self._facts.records.values() if _selects(query, record)),
            key=_age,
            reverse=True,
        )
        older = (record for record in selected if after is None or _age(record) < after)
        return list(older)[:limit]

    async def log_tail(self, job_id: str, node_index: int, attempt: int) -> LogTail | None:
        self._check("read")
        return self._facts.tails.get(job_id, {}).get((node_index, attempt))

    async def forget(self, stopped_before_ms: int, limit: int) -> Sequence[str]:
        return self.forget_now(stopped_before_ms, limit)

    def forget_now(self, stopped_before_ms: int, limit: int) -> Sequence[str]:
        self._check("delete")
        self._take_room()
        facts = self._facts
        due = [
            record for record in facts.records.values() if record.stopped_at_ms < stopped_before_ms
        ]
        job_ids = [record.job_id for record in sorted(due, key=_end)[:limit]]
        for job_id in job_ids:
            del facts.records[job_id]
            facts.open.pop(f"job/{job_id}", None)
            facts.closed.pop(f"job/{job_id}", None)
            facts.tails.pop(job_id, None)
        return job_ids

    async def set_aside(self, rows: Sequence[SetAside]) -> None:
        self._check("set aside in")
        changes = {row.seq: row for row in rows}
        for stream, numbered in self._facts.open.items():
            kept: list[tuple[int, Entry]] = []
            for seq, entry in numbered:
                change = changes.get(seq)
                if change is None:
                    kept.append((seq, entry))
                    continue
                self._facts.set_aside.append((entry, change.reason))
                if change.instead is not None:
                    kept.append((seq, change.instead))
            self._facts.open[stream] = kept

    async def close(self) -> None:
        self._refusal = self._refusal or "it is closed"

    def _check(self, verb: str) -> None:
        if self._refusal is not None:
            raise JournalError(f"cannot {verb} the journal in memory: {self._refusal}")

    def _commit(self, batch: Batch) -> None:
        facts = self._facts
        for entry in batch.entries:
            facts.position += 1
            stream = facts.open.setdefault(entry.stream, [])
            if entry.replaces:
                del stream[-entry.replaces :]
            stream.append((facts.position, entry))
        for tail in batch.tails:
            facts.tails.setdefault(tail.job_id, {})[tail.node_index, tail.attempt] = tail
        for record in batch.records:
            facts.records[record.job_id] = record
        for name in batch.closed:
            ended = facts.open.pop(name, [])
            facts.closed.setdefault(name, []).extend(ended)


def _age(record: Record) -> tuple[int, str]:
    return record.created_at_ms, record.job_id


def _end(record: Record) -> tuple[int, str]:
    return record.stopped_at_ms, record.job_id


def _selects(query: RecordQuery, record: Record) -> bool:
    return (
        query.job_queue in (None, record.job_queue)
        and query.status in (None, record.status)
        and query.definition_revision in (None, record.definition_revision)
        and (query.created_before_ms is None or record.created_at_ms < query.created_before_ms)
        and (query.created_after_ms is None or record.created_at_ms > query.created_after_ms)
        and (
            query.job_name is None
            or _names(query.job_name.casefold(), record.job_name.casefold(), query.name_prefix)
        )
        and (
            query.definition_name is None
            or _names(query.definition_name, record.definition_name, query.definition_prefix)
        )
    )


def _names(wanted: str, name: str, is_prefix: bool) -> bool:
    return name.startswith(wanted) if is_prefix else name == wanted
