"""`muster-coordinator check` and `repair`: the journal of a coordinator that does not run.

`check` says which rows cannot be read, and changes nothing; `repair` sets them aside. Both are
refused while a coordinator has the journal open.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from coordinator.journal.port import JournalError
from coordinator.journal.sqlite import SqliteJournal
from coordinator.repair import Plan, plan

COMMANDS = ("check", "repair")
FAULTS_FOUND = 1
NOT_LOOKED = 2
HELP = """\
muster-coordinator check --data-dir DIR    say which rows of the journal cannot be read, and what
                                           setting them aside means; changes nothing
muster-coordinator repair --data-dir DIR   move these rows to the table set_aside; deletes nothing
Both need a coordinator that is stopped. They exit with 0 when there is no fault, or none any more,
with 1 when there are faults, and with 2 when the journal could not be looked at. --config FILE
stands for --data-dir DIR where the file says data_dir.

"""


def run(command: str, data_dir: Path) -> int:
    """0: the journal has no fault, or none any more; 1: faults were found; 2: it could not be
    looked at."""
    path = data_dir / "journal.db"
    try:
        if not path.exists():
            raise JournalError(f"there is no journal {path}; name the coordinator's data directory")
        return asyncio.run(_run(command, path))
    except JournalError as error:
        sys.stderr.write(f"muster-coordinator {command}: {error}\n")
        return NOT_LOOKED


async def _run(command: str, path: Path) -> int:
    journal = await SqliteJournal.open(path)
    try:
        entries = (await journal.replay()).entries
        found = plan(entries)
        _say(found, len(entries))
        if command == "check" or not found.rows:
            return FAULTS_FOUND if found.faults or found.impossible else 0
        await journal.set_aside(found.rows)
        left = plan((await journal.replay()).entries)
    finally:
        await journal.close()
    if left.faults or left.impossible:
        _say(left, len(entries))
        return FAULTS_FOUND
    _line(f"{len(found.rows)} rows were moved to the table set_aside; start the coordinator now")
    return 0


def _say(found: Plan, rows: int) -> None:
    for fault in found.faults:
        _line(str(fault))
    if found.impossible:
        _line(
            f"the rows can be read, and together they are impossible: {found.impossible}; this is "
            "a defect of Muster that `repair` cannot mend: please report it"
        )
    if found.faults:
        _line(f"{len(found.faults)} of {rows} rows cannot be read")
    elif not found.impossible:
        _line(f"no fault in {rows} rows")


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
