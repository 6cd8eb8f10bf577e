"""Copies of a journal that is written to, and what is refused as one."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from coordinator import backup
from coordinator.core.events import QueueCreated
from coordinator.journal import snapshot
from coordinator.journal.port import Batch, Entry, JournalError
from coordinator.journal.sqlite import SqliteJournal
from coordinator.shell import CODEC
from tests.coordinator import journal_writer

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def writing(path: Path) -> AsyncIterator[asyncio.StreamReader]:
    """A process that appends as fast as it can; the numbers of its durable batches."""
    writer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.coordinator.journal_writer", str(path)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert writer.stdout is not None
    try:
        yield writer.stdout
    finally:
        writer.kill()
        # What it has printed is read, or it would not be known to have ended.
        await writer.stdout.read()
        await writer.wait()


async def bodies(path: Path) -> list[str]:
    journal = await SqliteJournal.open(path)
    try:
        return [entry.body for entry in (await journal.replay()).entries]
    finally:
        await journal.close()


async def test_copies_of_a_journal_in_use_are_whole(tmp_path: Path) -> None:
    """Across many checkpoints, of which each rewrites the database while it may be copied."""
    path = tmp_path / "journal.db"
    async with asyncio.timeout(60), writing(path) as acknowledged:
        for number in range(30):
            newest = int(await acknowledged.readline())
            while acknowledged._buffer.count(b"\n") > 1:  # type: ignore[attr-defined]
                newest = int(await acknowledged.readline())
            copy = tmp_path / f"copy-{number}"
            await asyncio.to_thread(snapshot.copy_open, path, copy)
            found = await bodies(copy)
            batches, rest = divmod(len(found), journal_writer.PARTS)
            assert rest == 0
            assert batches > newest
            assert found == [
                e.body for n in range(batches) for e in journal_writer.batch(n).entries
            ]


def test_a_log_that_began_anew_is_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copy = tmp_path / "journal.db", tmp_path / "copy"
    asyncio.run(write(path, "1"))
    headers = iter([b"one", b"two", b"two", b"two"])
    monkeypatch.setattr(snapshot, "_header", lambda log: next(headers))
    snapshot.copy_open(path, copy)
    assert asyncio.run(bodies(copy)) == ["1"]
    assert list(headers) == []


def test_one_that_begins_anew_all_the_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.db"
    asyncio.run(write(path, "1"))
    headers = iter(range(10_000))
    monkeypatch.setattr(snapshot, "_header", lambda log: next(headers))
    with pytest.raises(JournalError, match="writes faster than this can copy"):
        snapshot.copy_open(path, tmp_path / "copy")


async def write(path: Path, body: str) -> None:
    journal = await SqliteJournal.open(path)
    try:
        entry = Entry(stream="job/a", at_ms=1, kind="Happened", body=body)
        await journal.append(Batch(entries=[entry]))
    finally:
        await journal.close()


def journal_of(tmp_path: Path) -> Path:
    """A journal with which a coordinator could start: an empty one."""

    async def make() -> None:
        await (await SqliteJournal.open(path)).close()

    path = tmp_path / "journal.db"
    asyncio.run(make())
    return path


def test_a_backup_is_for_its_owner_alone_and_leaves_nothing_else(tmp_path: Path) -> None:
    path, file = journal_of(tmp_path), tmp_path / "there" / "file"
    file.parent.mkdir()
    assert backup.run("backup", file, tmp_path) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["file"]
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == [path.name]


def test_what_a_backup_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    assert backup.run("backup", file, tmp_path / "nowhere") == 2
    assert "there is no journal" in capsys.readouterr().err
    file.write_text("mine")
    journal_of(tmp_path)
    assert backup.run("backup", file, tmp_path) == 2
    assert "is there already" in capsys.readouterr().err
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("nothing", "there is no file"),
        ("empty", "/file is no journal"),
        ("text", "the copy of .*/file cannot be read"),
        ("another", "/file is no journal"),
        ("two files", "so that is no backup"),
        ("damaged", "damaged|malformed"),
        ("unreadable", "could not start with the copy: row 1 of job/a"),
    ],
)
def test_what_is_no_backup_is_not_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, why: str
) -> None:
    path, file = journal_of(tmp_path), tmp_path / "file"
    before = path.read_bytes()
    match what:
        case "empty":
            file.touch()
        case "text":
            file.write_text("no database " * 1000)
        case "another":
            with closing(sqlite3.connect(file)) as other:
                other.execute("CREATE TABLE mine (x)")
        case "two files":
            file.write_bytes(before)
            (tmp_path / "file-wal").write_bytes(b"x" * 100)
        case "damaged":
            asyncio.run(write(file, "x" * 100_000))
            torn = bytearray(file.read_bytes())
            torn[8192:40960] = b"\xff" * (40960 - 8192)
            file.write_bytes(torn)
        case "unreadable":
            asyncio.run(write(file, "{"))
    assert backup.run("restore", file, tmp_path) == 2
    assert re.search(why, capsys.readouterr().err)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("journal.db?*"))


def test_a_damaged_journal_is_kept_and_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = journal_of(tmp_path), tmp_path / "file"
    assert backup.run("backup", file, tmp_path) == 0
    path.write_bytes(b"damaged" * 1000)
    (tmp_path / "journal.db-wal").write_bytes(b"what was committed last")
    assert backup.run("restore", file, tmp_path) == 0
    (kept, log) = sorted(tmp_path.glob("journal.db.before-*"))
    assert kept.read_bytes() == b"damaged" * 1000
    assert log.read_bytes() == b"what was committed last"
    assert str(kept) in capsys.readouterr().out
    assert asyncio.run(bodies(path)) == []


def test_what_a_restore_kept_of_a_killed_coordinator_can_be_brought_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, file = tmp_path / "data", tmp_path / "file"
    data.mkdir()
    path = journal_of(data)
    assert backup.run("backup", file, data) == 0

    async def killed() -> None:
        """The files of a coordinator that has written since, and was killed."""
        journal = await SqliteJournal.open(tmp_path / "live")
        try:
            kind, body = CODEC.encode(QueueCreated(name="newer", priority=1))
            entry = Entry(stream="queue/newer", at_ms=1, kind=kind, body=body)
            await journal.append(Batch(entries=[entry]))
            for suffix in ("", "-wal"):
                path.with_name(f"{path.name}{suffix}").write_bytes(
                    (tmp_path / f"live{suffix}").read_bytes()
                )
        finally:
            await journal.close()

    asyncio.run(killed())
    assert backup.run("restore", file, data) == 0
    assert asyncio.run(bodies(path)) == []
    kept, log = sorted(data.glob("journal.db.before-*"))
    assert log.name == f"{kept.name}-wal"
    capsys.readouterr()
    assert backup.run("restore", kept, data) == 0, capsys.readouterr().err
    (body,) = asyncio.run(bodies(path))
    assert "newer" in body
    assert (kept.exists(), log.exists()) == (True, True)


def test_a_restore_needs_no_journal_to_be_there(tmp_path: Path) -> None:
    journal_of(tmp_path)
    file, new = tmp_path / "file", tmp_path / "new"
    assert backup.run("backup", file, tmp_path) == 0
    assert backup.run("restore", file, new) == 0
    assert [each.name for each in new.iterdir()] == ["journal.db"]
    assert stat.S_IMODE((new / "journal.db").stat().st_mode) == 0o600


def test_a_log_whose_journal_was_moved_away_is_no_part_of_the_restored_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a coordinator that was killed: sqlite would add whatever log lies beside a database."""
    data, file = tmp_path / "data", tmp_path / "file"
    data.mkdir()
    journal_of(data)
    assert backup.run("backup", file, data) == 0
    assert _killed_while_it_writes(data / "journal.db").stat().st_size > 0
    (data / "journal.db").rename(tmp_path / "damaged")
    assert backup.run("restore", file, data) == 0
    assert asyncio.run(bodies(data / "journal.db")) == []
    [log] = data.glob("journal.db.before-*-wal")
    assert str(log) in capsys.readouterr().out


