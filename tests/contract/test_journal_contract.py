"""What every journal promises, whatever keeps its facts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.journal.port import (
    Batch,
    EndedJob,
    Entry,
    Journal,
    JournalError,
    RecordQuery,
    SetAside,
)
from tests.contract.journals import (
    MemoryStore,
    SqliteStore,
    Store,
    ending,
    entry,
    record,
    tail,
)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "journal")
    yield store
    await store.close()


@pytest.fixture
async def journal(store: Store) -> Journal:
    return await store.open()


async def bodies(journal: Journal) -> list[str]:
    return [each.body for each in (await journal.replay()).entries]


async def history(journal: Journal, stream: str) -> list[Entry]:
    return [each for _, each in await journal.history(stream, limit=100)]


async def ids(
    journal: Journal,
    query: RecordQuery | None = None,
    after: tuple[int, str] | None = None,
    limit: int = 100,
) -> list[str]:
    found = await journal.records(query or RecordQuery(), after=after, limit=limit)
    return [each.job_id for each in found]


# appending and replaying


async def test_a_new_journal_is_empty(journal: Journal) -> None:
    replay = await journal.replay()
    assert (list(replay.entries), list(replay.ended)) == ([], [])
    assert await history(journal, "job/a") == []
    assert await journal.record("a") is None
    assert await journal.log_tail("a", 0, 1) is None
    assert await ids(journal) == []


async def test_entries_come_back_whole_and_in_commit_order(journal: Journal, store: Store) -> None:
    first = [entry("job/b", "1"), entry("coordinator", "2"), entry("job/b", "3", kind="Ended")]
    second = [entry("job/a", "4", at_ms=2000), entry("job/b", "5", at_ms=2000)]
    await journal.append(Batch(entries=first))
    await journal.append(Batch(entries=second))
    assert list((await journal.replay()).entries) == first + second
    again = await store.open()
    assert list((await again.replay()).entries) == first + second


async def test_an_empty_batch_is_no_fact(journal: Journal) -> None:
    await journal.append(Batch())
    assert await bodies(journal) == []


@pytest.mark.parametrize("body", ["", "\0", "a\0b", "é\U0001f600\u2028", "'; DROP", "x" * 2**20])
async def test_any_text_is_kept(journal: Journal, store: Store, body: str) -> None:
    await journal.append(Batch(entries=[entry(f"job/{body}", body, kind=body)]))
    again = await store.open()
    assert list((await again.replay()).entries) == [entry(f"job/{body}", body, kind=body)]


async def test_a_closed_stream_is_not_replayed(journal: Journal) -> None:
    await journal.append(Batch(entries=[entry("job/a", "1"), entry("job/b", "2")]))
    await journal.append(Batch(entries=[entry("job/a", "3")], closed=["job/a"]))
    assert await bodies(journal) == ["2"]


async def test_a_stream_may_begin_and_end_in_one_batch(journal: Journal) -> None:
    await journal.append(Batch(entries=[entry("job/a", "1")], closed=["job/a"]))
    assert await bodies(journal) == []
    assert [each.body for each in await history(journal, "job/a")] == ["1"]


async def test_closing_what_is_not_open_changes_nothing(journal: Journal) -> None:
    await journal.append(Batch(entries=[entry("job/a", "1")], closed=["job/unknown"]))
    await journal.append(Batch(closed=["job/a"]))
    await journal.append(Batch(closed=["job/a"]))
    assert await bodies(journal) == []


async def test_a_stream_written_after_its_end_begins_anew(journal: Journal, store: Store) -> None:
    """A queue that is deleted and created again must not lose its second life at replay."""
    await journal.append(Batch(entries=[entry("queue/q", "1")], closed=["queue/q"]))
    await journal.append(Batch(entries=[entry("queue/q", "2")]))
    again = await store.open()
    assert await bodies(again) == ["2"]
    assert [each.body for each in await history(again, "queue/q")] == ["1", "2"]


async def test_history_is_one_stream_closed_or_not(journal: Journal) -> None:
    await journal.append(Batch(entries=[entry("job/a", "1"), entry("job/ab", "2")]))
    await journal.append(Batch(entries=[entry("job/a", "3")]))
    expected = [entry("job/a", "1"), entry("job/a", "3")]
    assert await history(journal, "job/a") == expected
    await journal.append(Batch(closed=["job/a"]))
    assert await history(journal, "job/a") == expected


async def test_history_comes_in_pages_behind_a_number(journal: Journal) -> None:
    await journal.append(Batch(entries=[entry("job/a", str(n)) for n in range(3)]))
    await journal.append(Batch(entries=[entry("job/b", "other"), entry("job/a", "3")]))
    seen: list[str] = []
    after = 0
    while page := await journal.history("job/a", after=after, limit=3):
        seen += [each.body for _, each in page]
        assert [number for number, _ in page] == sorted({number for number, _ in page})
        assert len(seen) <= 4, seen
        after = page[-1][0]
    assert seen == ["0", "1", "2", "3"]
    assert after == journal.position
    assert list(await journal.history("job/a", after=after, limit=3)) == []


async def test_a_page_goes_on_across_the_end_of_a_stream(journal: Journal) -> None:
    await journal.append(Batch(entries=[entry("queue/q", "1"), entry("queue/q", "2")]))
    await journal.append(Batch(closed=["queue/q"]))
    await journal.append(Batch(entries=[entry("queue/q", "3"), entry("queue/q", "4")]))
    first = await journal.history("queue/q", limit=3)
    assert [each.body for _, each in first] == ["1", "2", "3"]
    rest = await journal.history("queue/q", after=first[-1][0], limit=3)
    assert [each.body for _, each in rest] == ["4"]


async def test_the_position_is_the_newest_entry_also_after_a_start(
    journal: Journal, store: Store
) -> None:
    assert journal.position == 0
    await journal.append(Batch(entries=[entry("job/a", "1"), entry("job/b", "2")]))
    ((number, _),) = await journal.history("job/b", limit=1)
    assert journal.position == number
    again = await store.open()
    assert again.position == number
    await again.append(Batch(entries=[entry("job/a", "3")]))
    assert again.position > number


async def test_the_number_of_an_entry_that_is_gone_is_not_given_again(
    journal: Journal, store: Store
) -> None:
    """Hosts have been told the position, and say it again after a start."""
    await journal.append(Batch(entries=[entry("job/a", "1"), entry("job/b", "2")]))
    await journal.append(Batch(records=[record("b")], closed=["job/b"]))
    position = journal.position
    assert await journal.forget(stopped_before_ms=10**15, limit=10) == ["b"]
    again = await store.open()
    assert again.position == position
    assert [each.body for each in (await again.replay()).entries] == ["1"]
    assert await again.history("job/b", limit=10) == []
    await again.append(Batch(entries=[entry("job/c", "3")]))
    assert [number for number, _ in await again.history("job/c", limit=1)] == [position + 1]
    await again.set_aside([SetAside(seq=position + 1, reason="broken")])
    once_more = await store.open()
    assert once_more.position == position + 1
    assert [each.body for each in (await once_more.replay()).entries] == ["1"]


def summary(stream: str, body: str, replaces: int) -> Entry:
    """An entry that stands for the newest entries before it."""
    return replace(entry(stream, body), replaces=replaces)


REPLACED = [("", 0, "s"), ("", 2, "s"), ("X", 0, "Xs"), ("XABC", 3, "Xs"), ("XABC", 9, "s")]


@pytest.mark.parametrize("in_one_batch", [True, False])
@pytest.mark.parametrize(("bodies", "replaces", "expected"), REPLACED)
async def test_an_entry_takes_the_place_of_those_that_it_stands_for(
    journal: Journal, store: Store, bodies: str, replaces: int, expected: str, in_one_batch: bool
) -> None:
    before = [entry("job/a", body) for body in bodies]
    other = entry("job/b", "other")
    after = [summary("job/a", "s", replaces), entry("job/a", "t")]
    if in_one_batch:
        await journal.append(Batch(entries=[*before, other, *after]))
    else:
        for each in (*before, other):
            await journal.append(Batch(entries=[each]))
        await journal.append(Batch(entries=after))
    numbers = [number for number, _ in await journal.history("job/a", limit=100)]
    assert numbers == sorted(numbers)
    assert journal.position == numbers[-1] == len(bodies) + 3
    again = await store.open()
    for found in ((await again.replay()).entries, await history(again, "job/a")):
        assert "".join(each.body for each in found if each != other) == f"{expected}t"
    assert await history(again, "job/b") == [other]
    # What stands for others may be replaced itself; numbers are never used again.
    await again.append(Batch(entries=[summary("job/a", "u", 2)]))
    assert "".join(each.body for each in await history(again, "job/a")) == f"{expected[:-1]}u"
    assert again.position == len(bodies) + 4


async def test_what_was_closed_is_replaced_by_nothing(journal: Journal) -> None:
    await journal.append(Batch(entries=[entry("queue/q", "1", kind="A")], closed=["queue/q"]))
    await journal.append(Batch(entries=[summary("queue/q", "2", 1)]))
    assert [each.body for each in await history(journal, "queue/q")] == ["1", "2"]


async def test_a_failed_append_replaces_nothing(journal: Journal, store: Store) -> None:
    await journal.append(Batch(entries=[entry("job/a", "1", kind="A")]))
    await store.fail_append(Batch(entries=[summary("job/a", "2", 1)]))
    assert await bodies(await store.open()) == ["1"]


async def test_replay_names_the_ended_jobs_in_order_of_their_end(journal: Journal) -> None:
    late = record("a", stopped_at_ms=20, status="FAILED", client_token="t")
    early = record("b", stopped_at_ms=10)
    await journal.append(ending(late, early))
    assert list((await journal.replay()).ended) == [
        EndedJob(job_id="b", status="SUCCEEDED", client_token=None, stopped_at_ms=10),
        EndedJob(job_id="a", status="FAILED", client_token="t", stopped_at_ms=20),
    ]


# records


async def test_a_record_is_kept_whole(journal: Journal, store: Store) -> None:
    full = record("a", definition=("solver", 3), client_token="token", status="FAILED")
    await journal.append(ending(full, record("b")))
    again = await store.open()
    assert await again.record("a") == full
    assert await again.record("c") is None


async def test_a_record_written_again_replaces_the_first(journal: Journal) -> None:
    await journal.append(ending(record("a", status="FAILED")))
    await journal.append(ending(record("a", status="SUCCEEDED")))
    assert await journal.record("a") == record("a", status="SUCCEEDED")
    assert await ids(journal) == ["a"]


async def test_records_come_newest_first_and_by_id_within_a_millisecond(journal: Journal) -> None:
    await journal.append(
        ending(
            record("c", created_at_ms=1),
            *(record(job_id, created_at_ms=2) for job_id in "abe"),
            record("d", created_at_ms=3),
        )
    )
    assert await ids(journal) == ["d", "e", "b", "a", "c"]
    assert await ids(journal, limit=2) == ["d", "e"]


async def test_pages_join_without_gap_or_repeat_while_records_arrive(journal: Journal) -> None:
    jobs = [record(f"{number:02}", created_at_ms=number // 4) for number in range(10)]
    await journal.append(ending(*jobs))
    seen: list[str] = []
    after: tuple[int, str] | None = None
    while page := await journal.records(RecordQuery(), after=after, limit=3):
        seen += [each.job_id for each in page]
        assert len(seen) <= len(jobs), seen
        after = (page[-1].created_at_ms, page[-1].job_id)
        await journal.append(ending(record(f"new-{len(seen)}", created_at_ms=100)))
    assert seen == [f"{number:02}" for number in reversed(range(10))]


QUERIES = [
    (RecordQuery(), "abcdef"),
    (RecordQuery(job_queue="fast"), "bf"),
    (RecordQuery(status="FAILED"), "cf"),
    (RecordQuery(job_queue="fast", status="FAILED"), "f"),
    (RecordQuery(job_queue="absent"), ""),
    (RecordQuery(job_name="TRAIN"), "ab"),
    (RecordQuery(job_name="Train", name_prefix=True), "abcd"),
    (RecordQuery(job_name="train_", name_prefix=True), "c"),
    (RecordQuery(job_name="%", name_prefix=True), ""),
    (RecordQuery(job_name="train%"), ""),
    (RecordQuery(job_name="100%", name_prefix=True), "e"),
    (RecordQuery(job_name="größe"), "f"),
    (RecordQuery(job_name="gr", name_prefix=True), "f"),
    (RecordQuery(job_name="GRÖSS", name_prefix=True), "f"),
    (RecordQuery(job_name="", name_prefix=True), "abcdef"),
    (RecordQuery(job_name=""), ""),
    (RecordQuery(definition_name="solver"), "abc"),
    (RecordQuery(definition_name="Solver"), "d"),
    (RecordQuery(definition_name="solver", definition_prefix=True), "abcef"),
    (RecordQuery(definition_name="solver_", definition_prefix=True), "e"),
    (RecordQuery(definition_name="solver", definition_revision=2), "c"),
    (RecordQuery(job_queue="fast", definition_name="solver", definition_revision=1), "b"),
    (RecordQuery(created_before_ms=30), "ab"),
    (RecordQuery(created_after_ms=30), "def"),
    (RecordQuery(created_after_ms=20, created_before_ms=50), "cd"),
]


@pytest.mark.parametrize(("query", "expected"), QUERIES)
async def test_a_query_selects_exactly(journal: Journal, query: RecordQuery, expected: str) -> None:
    await journal.append(
        ending(
            record("a", created_at_ms=10, job_name="train"),
            record("b", created_at_ms=20, job_name="TrAiN", job_queue="fast"),
            record(
                "c",
                created_at_ms=30,
                job_name="train_1",
                definition=("solver", 2),
                status="FAILED",
            ),
            record("d", created_at_ms=40, job_name="trainX1", definition=("Solver", 1)),
            record("e", created_at_ms=50, job_name="100%", definition=("solver_2", 1)),
            record(
                "f",
                created_at_ms=60,
                job_name="Größe",
                job_queue="fast",
                definition=("solverX2", 1),
                status="FAILED",
            ),
        )
    )
    assert await ids(journal, query) == sorted(expected, reverse=True)
    after_c = await ids(journal, query, after=(30, "c"))
    assert after_c == sorted((each for each in expected if each < "c"), reverse=True)


# tails


async def test_a_tail_belongs_to_one_node_of_one_attempt(journal: Journal, store: Store) -> None:
    tails = [tail("a"), tail("a", 1, data=b"\0\xff"), tail("a", 0, 2, data=b""), tail("b")]
    await journal.append(Batch(tails=tails))
    again = await store.open()
    assert [
        await again.log_tail(each.job_id, each.node_index, each.attempt) for each in tails
    ] == tails
    assert await again.log_tail("a", 1, 2) is None


async def test_a_tail_reported_again_replaces_the_first(journal: Journal) -> None:
    await journal.append(Batch(tails=[tail("a", data=b"part"), tail("a", data=b"whole")]))
    assert await journal.log_tail("a", 0, 1) == tail("a", data=b"whole")


# forgetting


async def test_forget_takes_record_stream_and_tails_together(journal: Journal) -> None:
    entries = [entry("job/a", "1"), entry("job/b", "2"), entry("queue/a", "3")]
    await journal.append(Batch(entries=entries, tails=[tail("a"), tail("a", 1), tail("b")]))
    await journal.append(ending(record("a", stopped_at_ms=10), record("b", stopped_at_ms=20)))
    assert list(await journal.forget(20, 100)) == ["a"]
    assert await journal.record("a") is None
    assert await history(journal, "job/a") == []
    assert await journal.log_tail("a", 0, 1) is None
    assert await journal.log_tail("a", 1, 1) is None
    assert [each.job_id for each in (await journal.replay()).ended] == ["b"]
    assert await bodies(journal) == ["3"]
    assert await journal.record("b") == record("b", stopped_at_ms=20)
    assert await history(journal, "job/b") == [entry("job/b", "2")]
    assert await journal.log_tail("b", 0, 1) == tail("b")


async def test_forget_takes_the_longest_ended_first_up_to_its_limit(journal: Journal) -> None:
    stops = {"a": 30, "b": 10, "c": 20, "d": 10}
    await journal.append(ending(*(record(each, stopped_at_ms=at) for each, at in stops.items())))
    assert list(await journal.forget(100, 3)) == ["b", "d", "c"]
    assert list(await journal.forget(100, 3)) == ["a"]
    assert list(await journal.forget(100, 3)) == []


# failing and closing


async def test_a_failed_append_leaves_nothing_of_its_batch(journal: Journal, store: Store) -> None:
    before = [entry("job/a", "1"), entry("job/b", "2")]
    await journal.append(Batch(entries=before))
    await store.fail_append(
        Batch(
            entries=[entry("job/a", "3"), entry("job/c", "4")],
            tails=[tail("a")],
            records=[record("b")],
            closed=["job/b"],
        )
    )
    again = await store.open()
    assert list((await again.replay()).entries) == before
    assert await again.log_tail("a", 0, 1) is None
    assert await again.record("b") is None


VERBS: list[Callable[[Journal], Awaitable[object]]] = [
    lambda journal: journal.append(Batch()),
    lambda journal: journal.replay(),
    lambda journal: journal.history("job/a", limit=1),
    lambda journal: journal.record("a"),
    lambda journal: journal.records(RecordQuery(), after=None, limit=1),
    lambda journal: journal.log_tail("a", 0, 1),
    lambda journal: journal.forget(0, 1),
    lambda journal: journal.measure(),
    lambda journal: journal.set_aside([]),
]


@pytest.mark.parametrize("verb", VERBS)
async def test_after_a_failed_append_every_verb_is_refused(
    journal: Journal, store: Store, verb: Callable[[Journal], Awaitable[object]]
) -> None:
    await store.fail_append(Batch(entries=[entry("job/a")]))
    with pytest.raises(JournalError, match="an append failed"):
        await verb(journal)


@pytest.mark.parametrize("verb", VERBS)
async def test_after_close_every_verb_is_refused(
    journal: Journal, verb: Callable[[Journal], Awaitable[object]]
) -> None:
    await journal.close()
    with pytest.raises(JournalError, match="closed"):
        await verb(journal)


async def test_close_may_be_repeated_and_follow_a_failure(journal: Journal, store: Store) -> None:
    await store.fail_append(Batch())
    await journal.close()
    await journal.close()
