"""One agent for each host id on a machine: the holder of a lock that no data directory brings
along. Without it a second agent, with a copy of the files or with none, would adopt what the first
one runs, and end it. Imports nothing of this project.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

NAME = "muster-agent"


class Taken(Exception):
    """Another agent has the lock. The text is for people."""


def runtime_directory() -> Path:
    """Where this user's agents on this machine meet: gone at the next boot, as locks are."""
    if os.geteuid() == 0:
        return Path("/run", NAME)
    session = os.environ.get("XDG_RUNTIME_DIR")
    return Path(session, NAME) if session else Path(f"/tmp/{NAME}-{os.geteuid()}")


class MachineLock:
    """Held from `take` until the process ends, or `release`."""

    def __init__(self, directory: Path, host_id: str) -> None:
        self._path = directory / f"{host_id}.lock"
        self._host_id = host_id
        self._fd = -1

    def take(self) -> None:
        """Taken when another agent has it; OSError when nobody can."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_own(self._path.parent)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            raise Taken(
                f"another agent of host {self._host_id} runs on this machine"
                f"{f' (pid {holder})' if holder else ''}; stop it, or give this one another "
                f"--host-id ({self._path} is locked)"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Let another agent have it. The file stays: deleting it could take away a lock that
        somebody is about to get. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _check_own(directory: Path) -> None:
    """In a directory that everybody may write to, somebody else may have made it."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(f"{directory} is not a directory of uid {os.geteuid()}; delete it")
