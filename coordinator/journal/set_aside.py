"""Rows that were set aside in the sqlite journal: moved out of their streams, and kept.

Runs on the journal's thread. Must not import `coordinator.core`, `rpc`, grpc or protobuf.
"""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection

from coordinator.journal.numbers import newest_kept
from coordinator.journal.port import SetAside

# Made by the first repair only.
SET_ASIDE = """
CREATE TABLE IF NOT EXISTS set_aside (
    seq INTEGER NOT NULL,
    stream TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    reason TEXT NOT NULL
)
"""


def set_aside(connection: Connection, rows: Sequence[SetAside]) -> None:
    with connection:
        connection.execute("BEGIN")
        connection.execute(SET_ASIDE)
        with newest_kept(connection):
            for row in rows:
                _set_aside(connection, row)


def _set_aside(connection: Connection, row: SetAside) -> None:
    (stream_id,) = connection.execute(
        "SELECT stream_id FROM events WHERE seq = ?", (row.seq,)
    ).fetchone()
    connection.execute(
        "INSERT INTO set_aside SELECT seq, name, at_ms, kind, body, ?"
        " FROM events JOIN streams USING (stream_id) WHERE seq = ?",
        (row.reason, row.seq),
    )
    connection.execute("DELETE FROM events WHERE seq = ?", (row.seq,))
    if row.instead is not None:
        new = row.instead
        connection.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
            (row.seq, stream_id, new.at_ms, new.kind, new.body),
        )
