"""The journal in one sqlite file: the embedded default, with nothing to install.

All calls run on one thread with one connection, so the event loop never waits for a disk and
commits keep the order in which they were asked for. Must not import `coordinator.core`, `rpc`,
grpc or protobuf.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from sqlite3 import Connection
from typing import Concatenate, ParamSpec, TypeVar

from coordinator.journal.numbers import newest, newest_kept
from coordinator.journal.place import Place
from coordinator.journal.port import (
    Batch,
    EndedJob,
    Entry,
    JournalError,
    JournalFull,
    JournalInUse,
    LogTail,
    Record,
    RecordQuery,
    Replay,
    SetAside,
)
from coordinator.journal.records import PUT_RECORD, record, record_row, records
from coordinator.journal.reserve import Reserve
from coordinator.journal.set_aside import set_aside

P = ParamSpec("P")
T = TypeVar("T")

APPLICATION_ID = 0x4D555354
"""`MUST` in ASCII: tells a journal from any other sqlite file."""
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE streams (
    stream_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    open INTEGER NOT NULL DEFAULT 1
);
-- Replay walks this index, so that it costs what is open and not what ever was. A name is open once
-- at most; written again after its end it gets another row.
CREATE UNIQUE INDEX streams_open ON streams (name) WHERE open;
CREATE INDEX streams_by_name ON streams (name);

CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX events_by_stream ON events (stream_id);

CREATE TABLE records (
    job_id TEXT NOT NULL PRIMARY KEY,
    job_queue TEXT NOT NULL,
    job_name TEXT NOT NULL,
    job_name_folded TEXT NOT NULL,
    definition_name TEXT NOT NULL,
    definition_revision INTEGER NOT NULL,
    status TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    stopped_at_ms INTEGER NOT NULL,
    client_token TEXT,
    body TEXT NOT NULL
);
-- A listing names a queue and one thing more at most; each index ends in the order of the answer.
CREATE INDEX records_by_age ON records (created_at_ms, job_id);
CREATE INDEX records_by_queue ON records (job_queue, created_at_ms, job_id);
CREATE INDEX records_by_status ON records (job_queue, status, created_at_ms, job_id);
CREATE INDEX records_by_name ON records (job_queue, job_name_folded, created_at_ms, job_id);
CREATE INDEX records_by_definition ON records (job_queue, definition_name, created_at_ms, job_id);
-- Covers both `replay` and `forget`: neither reads a body.
CREATE INDEX records_by_end ON records (stopped_at_ms, job_id, status, client_token);

CREATE TABLE tails (
    job_id TEXT NOT NULL,
    node_index INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (job_id, node_index, attempt)
);
"""

# CROSS JOIN fixes the order of the loops: open streams first, then their events by index. Left to
# itself the planner may read every event ever written, to save the sort.
REPLAY = """
    SELECT name, at_ms, kind, body, seq
    FROM streams INDEXED BY streams_open CROSS JOIN events USING (stream_id)
    WHERE open ORDER BY seq
"""
# A name's rows follow one another: it is open once at most. Each is read off an index in order, so
# that a page costs the same however long the history is.
STREAM_IDS = "SELECT stream_id FROM streams WHERE name = ? ORDER BY stream_id"
HISTORY = """
    SELECT seq, at_ms, kind, body FROM events
    WHERE stream_id = ? AND seq > ? ORDER BY seq LIMIT ?
"""
HINTS = {
    sqlite3.SQLITE_NOTADB: "this is not a journal; move the file away or choose another data "
    "directory",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore it from a backup, or move it away to "
    "start with an empty journal",
    sqlite3.SQLITE_BUSY: "another coordinator uses this data directory; stop it first",
    sqlite3.SQLITE_CANTOPEN: "the directory must exist and this user must be able to write to it",
    sqlite3.SQLITE_READONLY: "this user must be able to write to the file and its directory",
    sqlite3.SQLITE_FULL: "make room on the disk",
}


