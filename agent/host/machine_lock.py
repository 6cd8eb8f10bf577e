"""One agent for each host id on a machine: the holder of a lock that no data directory brings
along. Without it a second agent, with a copy of the files or with none, would adopt what the first
one runs, and end it. Imports nothing of this project.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import stat
import struct
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
    """Held from `take` until the process ends, or `release`.

    It is a lock on a file, and a name of the kernel's. Who cleans a directory deletes the file
    under its holder, and the directory depends on how the agent was started; the name exists for as
    long as its holder, for all of one user in one network namespace.
    """

    def __init__(self, directory: Path, host_id: str) -> None:
        self._path = directory / f"{host_id}.lock"
        self._host_id = host_id
        self._fd = -1
        self._name: socket.socket | None = None

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
            raise self._taken(holder, f"{self._path} is locked") from None
        except BaseException:
            os.close(fd)
            raise
        try:
            self._take_name()
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Let another agent have it. The file stays: deleting it could take away a lock that
        somebody is about to get. Idempotent."""
        if self._name is not None:
            self._name.close()
            self._name = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _take_name(self) -> None:
        directory = self._path.parent
        # Of one user's default directories, of which each of its agents may have got another.
        where = "" if directory == runtime_directory() else str(directory.resolve())
        whole = f"{os.geteuid()}\n{where}\n{self._host_id}".encode(errors="surrogateescape")
        name = b"\0" + NAME.encode() + b"-" + hashlib.sha256(whole).hexdigest().encode()
        taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            taken.bind(name)
            taken.listen(1)
        except OSError as error:
            taken.close()
            if error.errno != errno.EADDRINUSE:
                raise
            user, pid = _holder(name)
            # Everybody may take any name; another user has it only to be in the way.
            if user == os.geteuid():
                raise self._taken(str(pid or ""), "it is not where this one looks") from None
            return
        self._name = taken

    def _taken(self, holder: str, why: str) -> Taken:
        return Taken(
            f"another agent of host {self._host_id} runs on this machine"
            f"{f' (pid {holder})' if holder else ''}; stop it, or give this one another "
            f"--host-id ({why})"
        )


def _holder(name: bytes) -> tuple[int, int]:
    """User and pid of who listens on the name. One that is hung need not answer; where too many
    ask it, it is taken for an agent of this user."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asks:
        asks.setblocking(False)
        try:
            asks.connect(name)
        except BlockingIOError:
            return os.geteuid(), 0
        except ConnectionRefusedError:
            return -1, 0  # it has just gone, or was never an agent's
        credentials = asks.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _ = struct.unpack("3i", credentials)
        return uid, pid


def _check_own(directory: Path) -> None:
    """In a directory that everybody may write to, somebody else may have made it."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(f"{directory} is not a directory of uid {os.geteuid()}; delete it")
