"""`muster-coordinator backup` and `restore`: a copy of the journal, and a copy brought back.

`backup` may run while the coordinator does. That keeps its journal locked against every other
process, so sqlite cannot be asked for a copy: the files are copied as they are
(`journal/snapshot.py`), and the copy is what is looked at. `restore` needs a coordinator that is
stopped. Neither loses anything that is there: what a backup would overwrite is refused, and what a
restore replaces is kept beside it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from coordinator import shell
from coordinator.core.lineage import ACCEPT
from coordinator.core.settings import Settings
from coordinator.journal.port import JournalError
from coordinator.journal.snapshot import copy_closed, copy_open, log_of, must_be_free, sync
from coordinator.journal.sqlite import SqliteJournal

COMMANDS = ("backup", "restore")
NOT_DONE = 2
HELP = """\
muster-coordinator backup FILE --data-dir DIR    write a copy of the journal, also while the
                                                 coordinator runs; FILE must not be there yet
muster-coordinator restore FILE --data-dir DIR   bring a copy back; the coordinator must be stopped.
                                                 The journal that is there is kept beside it
Both look at the copy, and exit with 0 when it is done and with 2 when it is not. docs/backup.md
says what a restore means for jobs.

"""


def run(command: str, file: Path, data_dir: Path) -> int:
    """0: done; 2: not done, and what was there before is there still."""
    act: Callable[[Path, Path], str] = backup if command == "backup" else restore
    try:
        sys.stdout.write(act(file, data_dir / "journal.db") + "\n")
    except (JournalError, OSError) as error:
        sys.stderr.write(f"muster-coordinator {command}: {error}\n")
        return NOT_DONE
    return 0


def backup(file: Path, journal: Path) -> str:
    """Write a copy of `journal` to `file`, with mode 0600; what it holds, for people. Raises
    JournalError when `file` is there already, or a coordinator could not start with the copy."""
    if file.exists():
        raise JournalError(f"{file} is there already; name another file, or move that one away")
    made = _beside(file, "partial")
    try:
        copy_open(journal, made)
        told = _looked_at(made)
        sync(made)
        # A rename would replace a file that has come meanwhile.
        os.link(made, file)
    finally:
        made.unlink(missing_ok=True)
    sync(file.parent)
    return f"{file}: {told}"


def restore(file: Path, journal: Path) -> str:
    """Put a copy of `file` in the place of `journal`; what was done, for people. Raises
    JournalError when a coordinator has the journal open, or could not start with the copy."""
    journal.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = _beside(journal, "restored")
    try:
        copy_closed(file, made)
        told = _looked_at(made)
        sync(made)
        kept = _put_aside(journal) if journal.exists() else None
        made.replace(journal)
    finally:
        made.unlink(missing_ok=True)
    sync(journal.parent)
    before = f"; the journal that was there is {kept}" if kept is not None else ""
    return (
        f"{journal}: {told}{before}. Start the coordinator now: where hosts have seen a newer "
        f"journal it places nothing before it is started once with {ACCEPT}"
    )


def _beside(path: Path, word: str) -> Path:
    return path.with_name(f"{path.name}.{word}-{os.getpid()}")


def _looked_at(copy: Path) -> str:
    """How much is in a copy with which a coordinator could start. Raises JournalError."""

    async def look() -> str:
        opened = await SqliteJournal.open(copy)
        try:
            replay = await opened.replay()
        finally:
            await opened.close()
        machine = shell.replayed(Settings(), replay)
        return (
            f"{len(replay.entries)} entries, {len(machine.state.jobs)} jobs that have not ended, "
            f"{len(replay.ended)} that have"
        )

    try:
        return asyncio.run(look())
    except shell.UnreadableEntry as error:
        raise JournalError(f"a coordinator could not start with the copy: {error}") from error


def _put_aside(journal: Path) -> Path:
    """Keep the journal under another name, also when it is damaged. At every moment there is one
    under its own name: a coordinator that finds none would begin with an empty one."""
    must_be_free(journal)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    kept = journal.with_name(f"{journal.name}.before-{now}")
    os.link(journal, kept)
    # There is one if the coordinator was killed. Left here, it would be taken for a part of the new
    # journal; without it, the old one would be older than hosts have seen, and known as that.
    log = log_of(journal)
    if log.exists():
        log.rename(log_of(kept))
    return kept