class SqliteJournal:
    """`Journal` on one file, which no other process can open meanwhile."""

    def __init__(
        self,
        path: Path,
        connection: Connection,
        thread: ThreadPoolExecutor,
        reserve: Reserve,
        position: int,
    ) -> None:
        self._path = path
        self._connection = connection
        self._thread = thread
        self._reserve = reserve
        self._place = Place(path)
        self._shortage = ""
        self._closed = False
        self._position = position
        self._poison: str | None = None
        """Why an append failed; read and written on the thread only."""

    @classmethod
    async def open(cls, path: Path, reserve_bytes: int = 0) -> SqliteJournal:
        """Open the journal, or create it with mode 0600; its directory must exist. `reserve_bytes`
        of room are kept for a full disk. Raises JournalError when another process has it open, a
        newer version wrote it, or it is no journal."""
        reserve = Reserve(path.parent, reserve_bytes)

        def on_thread() -> tuple[Connection, int]:
            opened = _open(path)
            # Not before the lock: another coordinator's reserve is its own.
            reserve.take()
            return opened

        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        try:
            loop = asyncio.get_running_loop()
            connection, position = await loop.run_in_executor(thread, on_thread)
        except BaseException:
            thread.shutdown()
            raise
        return cls(path, connection, thread, reserve, position)

    @property
    def position(self) -> int:
        return self._position

    async def append(self, batch: Batch) -> None:
        def append_or_poison(connection: Connection) -> None:
            try:
                # Only here a number is given, so that appends in line get theirs in their order.
                self._with_reserve(_append, connection, batch, self._position)
                self._position += len(batch.entries)
            except JournalFull:
                raise
            except BaseException as error:
                self._poison = str(error)
                raise
            self._measure()

        await self._run("append to", append_or_poison)

    @property
    def shortage(self) -> str:
        return self._shortage

    async def measure(self) -> None:
        await self._run("measure", lambda connection: self._measure())

    def _measure(self) -> None:
        # In that order: where the directory is gone there is no disk to measure.
        self._shortage = self._place.lost() or self._reserve.shortage()

    def _with_reserve(
        self,
        write: Callable[Concatenate[Connection, P], T],
        connection: Connection,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Do one transaction; once more with the reserve given up when there was no room for it.
        JournalFull when there is none then either, and nothing of it is durable."""
        try:
            return write(connection, *args, **kwargs)
        except sqlite3.Error as error:
            if not self._is_for_want_of_room(connection, error):
                raise
            if not self._reserve.give_up():
                raise JournalFull(str(_refusal("append to", self._path, error))) from error
        return self._with_reserve(write, connection, *args, **kwargs)

    def _is_for_want_of_room(self, connection: Connection, error: sqlite3.Error) -> bool:
        """Whether the transaction was rolled back because there is no room for it.

        sqlite answers FULL when the file system has no room (ENOSPC), and undoes the transaction or
        leaves it open for the ROLLBACK that follows here (sqlite.org/lang_transaction.html,
        "Response To Errors Within A Transaction"). It writes the frame that makes a transaction
        valid last, into the WAL, and FULL means that a frame could not be written: so nothing is
        durable, also after a crash. A failed flush is another error (IOERR_FSYNC), after which all
        of it may be on the disk. A quota (EDQUOT) is IOERR_WRITE, as any failed write is.
        """
        if connection.in_transaction:
            return False
        code: int = getattr(error, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_IOERR_WRITE:
            return self._reserve.is_exhausted()
        return code & 0xFF == sqlite3.SQLITE_FULL

    async def replay(self) -> Replay:
        return await self._run("replay", _replay)

    async def history(
        self, stream: str, *, after: int = 0, limit: int
    ) -> Sequence[tuple[int, Entry]]:
        return await self._run("read", _history, stream, after, limit)

    async def record(self, job_id: str) -> Record | None:
        return await self._run("read", record, job_id)

    async def records(
        self, query: RecordQuery, *, after: tuple[int, str] | None, limit: int
    ) -> Sequence[Record]:
        return await self._run("read", records, query, after, limit)

    async def log_tail(self, job_id: str, node_index: int, attempt: int) -> LogTail | None:
        return await self._run("read", _log_tail, job_id, node_index, attempt)

    async def forget(self, stopped_before_ms: int, limit: int) -> Sequence[str]:
        def forget(connection: Connection) -> list[str]:
            return self._with_reserve(_forget, connection, stopped_before_ms, limit)

        return await self._run("delete from", forget)

    async def set_aside(self, rows: Sequence[SetAside]) -> None:
        await self._run("set aside in", set_aside, rows)

    async def close(self) -> None:
        """Wait for what was asked before, then let go of the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._connection.close)
        except sqlite3.Error as error:
            raise _refusal("close", self._path, error) from error
        finally:
            self._thread.shutdown()

    async def _run(
        self,
        verb: str,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if self._closed:
            raise JournalError(f"cannot {verb} {self._path}: it is closed")

        def on_thread() -> T:
            # Checked here and not before: a call may wait in line behind an append that fails.
            if self._poison is not None:
                raise JournalError(
                    f"cannot {verb} {self._path}: an append failed ({self._poison}), so what is "
                    "durable is unknown; start the coordinator again"
                )
            try:
                return work(self._connection, *args, **kwargs)
            except (sqlite3.Error, ValueError, OverflowError) as error:
                raise _refusal(verb, self._path, error) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, on_thread)


