"""Numbers of entries in the sqlite journal: none is used twice, also when its entry is deleted.

The number of the newest row is that of the newest entry. So where that row is deleted, one without
a stream and without a text takes its place until there is a newer one. Must not import
`coordinator.core`, `rpc`, grpc or protobuf.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from sqlite3 import Connection

NO_STREAM = 0
"""Streams are numbered from 1."""


def newest(connection: Connection) -> int:
    """0 when there has been no entry."""
    (number,) = connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
    return int(number)


@contextmanager
def newest_kept(connection: Connection) -> Iterator[None]:
    """Rows may be deleted within, in one transaction with what this writes."""
    number = newest(connection)
    yield
    connection.execute("DELETE FROM events WHERE stream_id = ? AND seq < ?", (NO_STREAM, number))
    if number:
        connection.execute(
            "INSERT INTO events VALUES (?, ?, 0, '', '') ON CONFLICT DO NOTHING",
            (number, NO_STREAM),
        )
