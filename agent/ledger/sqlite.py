"""The ledger as one sqlite file: WAL, synchronous=FULL, locked by the one agent that uses it."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from agent.core.assignment import NodeKey
from agent.core.state import Slot
from agent.ledger import other_clusters
from agent.ledger.codec import decode, encode
from agent.ledger.damage import Damaged, Life, code_of, explained, is_of_content, set_aside
from agent.ledger.port import TOKEN_BYTES_MAX, LedgerContents, LedgerError

logger = logging.getLogger(__name__)

_BALLAST_BYTES = 1024 * 1024
_CONTACT_BYTES = 20
_VERSION = 1
_SCHEMA = """
create table slot (name text primary key, body text not null) strict;
create table life (one integer primary key check (one = 1), incarnation integer not null,
                   boot_id text not null) strict;
"""
_OWNER = """
create table if not exists owner (one integer primary key check (one = 1), name text not null,
                                  cluster_id text not null) strict;
insert or ignore into owner values (1, '', '');
"""
"""Not in the ledgers of the first releases, which do not mind it; so it is with other clusters."""


def _save(db: sqlite3.Connection, keep: Sequence[Slot], forget: Sequence[NodeKey]) -> None:
    """All or nothing."""
    try:
        db.execute("begin immediate")
        db.executemany(
            "insert into slot values (?, ?) on conflict (name) do update set body = excluded.body",
            [(slot.key.name, encode(slot)) for slot in keep],
        )
        db.executemany("delete from slot where name = ?", [(key.name,) for key in forget])
        db.execute("commit")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("rollback")
        raise


def _read_life(db: sqlite3.Connection) -> Life:
    asked = "select incarnation, boot_id, name, cluster_id from life, owner"
    found = db.execute(asked).fetchone()
    if found is None:
        raise Damaged("the table life is empty", Life())
    return Life(*found)


def _read_slots(db: sqlite3.Connection, life: Life) -> tuple[Slot, ...]:
    slots = []
    # As bytes: sqlite's own error would show a text that it cannot decode, with all its secrets.
    found = db.execute("select cast(name as blob), cast(body as blob) from slot order by rowid")
    for name, body in found.fetchall():
        try:
            slots.append(decode(body.decode()))
        except (KeyError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
            row = name.decode(errors="replace")
            raise Damaged(f"the row of {row} cannot be read: {why}", life) from error
    return tuple(slots)


class SqliteLedger:
    """`agent.db` and `contact` in the data directory, readable by its owner alone: a slot holds
    the environment of a job. `ballast` is room that is given up when the disk is full, so that
    what runs can still be stopped, and that is written down; it is made again when there is room.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "agent.db"
        self._contact_path = data_dir / "contact"
        self._ballast_path = data_dir / "ballast"
        self._contact = -1
        self._db: sqlite3.Connection | None = None
        # A save goes on in its thread when the task that waits for it is cancelled: closing under
        # it would crash the process.
        self._saving = threading.Lock()

    def open(self, boot_id: str, owner: str) -> LedgerContents:
        try:
            return self._open_whole(boot_id, owner)
        except LedgerError as error:
            if code_of(error.__cause__) != sqlite3.SQLITE_FULL or not self._drop_ballast():
                raise
            return self._open_whole(boot_id, owner)

    def _open_whole(self, boot_id: str, owner: str) -> LedgerContents:
        """The ledger that is there, or a new one in place of one that is damaged."""
        try:
            return self._open(boot_id, owner, None)
        except Damaged as damage:
            set_aside(self._path, damage)
            return self._open(boot_id, owner, damage.life)

    def _open(self, boot_id: str, owner: str, before: Life | None) -> LedgerContents:
        """`before` is what a ledger begins with that is made in place of another."""
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            life, slots, elsewhere = self._read(boot_id, owner, before)
            self._contact = os.open(self._contact_path, os.O_CREAT | os.O_RDWR, 0o600)
        except (sqlite3.Error, OSError) as error:
            self.close()
            if isinstance(error, sqlite3.Error) and is_of_content(error):
                raise Damaged(str(error), Life()) from error
            raise explained(self._path, error) from error
        except (Damaged, LedgerError):
            self.close()
            raise
        self._take_ballast()
        # Where nobody knows of which boot it is, it is of this one or nothing runs that it is for.
        has_contact = life.boot_id in ("", boot_id)
        return LedgerContents(
            slots=slots,
            incarnation=life.incarnation + 1,
            boot_id=life.boot_id,
            last_contact_ms=self._read_contact() if has_contact else None,
            journal_token=self._read_token(),
            cluster_id=life.cluster_id,
            elsewhere=elsewhere,
        )

    def _read(
        self, boot_id: str, owner: str, before: Life | None
    ) -> tuple[Life, tuple[Slot, ...], tuple[NodeKey, ...]]:
        # The shell's thread pool calls one at a time, though not always the same thread.
        db = sqlite3.connect(self._path, timeout=1.0, isolation_level=None, check_same_thread=False)
        self._db = db
        db.execute("pragma locking_mode = exclusive")
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")
        self._prepare_schema(db, before)
        # Else a page that is damaged is found when it is needed, in the midst of a job.
        checked = db.execute("pragma quick_check(1)").fetchone()[0]
        if checked != "ok":
            raise Damaged(checked.splitlines()[-1], Life())
        db.executescript(_OWNER + other_clusters.SCHEMA)
        db.execute("begin immediate")
        life = _read_life(db)
        # First of all: a ledger that is to be set aside stays as it is.
        slots = _read_slots(db, life)
        db.execute("update life set incarnation = ?, boot_id = ?", (life.incarnation + 1, boot_id))
        if life.owner not in ("", owner):
            self._log_left(db, f"{life.owner}, and this is {owner}")
            db.execute("delete from slot")
            other_clusters.forget_all(db)
            slots = ()
        db.execute("update owner set name = ?", (owner,))
        elsewhere = other_clusters.keys(db)
        db.execute("commit")
        return life, slots, elsewhere

    def _log_left(self, db: sqlite3.Connection, whose: str) -> None:
        """Of somebody else: what the slots name is not this agent's to end."""
        names = ", ".join(name for (name,) in db.execute("select name from slot").fetchall())
        if names:
            logger.error("%s is of %s; left to their leases: %s", self._path, whose, names)

    def keep_cluster(self, cluster_id: str) -> None:
        with self._saving:
            if self._db is None:
                raise LedgerError(f"{self._path} is closed")
            try:
                self._db.execute("begin immediate")
                (before,) = self._db.execute("select cluster_id from owner").fetchone()
                if before not in ("", cluster_id):
                    self._change_cluster(self._db, before, cluster_id)
                self._db.execute("update owner set cluster_id = ?", (cluster_id,))
                self._db.execute("commit")
            except (sqlite3.Error, OSError) as error:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise explained(self._path, error) from error

    def _change_cluster(self, db: sqlite3.Connection, before: str, after: str) -> None:
        self._log_left(db, f"cluster {before}, and the coordinator is of {after}")
        (boot_id,) = db.execute("select boot_id from life").fetchone()
        contact = os.pread(self._contact, _CONTACT_BYTES + TOKEN_BYTES_MAX + 2, 0)
        other_clusters.put_away(db, before, other_clusters.Memory(boot_id, contact))
        memory = other_clusters.take_back(db, after)
        if memory is not None:
            db.execute("update life set boot_id = ?", (memory.boot_id,))
        # Before the commit: if this start ends between the two, leases of the cluster before are
        # too short, and none of either is too long. Nothing runs for a cluster that is new here.
        new = b"%0*d \n" % (_CONTACT_BYTES, 0)
        os.pwrite(self._contact, memory.contact if memory is not None else new, 0)

    def _prepare_schema(self, db: sqlite3.Connection, before: Life | None) -> None:
        version = db.execute("pragma user_version").fetchone()[0]
        if version == 0:
            if before is None and self._contact_path.exists():
                logger.warning(
                    "%s is not there, or is empty, though an agent has run here before: this agent "
                    "goes on without it, and finds what runs here from the host itself",
                    self._path,
                )
            life = before or Life()
            db.execute("begin immediate")
            for statement in (*_SCHEMA.split(";")[:-1], *_OWNER.split(";")[:-1]):
                db.execute(statement)
            db.execute("insert into life values (1, ?, ?)", (life.incarnation, life.boot_id))
            db.execute("update owner set name = ?, cluster_id = ?", (life.owner, life.cluster_id))
            db.execute(f"pragma user_version = {_VERSION}")
            db.execute("commit")
        elif version > _VERSION:
            raise LedgerError(
                f"{self._path} was written by a newer agent (format {version}, this one reads "
                f"{_VERSION}); upgrade this agent"
            )
        elif version != _VERSION:
            raise Damaged(f"it has the format {version}, which no agent writes", Life())

    def save(self, keep: Sequence[Slot], forget: Sequence[NodeKey]) -> None:
        with self._saving:
            if self._db is None:
                raise LedgerError(f"{self._path} is closed")
            try:
                try:
                    _save(self._db, keep, forget)
                except sqlite3.Error as error:
                    if code_of(error) != sqlite3.SQLITE_FULL or not self._drop_ballast():
                        raise
                    _save(self._db, keep, forget)
            except sqlite3.Error as error:
                raise explained(self._path, error) from error
            self._take_ballast()

    def keep_contact(self, last_contact_ms: int | None) -> None:
        text = b" " * 20 if last_contact_ms is None else b"%020d" % last_contact_ms
        self._write_contact(text, 0)

    def keep_token(self, token: bytes) -> None:
        # Behind the contact, in one write; what is left of a longer one comes after the line.
        self._write_contact(b" %b\n" % token, _CONTACT_BYTES)

    def _write_contact(self, text: bytes, offset: int) -> None:
        try:
            os.pwrite(self._contact, text, offset)
        except OSError as error:
            # A descriptor has no name, and who reads this has to find the disk.
            raise OSError(error.errno, error.strerror, str(self._contact_path)) from error

    def _take_ballast(self) -> None:
        """Only where it leaves as much again: a full disk stays as it is."""
        try:
            room = os.statvfs(self._path.parent)
            if self._ballast_path.exists() or room.f_bavail * room.f_frsize < 2 * _BALLAST_BYTES:
                return
            fd = os.open(self._ballast_path, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                os.posix_fallocate(fd, 0, _BALLAST_BYTES)
            finally:
                os.close(fd)
        except OSError as error:
            logger.warning(
                "cannot make %s, whose room is given up when the disk is full: %s",
                self._ballast_path,
                error.strerror,
            )

    def _drop_ballast(self) -> bool:
        try:
            self._ballast_path.unlink()
        except OSError:
            return False
        logger.error("the disk of %s is full; going on with the room kept for that", self._path)
        return True

    def _read_contact(self) -> int | None:
        text = os.pread(self._contact, _CONTACT_BYTES, 0)
        return int(text) if text.isdigit() else None

    def _read_token(self) -> bytes:
        text = os.pread(self._contact, TOKEN_BYTES_MAX + 2, _CONTACT_BYTES)
        line, end, _ = text.partition(b"\n")
        return line[1:] if end and line.startswith(b" ") else b""

    def close(self) -> None:
        with self._saving:
            if self._db is not None:
                self._db.close()
                self._db = None
        if self._contact >= 0:
            os.close(self._contact)
            self._contact = -1
