"""A disk that is quickly full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk_at(directory: Path) -> Iterator[Path]:
    """A file system of 8 MiB at a directory, which is made."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "muster-test", str(directory)]
    subprocess.run(mount, check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def fill(disk: Path) -> None:
    """Take all the room there is, and all that has become free since the last time."""
    more = ["dd", "if=/dev/zero", f"of={_filler(disk)}", "bs=4k", "oflag=append", "conv=notrunc"]
    subprocess.run(more, capture_output=True, check=False)


def make_room(disk: Path) -> None:
    _filler(disk).unlink()


def _filler(disk: Path) -> Path:
    return disk / "filler"
