"""Deletes a directory with all that a job can have made in it.

A job may nest directories deeper than a path can name or a stack can hold, take their permissions
from them and give them names in no encoding. So one directory is open at a time, everything is
named within it, and the way back up is checked. Limits: what the file system itself refuses
(immutable files, another user's directories to an agent without root, a failing disk), and mounts,
which are never entered. Must not import anything of `agent`.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Level:
    """A directory on the way down: its name, which one it is, what it still holds."""

    name: str
    identity: tuple[int, int]
    directories: list[str]


def remove_tree(path: Path) -> None:
    """Delete the directory `path`; nothing happens when it is not there.

    OSError names what could not be deleted; what went before it is gone. A symbolic link is
    deleted, and never followed; `path` itself must be none, and nothing may be mounted on it.
    Nothing may change the tree meanwhile: what does so is an error.
    """
    try:
        above = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    here = above
    levels: list[_Level] = []
    try:
        try:
            mount = _mount(above)
            here = _enter(above, path.name, mount)
        except FileNotFoundError:
            return
        levels.append(_emptied(here, path.name))
        while levels:
            level = levels[-1]
            if level.directories:
                name = level.directories.pop()
                here = _closing(here, _enter(here, name, mount))
                levels.append(_emptied(here, name))
            elif len(levels) > 1:
                here = _closing(here, os.open("..", _OPEN, dir_fd=here))
                levels.pop()
                if _identity(here) != levels[-1].identity:
                    raise OSError(errno.EBUSY, "moved while it was deleted", level.name)
                os.rmdir(level.name, dir_fd=here)
            else:
                os.rmdir(level.name, dir_fd=above)
                return
    except OSError as error:
        # By then the path may be longer than anything can print.
        at = f"{path}, {len(levels)} deep" if len(levels) > 1 else str(path)
        raise OSError(error.errno, f"{error.strerror} ({at})", error.filename) from error
    finally:
        if here != above:
            os.close(here)
        os.close(above)


def _enter(parent: int, name: str, mount: bytes) -> int:
    """Open the directory `name`, with all rights of its owner."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if _mount(handle) != mount:
            raise OSError(errno.EBUSY, "something is mounted here", name)
        mode = os.fstat(handle).st_mode
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            # By its handle: a name could be another thing's by now.
            os.chmod(f"/proc/self/fd/{handle}", stat.S_IMODE(mode) | stat.S_IRWXU)  # noqa: PTH101
        return os.open(".", _OPEN, dir_fd=handle)
    finally:
        os.close(handle)


def _emptied(here: int, name: str) -> _Level:
    """Delete all but the directories."""
    directories = []
    with os.scandir(here) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=here)
    return _Level(name, _identity(here), directories)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _mount(fd: int) -> bytes:
    """Which mount an open file is on: unlike its device it tells a bind mount of the same disk."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_bytes().splitlines()
    return next(line for line in lines if line.startswith(b"mnt_id:"))


def _closing(old: int, new: int) -> int:
    os.close(old)
    return new
