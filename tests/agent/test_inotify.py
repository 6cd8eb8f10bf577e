"""Inotify that others have used up: what waits for a file is late then, and misses nothing."""

from __future__ import annotations

import asyncio
import ctypes
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import spool
from agent.host import inotify
from agent.host.inotify import DirectoryWatch
from agent.spool_follow import follow


class UsedUp:
    """The C library while the kernel gives no instance, or no watch, until it is told to."""

    def __init__(self, verb: str, number: int) -> None:
        self._verb, self._number = verb, number
        self._real = inotify._libc
        self.gives = False
        self.asked = 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        real: Callable[..., int] = getattr(self._real, name)
        return self._refuse if name == self._verb and not self.gives else real

    def _refuse(self, *_: object) -> int:
        self.asked += 1
        ctypes.set_errno(self._number)
        return -1


@pytest.fixture(
    params=[("inotify_init1", errno.EMFILE), ("inotify_add_watch", errno.ENOSPC)],
    ids=["instances", "watches"],
)
def used_up(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> UsedUp:
    libc = UsedUp(*request.param)
    monkeypatch.setattr(inotify, "_libc", libc)
    monkeypatch.setattr(inotify, "LOOK_SECONDS", 0.001)
    return libc


async def test_all_output_comes_without_inotify(
    tmp_path: Path, used_up: UsedUp, caplog: pytest.LogCaptureFixture
) -> None:
    writer = spool.SpoolWriter(tmp_path, 1000)
    writer.write(b"0")
    collected = b""
    async with asyncio.timeout(10):
        async for _, data in follow(tmp_path, 0):
            collected += data
            if collected == b"012":
                writer.finish()
            else:
                writer.write(str(len(collected)).encode())
    assert collected == b"012"
    assert used_up.asked
    assert "fs.inotify.max_user_instances" in caplog.text


async def test_it_is_used_again_as_soon_as_there_is_some(tmp_path: Path, used_up: UsedUp) -> None:
    async with asyncio.timeout(10):
        with DirectoryWatch(tmp_path) as watch:
            await watch.wait()
            used_up.gives = True
            await watch.wait()
            asked = used_up.asked
            waiting = asyncio.ensure_future(watch.wait())
            await asyncio.wait([waiting], timeout=0.05)
            assert not waiting.done()
            (tmp_path / "file").touch()
            await waiting
            assert used_up.asked == asked


async def test_what_is_wrong_with_the_directory_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        DirectoryWatch(tmp_path / "nowhere")
    monkeypatch.setattr(inotify, "_libc", UsedUp("inotify_add_watch", errno.EACCES))
    with pytest.raises(PermissionError):
        DirectoryWatch(tmp_path)