def _killed_while_it_writes(path: Path) -> Path:
    """The log that is left."""

    async def write() -> None:
        async with writing(path) as acknowledged:
            await acknowledged.readline()

    asyncio.run(write())
    return snapshot.log_of(path)


async def test_no_coordinator_starts_while_a_journal_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its unit does every 2 s with a journal that is damaged."""
    path = tmp_path / "journal.db"
    await write(path, "1")
    put_aside = backup._put_aside
    refused = []

    def with_a_start(journal: Path) -> Path | None:
        start = subprocess.run(
            [sys.executable, "-c", OPEN, str(journal)], cwd=ROOT, capture_output=True, text=True
        )
        refused.append(start.stderr)
        return put_aside(journal)

    monkeypatch.setattr(backup, "_put_aside", with_a_start)
    empty = tmp_path / "empty" / "journal.db"
    empty.parent.mkdir()
    await (await SqliteJournal.open(empty)).close()
    await asyncio.to_thread(backup.restore, empty, path)
    [said] = refused
    assert "another coordinator uses this data directory" in said


OPEN = """
import asyncio, sys
from pathlib import Path
from coordinator.journal.sqlite import SqliteJournal
from coordinator.shell import CODEC
asyncio.run(SqliteJournal.open(Path(sys.argv[1])))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_restores_is_the_coordinators(tmp_path: Path) -> None:
    path, file = journal_of(tmp_path), tmp_path / "file"
    assert backup.run("backup", file, tmp_path) == 0
    os.chown(path, 1234, 1235)
    assert backup.run("restore", file, tmp_path) == 0
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)
    path.unlink()
    os.chown(tmp_path, 1236, 1237)
    assert backup.run("restore", file, tmp_path) == 0
    assert (path.stat().st_uid, path.stat().st_gid) == (1236, 1237)


def test_backups_are_kept_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on vfat, and on many shares."""

    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_link)
    journal_of(tmp_path)
    file = tmp_path / "file"
    assert backup.run("backup", file, tmp_path) == 0
    assert asyncio.run(bodies(file)) == []


def test_a_copy_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when the disk is full while what was copied is looked at."""
    path, file = journal_of(tmp_path), tmp_path / "there" / "file"
    file.parent.mkdir()

    async def full(made: Path) -> None:
        snapshot.log_of(made).touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SqliteJournal, "open", full)
    assert backup.run("backup", file, tmp_path) == 2
    assert f"cannot write {file}: No space left on device" in capsys.readouterr().err
    assert list(file.parent.iterdir()) == []
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == [path.name]
