"""Any history of commits reads the same from every journal: the memory one is what the simulator
trusts in place of the real one."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.journal.port import Batch, Entry, Journal, RecordQuery
from tests.contract.journals import MemoryStore, SqliteStore, record, tail

JOBS = ["a", "b", "c"]
STREAMS = [*(f"job/{job_id}" for job_id in JOBS), "queue/q"]
NAMES = ["", "a", "A", "ab", "a%", "a_", "%", "ß", "sS", "é\0", "é\0b", "\U0010ffff", "\U0010ffff~"]

times = st.integers(0, 3)
names = st.sampled_from(NAMES)
definitions = st.tuples(names, st.integers(1, 2))
queues = st.sampled_from(["p", "q"])
statuses = st.sampled_from(["SUCCEEDED", "FAILED"])
job_ids = st.sampled_from(JOBS)

entries = st.builds(
    Entry,
    stream=st.sampled_from(STREAMS),
    at_ms=times,
    kind=st.sampled_from("AABC"),
    body=st.text(max_size=2),
    replaces=st.sampled_from([0, 0, 0, 1, 3]),
)
batches = st.builds(
    Batch,
    entries=st.lists(entries, max_size=6),
    tails=st.lists(
        st.builds(tail, job_ids, st.integers(0, 1), st.integers(1, 2), st.binary(max_size=2)),
        max_size=2,
    ),
    records=st.lists(
        st.builds(
            record,
            job_ids,
            job_queue=queues,
            job_name=names,
            definition=definitions,
            status=statuses,
            created_at_ms=times,
            stopped_at_ms=times,
            client_token=st.none() | names,
        ),
        max_size=3,
    ),
    closed=st.lists(st.sampled_from(STREAMS), max_size=2),
)


@dataclass(frozen=True)
class Forget:
    stopped_before_ms: int
    limit: int


@dataclass(frozen=True)
class Reopen:
    pass


steps = st.one_of(batches, batches, st.builds(Forget, times, st.integers(0, 2)), st.builds(Reopen))
queries = st.builds(
    RecordQuery,
    job_queue=st.none() | queues,
    status=st.none() | statuses,
    job_name=st.none() | names,
    name_prefix=st.booleans(),
    definition_name=st.none() | names,
    definition_prefix=st.booleans(),
    definition_revision=st.none() | st.integers(1, 2),
    created_before_ms=st.none() | times,
    created_after_ms=st.none() | times,
)
listings = st.tuples(queries, st.none() | st.tuples(times, job_ids), st.integers(0, 3))


async def everything(
    journal: Journal, asked: list[tuple[RecordQuery, tuple[int, str] | None, int]]
) -> list[object]:
    replay = await journal.replay()
    answers: list[object] = [list(replay.entries), list(replay.ended)]
    answers += [journal.position]
    answers += [list(await journal.history(stream, limit=100)) for stream in STREAMS]
    answers += [list(await journal.history(stream, after=3, limit=2)) for stream in STREAMS]
    answers += [await journal.record(job_id) for job_id in JOBS]
    answers += [
        await journal.log_tail(job_id, node_index, attempt)
        for job_id in JOBS
        for node_index in (0, 1)
        for attempt in (1, 2)
    ]
    for query, after, limit in asked:
        answers.append(list(await journal.records(query, after=after, limit=limit)))
    return answers


@settings(max_examples=60, deadline=None)
@given(
    history=st.lists(steps, min_size=1, max_size=6),
    asked=st.lists(listings, min_size=1, max_size=6),
)
def test_memory_and_sqlite_agree(
    history: list[Batch | Forget | Reopen],
    asked: list[tuple[RecordQuery, tuple[int, str] | None, int]],
) -> None:
    async def compare(directory: Path) -> None:
        stores = (MemoryStore(), SqliteStore(directory / "journal"))
        journals: list[Journal] = [await store.open() for store in stores]
        for step in history:
            match step:
                case Batch():
                    for journal in journals:
                        await journal.append(step)
                case Forget():
                    memory, sqlite = [
                        list(await journal.forget(step.stopped_before_ms, step.limit))
                        for journal in journals
                    ]
                    assert memory == sqlite
                case Reopen():
                    journals = [await store.open() for store in stores]
            of_memory, of_sqlite = [await everything(journal, asked) for journal in journals]
            assert of_memory == of_sqlite
        for store in stores:
            await store.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(compare(Path(directory)))
