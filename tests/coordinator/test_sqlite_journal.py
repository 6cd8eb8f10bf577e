"""What the sqlite journal promises beyond the contract: kill -9, locks, bad files, bounded work."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import resource
import shutil
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from coordinator.journal.port import Batch, Entry, JournalError, JournalFull, RecordQuery
from coordinator.journal.sqlite import APPLICATION_ID, REPLAY, SCHEMA_VERSION, SqliteJournal
from tests.contract.journals import ending, record, tail
from tests.coordinator import journal_writer
from tests.small_disk import fill, make_room, small_disk_at

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = await SqliteJournal.open(path)
    try:
        yield journal
    finally:
        await journal.close()


async def complaint(path: Path) -> str:
    """What `open` says instead of opening."""
    with pytest.raises(JournalError) as caught:
        await SqliteJournal.open(path)
    return str(caught.value)


def some(stream: str, count: int = 1) -> Batch:
    return Batch(
        entries=[Entry(stream=stream, at_ms=1, kind="Happened", body=str(n)) for n in range(count)]
    )


async def test_kill_9_loses_nothing_acknowledged_and_keeps_others_out_until_then(
    path: Path,
) -> None:
    writer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.coordinator.journal_writer", str(path)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert writer.stdout is not None
    try:
        async with asyncio.timeout(60):
            acknowledged = [await writer.stdout.readline() for _ in range(100)]
            refusal = await complaint(path)
            writer.kill()
            acknowledged += (await writer.stdout.read()).splitlines(keepends=True)
    finally:
        if writer.returncode is None:
            writer.kill()
        await writer.wait()
    assert f"cannot open {path}: database is locked; another coordinator" in refusal

    numbers = [int(line) for line in acknowledged if line.endswith(b"\n")]
    assert numbers == list(range(len(numbers)))
    async with opened(path) as journal:
        found = list((await journal.replay()).entries)
    # The kill may have come between a commit and its acknowledgement, but never within a commit.
    batches, rest = divmod(len(found), journal_writer.PARTS)
    assert rest == 0
    assert batches in (len(numbers), len(numbers) + 1)
    assert found == [each for n in range(batches) for each in journal_writer.batch(n).entries]


async def test_a_second_opener_in_the_same_process_is_refused(path: Path) -> None:
    async with opened(path):
        pass
    # This time there is nothing to create: opening alone must take the lock.
    async with opened(path) as first:
        assert "another coordinator uses this data directory" in await complaint(path)
        await first.append(some("job/a"))
    async with opened(path) as second:
        assert len((await second.replay()).entries) == 1


async def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    previous = os.umask(0)
    try:
        async with opened(path) as journal:
            await journal.append(some("job/a"))
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(previous)
    assert modes == {path.name: 0o600, f"{path.name}-wal": 0o600}


async def test_commits_are_flushed_and_nothing_is_written_elsewhere(path: Path) -> None:
    async with opened(path) as journal:
        pragmas = [
            journal._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "locking_mode", "temp_store")
        ]
    assert pragmas == ["wal", 2, "exclusive", 2]


MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk_at(tmp_path / "small") as disk:
        yield disk


async def until_full(journal: SqliteJournal) -> int:
    """Append numbered batches until there is no room; how many went in."""
    for number in range(10_000):
        entries = [
            Entry(stream="job/a", at_ms=1, kind="Happened", body=f"{number}" + "x" * 3000)
            for _ in range(3)
        ]
        try:
            await journal.append(Batch(entries=entries))
        except JournalFull:
            return number
    raise AssertionError("there is always room")


@pytest.mark.real("netns")
async def test_what_a_full_disk_refused_is_not_there_after_a_crash(
    small_disk: Path, tmp_path: Path
) -> None:
    """The files as a power cut would leave them hold what was acknowledged and no more."""
    crashed = tmp_path / "crashed"
    async with opened(small_disk / "journal") as journal:
        await journal.append(some("job/b"))
        fill(small_disk)
        known = await until_full(journal)
        shutil.copytree(small_disk, crashed, ignore=shutil.ignore_patterns("filler"))
        make_room(small_disk)
        await journal.append(some("job/c"))
        again = [each.body for each in (await journal.replay()).entries]
    async with opened(crashed / "journal") as journal:
        found = [each.body for each in (await journal.replay()).entries]
    assert len(found) == 1 + 3 * known
    assert again == [*found, "0"]


@pytest.mark.real("netns")
async def test_the_reserve_is_given_up_for_a_full_disk_and_taken_again(small_disk: Path) -> None:
    journal = await SqliteJournal.open(small_disk / "journal", reserve_bytes=MIB)
    reserve = small_disk / "reserve"
    try:
        await journal.append(some("job/a"))
        assert (reserve.stat().st_size, journal.shortage) == (MIB, "")
        fill(small_disk)
        await journal.measure()
        assert f"({small_disk}) has 0 MiB free, less than 1" in journal.shortage
        # A batch takes some 24 KiB of the log that sqlite writes ahead.
        assert await until_full(journal) > 30
        assert not reserve.exists()
        assert "has 0 MiB free, less than 2" in journal.shortage
        with pytest.raises(JournalFull, match="database or disk is full; make room on the disk"):
            await journal.append(some("job/b", 1000))
        make_room(small_disk)
        await journal.measure()
        assert journal.shortage == ""
        assert reserve.stat().st_size == MIB
        await journal.append(some("job/b"))
    finally:
        await journal.close()


@pytest.mark.parametrize(("quota", "expected"), [(True, JournalFull), (False, JournalError)])
async def test_a_quota_is_a_full_disk_and_another_failed_write_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch, quota: bool, expected: type[Exception]
) -> None:
    """A limit on the size of files makes sqlite's write fail as one beyond a quota does."""
    async with opened(path) as journal:
        await journal.append(some("job/a"))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if quota:
            over = OSError(errno.EDQUOT, "Disk quota exceeded")
            monkeypatch.setattr(os, "posix_fallocate", Mock(side_effect=over))
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100 * 1024, hard))
            with pytest.raises(JournalError, match="disk I/O error") as caught:
                await journal.append(some("job/b", 10_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert type(caught.value) is expected
        if quota:
            await journal.append(some("job/b"))
    async with opened(path) as journal:
        streams = [each.stream for each in (await journal.replay()).entries]
    assert streams == ["job/a", "job/b"][: 1 + quota]


async def test_retention_waits_for_room_too(path: Path) -> None:
    async with opened(path) as journal:
        await journal.append(ending(*(record(f"j{n}") for n in range(200))))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(journal._reserve, "is_exhausted", lambda: True)
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
                with pytest.raises(JournalFull):
                    await journal.forget(10_000, 200)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(await journal.forget(10_000, 200)) == 200


async def test_an_append_in_line_behind_a_failed_one_is_refused(path: Path) -> None:
    bad = Batch(entries=[Entry(stream="job/a", at_ms=1, kind="Happened", body="\ud800")])
    async with opened(path) as journal:
        results = await asyncio.gather(
            journal.append(bad), journal.append(some("job/b")), return_exceptions=True
        )
        assert [type(result) for result in results] == [JournalError, JournalError]
    async with opened(path) as journal:
        assert list((await journal.replay()).entries) == []


async def test_close_waits_for_what_was_asked_before(path: Path) -> None:
    journal = await SqliteJournal.open(path)
    appends = [asyncio.create_task(journal.append(some(f"job/{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    await journal.close()
    await asyncio.gather(*appends)
    async with opened(path) as again:
        assert len((await again.replay()).entries) == 20


async def test_a_file_that_is_no_database_is_named_and_left_alone(path: Path) -> None:
    path.write_bytes(b"hello" * 1000)
    said = await complaint(path)
    assert said.startswith(f"cannot open {path}: file is not a database; this is not a journal;")
    assert path.read_bytes() == b"hello" * 1000


async def test_the_database_of_another_program_is_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    assert "database of another program" in await complaint(path)
    assert path.read_bytes() == before


async def test_a_damaged_file_is_named_with_what_to_do(path: Path) -> None:
    async with opened(path) as journal:
        await journal.append(some("job/a", 1000))
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    assert "the file is damaged; restore it from a backup" in await complaint(path)


async def test_a_journal_of_a_newer_version_is_refused(path: Path) -> None:
    async with opened(path):
        pass
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    said = await complaint(path)
    assert f"a newer version wrote it (schema {SCHEMA_VERSION + 1}, this version knows" in said


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "journal.sqlite"
    assert await complaint(path) == f"cannot create {path}: No such file or directory"


async def test_a_directory_in_place_of_the_file_is_named(path: Path) -> None:
    path.mkdir()
    assert str(path) in await complaint(path)


def steps_of_replay(path: Path) -> int:
    """How many steps sqlite's machine takes to read the open streams."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    connection = sqlite3.connect(path)
    connection.set_progress_handler(count, 1)
    connection.execute(REPLAY).fetchall()
    connection.close()
    return steps


async def test_replay_costs_what_is_open_and_not_what_ever_was(path: Path) -> None:
    async with opened(path) as journal:
        await journal.append(some("job/open", 20))
    before = steps_of_replay(path)
    assert before > 20
    async with opened(path) as journal:
        await journal.append(
            Batch(
                entries=[each for n in range(500) for each in some(f"job/{n}", 10).entries],
                closed=[f"job/{n}" for n in range(500)],
            )
        )
    # One step more than before, since the walk now ends at a neighbour and not at the index's end.
    assert steps_of_replay(path) <= before + 1


async def test_forget_leaves_nothing_of_a_job_in_the_file(path: Path) -> None:
    async with opened(path) as journal:
        await journal.append(dataclasses.replace(some("job/a"), tails=[tail("a")]))
        await journal.append(ending(record("a", stopped_at_ms=10)))
        assert list(await journal.forget(20, 1)) == ["a"]
        rows = {
            table: journal._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("streams", "events", "records", "tails")
        }
        # Its newest entry was that of the journal: the number stays, and nothing else of it.
        assert rows == {"streams": 0, "events": 1, "records": 0, "tails": 0}
        assert journal._connection.execute("SELECT * FROM events").fetchall() == [(1, 0, 0, "", "")]
        await journal.append(some("job/b"))
        await journal.append(ending(record("b", stopped_at_ms=10)))
        assert list(await journal.forget(20, 1)) == ["b"]
        assert journal._connection.execute("SELECT seq FROM events").fetchall() == [(2,)]


@pytest.mark.parametrize("after", [None, (9, "x")])
@pytest.mark.parametrize(
    ("query", "index"),
    [
        (RecordQuery(), "age"),
        (RecordQuery(job_queue="q"), "queue"),
        (RecordQuery(job_queue="q", created_after_ms=5), "queue"),
        (RecordQuery(job_queue="q", status="FAILED"), "status"),
        (RecordQuery(job_queue="q", job_name="train"), "name"),
        (RecordQuery(job_queue="q", job_name="tr", name_prefix=True), "queue"),
        (RecordQuery(job_queue="q", definition_name="d", definition_revision=1), "definition"),
        (RecordQuery(job_queue="q", definition_name="d", definition_prefix=True), "queue"),
    ],
)
async def test_a_page_is_read_off_an_index_in_order(
    path: Path, query: RecordQuery, index: str, after: tuple[int, str] | None
) -> None:
    """A page must not sort, so that it ends at its limit however many records there are."""
    asked: list[str] = []
    async with opened(path) as journal:
        journal._connection.set_trace_callback(asked.append)
        await journal.records(query, after=after, limit=1)
        journal._connection.set_trace_callback(None)
        (statement,) = asked
        rows = journal._connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
    plan = [detail for *_, detail in rows]
    assert len(plan) == 1, plan
    assert f" USING INDEX records_by_{index}" in plan[0], plan


async def test_a_page_of_history_is_read_in_order_and_ends_at_its_limit(path: Path) -> None:
    """However long a history is, a page costs a page: neither it nor a summary sorts or scans."""
    asked: list[str] = []
    summary = Entry(stream="job/a", at_ms=1, kind="B", body="", replaces=1)
    async with opened(path) as journal:
        await journal.append(some("job/a", 3))
        journal._connection.set_trace_callback(asked.append)
        await journal.history("job/a", after=1, limit=1)
        await journal.append(Batch(entries=[summary]))
        journal._connection.set_trace_callback(None)
        plans = [
            [
                detail
                for *_, detail in journal._connection.execute(f"EXPLAIN QUERY PLAN {statement}")
            ]
            for statement in asked
            if "FROM events" in statement
        ]
    assert len(plans) == 2
    for plan in plans:
        assert any("INDEX events_by_stream (stream_id=?" in detail for detail in plan), plan
        assert not any("TEMP" in detail or "SCAN events" in detail for detail in plan), plan
