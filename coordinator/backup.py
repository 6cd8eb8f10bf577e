"""`muster-coordinator backup` and `restore`: a copy of the journal, and a copy brought back.

`backup` may run while the coordinator does. That keeps its journal locked against every other
process, so sqlite cannot be asked for a copy: the files are copied as they are
(`journal/snapshot.py`), and the copy is what is looked at. `restore` needs a coordinator that is
stopped. Neither loses anything that is there: what a backup would overwrite is refused, and what a
restore replaces is kept beside it.
"""

from __future__ import annotations

import asyncio
import glob
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from coordinator import shell
from coordinator.core.lineage import ACCEPT
from coordinator.core.settings import Settings
from coordinator.journal.port import JournalError
from coordinator.journal.snapshot import copy_closed, copy_open, kept_free, log_of, sync
from coordinator.journal.sqlite import SqliteJournal

COMMANDS = ("backup", "restore")
NOT_DONE = 2
_KEPT = ".before-"
"""Behind the name of a journal that a restore keeps, and before the time."""
HELP = """\
muster-coordinator backup FILE --data-dir DIR    write a copy of the journal, also while the
                                                 coordinator runs; FILE must not be there yet
muster-coordinator restore FILE --data-dir DIR   bring a copy back; the coordinator must be stopped.
                                                 The journal that is there is kept beside it
Both look at the copy, and exit with 0 when it is done and with 2 when it is not. --config FILE
stands for --data-dir DIR where the file says data_dir. docs/backup.md says what a restore means for
jobs.

"""


def run(command: str, file: Path, data_dir: Path) -> int:
    """0: done; 2: not done, and what was there before is there still."""
    act: Callable[[Path, Path], str] = backup if command == "backup" else restore
    try:
        sys.stdout.write(act(file, data_dir / "journal.db") + "\n")
    except JournalError as error:
        sys.stderr.write(f"muster-coordinator {command}: {error}\n")
        return NOT_DONE
    except OSError as error:
        # Of a write it names no file.
        where = f" ({error.filename})" if error.filename else ""
        doing = f"write {file}" if command == "backup" else f"bring {file} back to {data_dir}"
        sys.stderr.write(f"muster-coordinator {command}: cannot {doing}: {error.strerror}{where}\n")
        return NOT_DONE
    return 0


def backup(file: Path, journal: Path) -> str:
    """Write a copy of `journal` to `file`, with mode 0600; what it holds, for people. Raises
    JournalError when `file` is there already, or a coordinator could not start with the copy."""
    if file.exists():
        raise JournalError(f"{file} is there already; name another file, or move that one away")
    with _made_beside(file, "partial") as made:
        copy_open(journal, made)
        told = _looked_at(made)
        sync(made)
        # A rename alone would replace a file that has come meanwhile, and not every file system
        # that backups are kept on has links.
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        made.replace(file)
    sync(file.parent)
    return f"{file}: {told}"


def restore(file: Path, journal: Path) -> str:
    """Put a copy of `file` in the place of `journal`, with its owner; what was done, for people.
    Raises JournalError when a coordinator has the journal open, or could not start with the copy.
    """
    journal.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _made_beside(journal, "restored") as made:
        # What a restore kept is whole with its log: no coordinator ran when it was put aside.
        is_kept = file.name.startswith(f"{journal.name}{_KEPT}") and log_of(file).exists()
        (copy_open if is_kept else copy_closed)(file, made)
        told = _looked_at(made)
        _own_as(journal if journal.exists() else journal.parent, made)
        sync(made)
        if journal.exists():
            with kept_free(journal):
                kept = _put_aside(journal)
                made.replace(journal)
        else:
            kept = _put_aside(journal)
            # Nothing is there to be locked: a coordinator that has started meanwhile keeps its own.
            os.link(made, journal)
    sync(journal.parent)
    before = f"; what was there is kept as {kept}" if kept is not None else ""
    return (
        f"{journal}: {told}{before}. Start the coordinator now: where hosts have seen a newer "
        f"journal it places nothing before it is started once with {ACCEPT}"
    )


@contextmanager
def _made_beside(path: Path, word: str) -> Iterator[Path]:
    """The name of a file that is made within; what is left of it then is deleted."""
    made = path.with_name(f"{path.name}.{word}-{os.getpid()}")
    try:
        yield made
    finally:
        for each in path.parent.glob(f"{glob.escape(made.name)}*"):
            each.unlink()


def _own_as(other: Path, made: Path) -> None:
    """Root restores what the coordinator's user must be able to open."""
    if os.geteuid() == 0:
        status = other.stat()
        os.chown(made, status.st_uid, status.st_gid)


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
            f"{len(replay.entries)} entries; jobs not ended: {len(machine.state.jobs)}, "
            f"ended: {len(replay.ended)}"
        )

    try:
        return asyncio.run(look())
    except shell.UnreadableEntry as error:
        raise JournalError(f"a coordinator could not start with the copy: {error}") from error


def _put_aside(journal: Path) -> Path | None:
    """Keep what is there under another name, also when it is damaged; None when nothing is. At
    every moment there is a journal under its own name, if there was one: a coordinator that finds
    none would begin with an empty one."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    kept = journal.with_name(f"{journal.name}{_KEPT}{now}")
    if journal.exists():
        os.link(journal, kept)
    # There is one if the coordinator was killed, also where the journal alone was moved away. Left
    # here, it would be taken for a part of the new journal; without it, the old one would be older
    # than hosts have seen, and known as that.
    log = log_of(journal)
    if log.exists():
        log.rename(log_of(kept))
    return next((each for each in (kept, log_of(kept)) if each.exists()), None)