def _refusal(verb: str, path: Path, error: Exception) -> JournalError:
    # The low byte of an extended code is the primary one (sqlite.org/rescode.html).
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    hint = f"; {HINTS[code]}" if code in HINTS else ""
    kind = JournalInUse if code == sqlite3.SQLITE_BUSY else JournalError
    return kind(f"cannot {verb} {path}: {error}{hint}")


def _open(path: Path) -> tuple[Connection, int]:
    """The connection, and the number of the newest entry."""
    try:
        # sqlite gives its WAL file the mode of the file. O_EXCL: to open and close a file that is
        # in use by this process would drop the locks on it (sqlite.org/howtocorrupt.html, 2.2).
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise JournalError(f"cannot create {path}: {error.strerror}") from error
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
    except sqlite3.Error as error:
        raise _refusal("open", path, error) from error
    try:
        _prepare(connection, path)
        position = newest(connection)
    except sqlite3.Error as error:
        connection.close()
        raise _refusal("open", path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection, position


def _prepare(connection: Connection, path: Path) -> None:
    # Before the first read: that takes the lock, and sqlite keeps it while the file is open.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise JournalError(
            f"cannot open {path}: it is the database of another program; choose another data "
            "directory"
        )
    if version > SCHEMA_VERSION:
        raise JournalError(
            f"cannot open {path}: a newer version wrote it (schema {version}, this version knows "
            f"{SCHEMA_VERSION}); run that version or a later one"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # A long replay sorts; a hardened unit has nowhere to put temporary files.
    connection.execute("PRAGMA temp_store = MEMORY")
    with connection:
        connection.execute("BEGIN")
        if not tables:
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _append(connection: Connection, batch: Batch, position: int) -> None:
    with connection:
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO streams (name) VALUES (?) ON CONFLICT DO NOTHING",
            ((name,) for name in dict.fromkeys(entry.stream for entry in batch.entries)),
        )
        connection.executemany(
            "INSERT INTO events (seq, stream_id, at_ms, kind, body) VALUES"
            " (?, (SELECT stream_id FROM streams WHERE name = ? AND open), ?, ?, ?)",
            _event_rows(connection, batch.entries, position + 1),
        )
        connection.executemany(
            "INSERT OR REPLACE INTO tails (job_id, node_index, attempt, offset, data)"
            " VALUES (?, ?, ?, ?, ?)",
            ((t.job_id, t.node_index, t.attempt, t.offset, t.data) for t in batch.tails),
        )
        connection.executemany(PUT_RECORD, map(record_row, batch.records))
        connection.executemany(
            "UPDATE streams SET open = 0 WHERE name = ? AND open",
            ((name,) for name in batch.closed),
        )


