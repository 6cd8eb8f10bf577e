"""Final records in the sqlite journal: how they are written, found and listed.

Runs on the journal's thread. Must not import `coordinator.core`, `rpc`, grpc or protobuf.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from sqlite3 import Connection

from coordinator.journal.port import Record, RecordQuery

RECORD_COLUMNS = tuple(field.name for field in dataclasses.fields(Record))
RECORD = f"SELECT {', '.join(RECORD_COLUMNS)} FROM records"
PUT_RECORD = f"""
    INSERT OR REPLACE INTO records (job_name_folded, {", ".join(RECORD_COLUMNS)})
    VALUES (:job_name_folded, {", ".join(f":{column}" for column in RECORD_COLUMNS)})
"""


def record_row(record: Record) -> dict[str, object]:
    row: dict[str, object] = {column: getattr(record, column) for column in RECORD_COLUMNS}
    return row | {"job_name_folded": record.job_name.casefold()}


def _as_records(rows: sqlite3.Cursor) -> list[Record]:
    return [Record(**dict(zip(RECORD_COLUMNS, row, strict=True))) for row in rows]


def record(connection: Connection, job_id: str) -> Record | None:
    rows = connection.execute(f"{RECORD} WHERE job_id = ?", (job_id,))
    return next(iter(_as_records(rows)), None)


def records(
    connection: Connection, query: RecordQuery, after: tuple[int, str] | None, limit: int
) -> list[Record]:
    terms: list[str] = []
    values: list[object] = []

    def restrict(term: str, *operands: object) -> None:
        if operands[0] is not None:
            terms.append(term)
            values.extend(operands)

    restrict("job_queue = ?", query.job_queue)
    restrict("status = ?", query.status)
    restrict("definition_revision = ?", query.definition_revision)
    restrict("created_at_ms < ?", query.created_before_ms)
    restrict("created_at_ms > ?", query.created_after_ms)
    if query.job_name is not None:
        _restrict_name("job_name_folded", query.job_name.casefold(), query.name_prefix, restrict)
    if query.definition_name is not None:
        _restrict_name("definition_name", query.definition_name, query.definition_prefix, restrict)
    if after is not None:
        restrict("(created_at_ms, job_id) < (?, ?)", *after)
    where = f" WHERE {' AND '.join(terms)}" if terms else ""
    rows = connection.execute(
        f"{RECORD}{where} ORDER BY created_at_ms DESC, job_id DESC LIMIT ?", [*values, limit]
    )
    return _as_records(rows)


def _restrict_name(column: str, name: str, is_prefix: bool, restrict: Callable[..., None]) -> None:
    if is_prefix:
        # A range, since LIKE has wildcards. Texts compare by bytes and 0xFF is in no UTF-8 text,
        # so the upper bound lies above every text with this prefix. The `+` keeps the index for
        # the order of the answer, which ends at its limit.
        restrict(f"+{column} >= ? AND +{column} < CAST(? AS TEXT)", name, name.encode() + b"\xff")
    else:
        restrict(f"{column} = ?", name)
