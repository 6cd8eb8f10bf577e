"""The spool: offsets that never restart, a bound that holds, a full disk that ends nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import spool
from agent.spool import SpoolWriter
from agent.spool_follow import follow


def written(directory: Path) -> bytes:
    return spool.read(directory, 0, 1 << 30)[1]


def test_offsets_go_on_after_a_restart(tmp_path: Path) -> None:
    for data in (b"one", b"two"):
        writer = SpoolWriter(tmp_path, 1000)
        writer.write(data)
        writer.close()
    assert SpoolWriter(tmp_path, 1000).end_offset == 6
    assert spool.read(tmp_path, 2, 3) == (2, b"etw")
    assert spool.bounds(tmp_path) == (0, 6)


def test_the_oldest_goes_first(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, 80)
    for number in range(100):
        writer.write(f"{number:04d}\n".encode())
    writer.close()
    first, end = spool.bounds(tmp_path)
    assert end == 500
    assert 70 <= end - first <= 80
    actual, data = spool.read(tmp_path, 0, 5)
    assert actual == first
    assert spool.read(tmp_path, end - 5, 100) == (495, b"0099\n")
    assert len(data) == 5


def test_tail(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, 80)
    writer.write(b"0123456789" * 2)
    writer.close()
    assert spool.tail(tmp_path, 12) == (8, b"890123456789")
    assert spool.tail(tmp_path, 1000) == (0, b"0123456789" * 2)


def test_no_spool(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert spool.bounds(nowhere) == (0, 0)
    assert spool.read(nowhere, 7, 10) == (7, b"")
    assert spool.tail(nowhere, 10) == (0, b"")
    assert not spool.is_finished(nowhere)


@given(
    limit_bytes=st.integers(8, 200),
    pieces=st.lists(st.binary(max_size=300), max_size=20),
    restarts=st.sets(st.integers(0, 20)),
)
def test_what_is_kept_is_the_end_of_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    limit_bytes: int,
    pieces: list[bytes],
    restarts: set[int],
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    writer = SpoolWriter(directory, limit_bytes)
    for number, piece in enumerate(pieces):
        if number in restarts:
            writer.close()
            writer = SpoolWriter(directory, limit_bytes)
        writer.write(piece)
    writer.close()
    everything = b"".join(pieces)
    first, end = spool.bounds(directory)
    assert end == len(everything)
    assert end - first <= limit_bytes
    assert spool.read(directory, 0, 1 << 20) == (first, everything[first:])
    shutil.rmtree(directory)


class FullDisk:
    """Takes `room_bytes` more, then fails as the kernel does."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes
        self._write: Callable[[int, bytes | memoryview], int] = os.write

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.room_bytes == 0:
            raise OSError(errno.ENOSPC, "as the test wants it")
        count = self._write(fd, data[: self.room_bytes])
        self.room_bytes -= count
        return count


def test_a_full_disk_is_told_when_it_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SpoolWriter(tmp_path, 1 << 20)
    disk = FullDisk(4)
    monkeypatch.setattr("agent.spool.os.write", disk.write)
    writer.write(b"one\ntwo\n")
    writer.write(b"three\n")
    # Room for less than the line that tells it: half a line would be worse than none.
    disk.room_bytes = 10
    writer.write(b"four\n")
    assert written(tmp_path) == b"one\n"
    disk.room_bytes = 1000
    writer.write(b"five\n")
    writer.close()
    note = b"\nmuster: 15 bytes of output were dropped: No space left on device\n"
    assert written(tmp_path) == b"one\n" + note + b"five\n"
    assert writer.end_offset == len(written(tmp_path))


def test_a_disk_with_room_at_last_only_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SpoolWriter(tmp_path, 1 << 20)
    disk = FullDisk(0)
    monkeypatch.setattr("agent.spool.os.write", disk.write)
    writer.write(b"lost")
    disk.room_bytes = 1000
    writer.finish()
    assert b"4 bytes of output were dropped" in written(tmp_path)
    assert spool.is_finished(tmp_path)


async def collect(directory: Path, offset: int = 0) -> list[tuple[int, bytes]]:
    return [piece async for piece in follow(directory, offset)]


async def test_follow_ends_with_the_spool(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, 1000)
    writer.write(b"0123")
    async with aclosing(follow(tmp_path, 1)) as pieces:
        assert await anext(pieces) == (1, b"123")
        for data in (b"45", b"67"):
            more = asyncio.ensure_future(anext(pieces))
            await asyncio.wait([more], timeout=0)
            assert not more.done()
            writer.write(data)
            async with asyncio.timeout(10):
                assert (await more)[1] == data
        writer.finish()
        async with asyncio.timeout(10):
            assert [piece async for piece in pieces] == []


async def test_follow_tells_what_was_dropped(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, 80)
    writer.write(b"x" * 500)
    writer.finish()
    first, _ = spool.bounds(tmp_path)
    assert await collect(tmp_path) == [(first, b"x" * (500 - first))]


async def test_a_spool_that_is_removed_is_not_complete(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    SpoolWriter(directory, 80).close()
    following = asyncio.ensure_future(collect(directory))
    await asyncio.wait([following], timeout=0)
    directory.rmdir()
    with pytest.raises(FileNotFoundError, match="deleted"):
        async with asyncio.timeout(10):
            await following


async def test_a_spool_that_is_half_deleted_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks of a reader, the whole of it."""
    directory = tmp_path / "spool"
    writer = SpoolWriter(directory, 80)
    writer.write(b"0123")
    writer.finish()
    read = spool.read

    def too_late(*args: Any) -> tuple[int, bytes]:
        spool.unfinish(directory)
        shutil.rmtree(directory)
        return read(*args)

    monkeypatch.setattr(spool, "read", too_late)
    with pytest.raises(FileNotFoundError, match="deleted"):
        await collect(directory)


def test_a_segment_that_is_missing_is_as_one_that_was_dropped(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, 80)
    writer.write(b"0123456789" * 4)
    writer.finish()
    (tmp_path / f"{10:020d}.log").unlink()
    assert spool.read(tmp_path, 0, 100) == (0, b"0123456789")
    assert spool.read(tmp_path, 10, 100) == (20, b"0123456789" * 2)


def test_files_of_other_names_are_nobodys(tmp_path: Path) -> None:
    (tmp_path / "core.log").touch()
    (tmp_path / "7.log").touch()
    writer = SpoolWriter(tmp_path, 80)
    writer.write(b"01")
    writer.finish()
    assert spool.read(tmp_path, 0, 100) == (0, b"01")


async def test_follow_of_no_spool(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await collect(tmp_path / "nowhere")
