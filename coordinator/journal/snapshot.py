"""A copy of a journal's file, also while a coordinator writes to it. For the sqlite journal alone.

The coordinator holds its journal in exclusive mode, so no other process can read it by way of
sqlite. What sqlite guarantees of the two files is enough (sqlite.org/walformat.html): the database
file is changed by checkpoints only, which copy frames of the log into it, and the log keeps those
frames until it begins anew, with another salt in its header. So database first, log second: as long
as the salt is the same before and after, every page that a checkpoint was writing meanwhile is in
the copied log, and what opens the copy puts it right. A frame at the log's end that was copied in
half has a wrong checksum, and is left out with its transaction, which was not committed then.

Must not import `coordinator.core`, `rpc`, grpc or protobuf.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.journal.port import JournalError, JournalInUse
from coordinator.journal.sqlite import APPLICATION_ID

_HEADER_BYTES = 32
_LOCKED_BYTES = 510, 0x40000002
"""How many sqlite locks, and from where."""
_TRIES = 50
"""A log begins anew after some megabytes of commits: so often in a row it does not, unless copying
the database takes longer than that."""


def copy_open(journal: Path, made: Path) -> None:
    """Copy a journal that may be written to meanwhile; `made` is one file, with mode 0600. All that
    was committed before the call is in it. Raises JournalError."""
    if not journal.exists():
        raise JournalError(f"there is no journal {journal}; name the coordinator's data directory")
    log, made_log = log_of(journal), log_of(made)
    try:
        for _ in range(_TRIES):
            header = _header(log)
            _copy(journal, made)
            made_log.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                _copy(log, made_log)
            if _header(log) == header:
                _fold(made, journal)
                return
    finally:
        made_log.unlink(missing_ok=True)
    raise JournalError(
        f"cannot copy {journal}: the coordinator writes faster than this can copy; try again when "
        "fewer jobs start and end"
    )


def copy_closed(file: Path, made: Path) -> None:
    """Copy a journal that nobody writes to, such as a backup. Raises JournalError when there is a
    log beside it: with that it would be a copy of two files, and `backup` makes one."""
    if not file.exists():
        raise JournalError(f"there is no file {file}")
    if _header(log_of(file)):
        raise JournalError(
            f"{log_of(file)} is a part of {file}, so that is no backup but a copied data "
            "directory, or a journal in use; make one file of it: muster-coordinator backup FILE "
            "--data-dir DIR"
        )
    _copy(file, made)
    _fold(made, file)


@contextmanager
def kept_free(journal: Path) -> Iterator[None]:
    """No coordinator opens the journal within; JournalInUse when one has it open. By the lock
    itself (sqlite.org/fileformat2.html, "The Lock-Byte Page"): sqlite throws away the log of a
    journal that is damaged. Within, this process must not open the file, which would drop the lock.
    """
    with journal.open("rb+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *_LOCKED_BYTES)
        except OSError as error:
            raise JournalInUse(
                f"{journal} is locked: another coordinator uses this data directory; stop it first"
            ) from error
        yield


def sync(path: Path) -> None:
    """What a file holds, or a directory names, survives a power cut from now on."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def log_of(path: Path) -> Path:
    """The write-ahead log of a database."""
    return path.with_name(f"{path.name}-wal")


def _header(log: Path) -> bytes:
    """With the salt; empty when there is no log, or nothing in it yet."""
    try:
        with log.open("rb") as file:
            return file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return b""


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read:
        opened = os.open(target, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(opened, "wb") as write:
            shutil.copyfileobj(read, write, 1024 * 1024)


def _fold(made: Path, source: Path) -> None:
    """Take the log of a copy into the database, and look whether all is sound."""
    try:
        with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        raise JournalError(f"the copy of {source} cannot be read: {error}") from error
    if verdict != "ok":
        raise JournalError(f"the copy of {source} is damaged: {verdict}")
    if application != APPLICATION_ID:
        raise JournalError(f"{source} is no journal of a coordinator")
