"""The copying of an engine's log: through rotations and restarts, no byte lost or repeated."""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent import spool
from agent.engine.output import OutputCopy
from agent.engine.parse import json_file_output
from agent.host import inotify
from tests.wait import eventually

LIMIT = 1 << 20


def lines(log: bytes) -> tuple[bytes, int]:
    """A log whose lines are the output."""
    length = log.rfind(b"\n") + 1
    return log[:length], length


class Engine:
    """An engine's log: written, rotated as docker does, or replaced as conmon does."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "log" / "json.log"
        self.log.parent.mkdir()
        self.log.touch()
        self.spool = directory / "spool"
        self.written = b""

    def write(self, text: str) -> None:
        self.written += text.encode()
        with self.log.open("ab") as log:
            log.write(text.encode())

    def rotate(self, keep: int) -> None:
        oldest = self.log.with_name(f"{self.log.name}.{keep}")
        oldest.unlink(missing_ok=True)
        for n in range(keep - 1, 0, -1):
            older = self.log.with_name(f"{self.log.name}.{n}")
            if older.exists():
                older.rename(self.log.with_name(f"{self.log.name}.{n + 1}"))
        if keep:
            self.log.rename(self.log.with_name(f"{self.log.name}.1"))
        else:
            self.log.unlink()
        self.log.touch()

    def copy(self) -> OutputCopy:
        return OutputCopy(self.log, lines, self.spool, LIMIT)

    def read(self) -> bytes:
        return spool.read(self.spool, 0, LIMIT)[1]

    async def copied(self) -> None:
        """Return when all that was written is in the spool."""

        async def is_there() -> bool:
            return self.read() == self.written

        await eventually(is_there, 10, lambda: f"{self.read()!r}")


@pytest.mark.parametrize("keep", [0, 2])
async def test_every_line_once_through_rotations_and_restarts(tmp_path: Path, keep: int) -> None:
    engine = Engine(tmp_path)
    for life in range(3):
        copy = engine.copy()
        for turn in range(4):
            engine.write(f"{life} {turn} one\n")
            engine.write(f"{life} {turn} two\n")
            await engine.copied()
            if turn == 1:
                engine.rotate(keep)
        await copy.close()
        # While no agent reads: as much as the log that is there holds.
        engine.write(f"{life} unseen\n")
    copy = engine.copy()
    await copy.drained()
    assert engine.read() == engine.written


async def test_every_line_once_while_inotify_is_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: object) -> int:
        ctypes.set_errno(errno.EMFILE)
        return -1

    monkeypatch.setattr(inotify, "_libc", SimpleNamespace(inotify_init1=refused))
    monkeypatch.setattr(inotify, "LOOK_SECONDS", 0.001)
    engine = Engine(tmp_path)
    copy = engine.copy()
    for turn in range(3):
        engine.write(f"{turn}\n")
        await engine.copied()
        engine.rotate(2)
    engine.write("last\n")
    await copy.drained()
    assert engine.read() == engine.written


async def test_a_chain_of_rotations_between_two_looks(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    copy = engine.copy()
    engine.write("first\n")
    await engine.copied()
    for n in range(2):
        engine.write(f"{n} before\n")
        engine.rotate(2)
        engine.write(f"{n} after\n")
    await copy.drained()
    assert engine.read() == engine.written


async def test_what_is_lost_while_nobody_reads_is_said(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    copy = engine.copy()
    engine.write("seen\n")
    await engine.copied()
    await copy.close()
    for n in range(3):
        engine.write(f"gone {n}\n")
        engine.rotate(0)
    engine.write("newest\n")
    copy = engine.copy()
    await copy.drained()
    kept = engine.read().decode()
    assert kept.startswith("seen\n\nmuster: output may be missing here: ")
    assert kept.endswith("\nnewest\n")


async def test_a_log_that_came_and_went_between_two_looks_is_said_to_be_lost(
    tmp_path: Path,
) -> None:
    """podman keeps no older files, so a log that is replaced twice at once leaves no trace."""
    engine = Engine(tmp_path)
    copy = engine.copy()
    engine.write("seen\n")
    await engine.copied()
    engine.rotate(0)
    engine.write("gone\n")
    engine.rotate(0)
    engine.write("newest\n")
    await copy.drained()
    kept = engine.read().decode()
    assert kept.startswith("seen\n\nmuster: output may be missing here: ")
    assert kept.endswith("\nnewest\n")


async def test_a_record_that_cannot_be_written_holds_up_nothing(tmp_path: Path) -> None:
    """As for a moment on a full disk: it is written with the next piece."""
    engine = Engine(tmp_path)
    copy = engine.copy()
    engine.write("one\n")
    await engine.copied()
    record = engine.spool / "engine-log"
    record.unlink()
    record.mkdir()
    engine.rotate(2)
    engine.write("two\n")
    await engine.copied()
    record.rmdir()
    engine.write("three\n")
    await engine.copied()
    await copy.close()
    engine.write("four\n")
    copy = engine.copy()
    await copy.drained()
    assert engine.read() == engine.written


async def test_who_writes_faster_than_anybody_reads_is_bounded(tmp_path: Path) -> None:
    """What waits to be read keeps its room on the disk, whatever its name has become."""
    engine = Engine(tmp_path)
    copy = engine.copy()
    engine.write("first\n")
    await engine.copied()
    engine.write("half read\n")
    for n in range(10):
        engine.rotate(9)
        engine.write(f"file {n}\n")
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    copy._look_for_rotation()
    assert len(copy._files) == 4
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_before + 4
    await copy.drained()
    kept = engine.read().decode()
    assert kept.startswith("first\nhalf read\n\nmuster: output may be missing here: ")
    assert kept.endswith("\nfile 7\nfile 8\nfile 9\n")


async def test_a_log_that_cannot_be_read_is_said_to_be_missing(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.log.unlink()
    copy = engine.copy()
    await copy.drained()
    assert b"muster: output may be missing: " in engine.read()


def test_dockers_log() -> None:
    log = b'{"log":"a\\n","stream":"stdout"}\n{"log":"b","str\n{"log":"c"}\n{"log":"half'
    assert json_file_output(log) == (b"a\nc", log.rindex(b'{"log":"half'))
