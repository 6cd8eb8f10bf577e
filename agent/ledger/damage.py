"""What is wrong with a ledger that cannot be used: its content, or what is around it.

Content that is damaged is set aside, whole and under a dated name, since no later start could read
it either. What else is wrong is for a person, or passes.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from agent.ledger.port import LedgerError

logger = logging.getLogger(__name__)

_WRITABLE = "this agent's user must be able to write to it and to its directory"
_HINTS = {
    sqlite3.SQLITE_BUSY: "another agent uses this data directory; stop it first",
    sqlite3.SQLITE_CANTOPEN: _WRITABLE,
    sqlite3.SQLITE_PERM: _WRITABLE,
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_FULL: "make room on the disk",
    sqlite3.SQLITE_IOERR: "the disk fails; see what the kernel says of it (dmesg)",
    sqlite3.SQLITE_CORRUPT: "its content is damaged; the next start sets it aside",
    sqlite3.SQLITE_NOTADB: "its content is damaged; the next start sets it aside",
}


@dataclass(frozen=True, slots=True)
class Life:
    """What a ledger knows of the agent itself: how many starts it has counted, the last one's boot,
    and whose it is. All are nothing at the first start, and where a damaged ledger does not say."""

    incarnation: int = 0
    boot_id: str = ""
    owner: str = ""
    cluster_id: str = ""


class Damaged(Exception):
    """The content of the ledger cannot be read. `life` is what could be."""

    def __init__(self, reason: str, life: Life) -> None:
        super().__init__(reason)
        self.life = life


def code_of(error: BaseException | None) -> int:
    """The class of an error of sqlite; 0 for all others, and for text that is not UTF-8."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_of_content(error: sqlite3.Error) -> bool:
    """Whether it is the file's content that is wrong. A table that is missing is, too."""
    content = (0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return code_of(error) in content


def explained(path: Path, error: sqlite3.Error | OSError) -> LedgerError:
    """The error with what would be right."""
    if isinstance(error, OSError):
        hint = _WRITABLE if isinstance(error, PermissionError) else ""
        return LedgerError(f"{path}: {error.strerror}{hint and '; ' + hint}")
    hint = _HINTS.get(code_of(error), "")
    return LedgerError(f"{path}: {error}{hint and '; ' + hint}")


def set_aside(path: Path, damage: Damaged) -> None:
    """Keep a damaged ledger beside the one that is made next."""
    kept = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    try:
        # The file itself last: what is in a `-wal` would be taken for a new file's.
        for suffix in ("-wal", "-shm", ""):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(kept.with_name(kept.name + suffix))
    except OSError as error:
        raise LedgerError(
            f"{path} is damaged ({damage}) and cannot be set aside: {error.strerror}; move it away"
        ) from error
    logger.error(
        "%s is damaged: %s. It is kept as %s, and this agent goes on without it: what runs here is "
        "found from the host itself. Look after the disk",
        path,
        damage,
        kept.name,
    )