def _event_rows(
    connection: Connection, entries: Sequence[Entry], first: int
) -> Iterator[tuple[int, str, int, str, str]]:
    """A row an entry. What an entry stands for goes when its own row is asked for, and so after
    the rows before it are in."""
    for number, each in enumerate(entries, first):
        if each.replaces:
            _drop_replaced(connection, each)
        yield number, each.stream, each.at_ms, each.kind, each.body


def _drop_replaced(connection: Connection, by: Entry) -> None:
    connection.execute(
        "DELETE FROM events WHERE seq IN (SELECT seq FROM events"
        " WHERE stream_id = (SELECT stream_id FROM streams WHERE name = ? AND open)"
        " ORDER BY seq DESC LIMIT ?)",
        (by.stream, by.replaces),
    )


def _replay(connection: Connection) -> Replay:
    try:
        return _read_all(connection)
    except sqlite3.OperationalError as error:
        # One that sqlite itself raises has a code; this is a text that is no UTF-8.
        if hasattr(error, "sqlite_errorcode"):
            raise
    # A broken byte becomes what JSON does not know, so that its row is found to be unreadable.
    connection.text_factory = lambda text: text.decode(errors="backslashreplace")
    try:
        return _read_all(connection)
    finally:
        connection.text_factory = str


def _read_all(connection: Connection) -> Replay:
    ended = connection.execute(
        "SELECT job_id, status, client_token, stopped_at_ms FROM records"
        " ORDER BY stopped_at_ms, job_id"
    )
    entries = [
        Entry(stream=stream, at_ms=at_ms, kind=kind, body=body, seq=seq)
        for stream, at_ms, kind, body, seq in connection.execute(REPLAY)
    ]
    return Replay(
        entries=entries,
        ended=[
            EndedJob(job_id=job_id, status=status, client_token=token, stopped_at_ms=stopped_at_ms)
            for job_id, status, token, stopped_at_ms in ended
        ],
    )


def _history(
    connection: Connection, stream: str, after: int, limit: int
) -> list[tuple[int, Entry]]:
    found: list[tuple[int, Entry]] = []
    for (stream_id,) in connection.execute(STREAM_IDS, (stream,)).fetchall():
        rows = connection.execute(HISTORY, (stream_id, after, limit - len(found)))
        found += (
            (number, Entry(stream=stream, at_ms=at_ms, kind=kind, body=body))
            for number, at_ms, kind, body in rows
        )
    return found


def _log_tail(connection: Connection, job_id: str, node_index: int, attempt: int) -> LogTail | None:
    row = connection.execute(
        "SELECT offset, data FROM tails WHERE job_id = ? AND node_index = ? AND attempt = ?",
        (job_id, node_index, attempt),
    ).fetchone()
    if row is None:
        return None
    offset, data = row
    return LogTail(job_id=job_id, node_index=node_index, attempt=attempt, offset=offset, data=data)


def _forget(connection: Connection, stopped_before_ms: int, limit: int) -> list[str]:
    with connection:
        connection.execute("BEGIN")
        rows = connection.execute(
            "SELECT job_id FROM records WHERE stopped_at_ms < ?"
            " ORDER BY stopped_at_ms, job_id LIMIT ?",
            (stopped_before_ms, limit),
        )
        job_ids = [job_id for (job_id,) in rows]
        jobs = [(job_id,) for job_id in job_ids]
        streams = [(f"job/{job_id}",) for job_id in job_ids]
        with newest_kept(connection):
            connection.executemany(
                "DELETE FROM events"
                " WHERE stream_id IN (SELECT stream_id FROM streams WHERE name = ?)",
                streams,
            )
        connection.executemany("DELETE FROM streams WHERE name = ?", streams)
        connection.executemany("DELETE FROM tails WHERE job_id = ?", jobs)
        connection.executemany("DELETE FROM records WHERE job_id = ?", jobs)
    return job_ids
