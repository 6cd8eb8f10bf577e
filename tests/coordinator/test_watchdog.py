"""systemd hears from a coordinator as long as its loop turns, and no longer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator import notify, shell
from coordinator.core.settings import Settings
from coordinator.daemon import Daemon
from coordinator.journal.memory import MemoryJournal
from coordinator.journal.port import Batch
from tests.rpc.daemons import hello, running
from tests.service_manager import ServiceManager, service_manager
from tests.wait import eventually

LIMIT_SECONDS = 0.02
WORD = "WATCHDOG=1"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceManager]:
    """The systemd of the daemon that is made next."""
    notify._asked.cache_clear()
    with service_manager(tmp_path) as made:
        for name, value in made.environment(LIMIT_SECONDS).items():
            monkeypatch.setenv(name, value)
        yield made
    notify._asked.cache_clear()


class StuckJournal(MemoryJournal):
    """Appends wait while they are held, as for a disk that does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()
        self.free.set()
        self.waits = asyncio.Event()

    async def append(self, batch: Batch) -> None:
        if not self.free.is_set():
            self.waits.set()
        await self.free.wait()
        self.append_now(batch)


async def until_heard(systemd: ServiceManager) -> None:
    await eventually(lambda: WORD in systemd.heard(), 10, lambda: "no word")


async def heard_in_time(systemd: ServiceManager) -> list[str]:
    """What is heard in several times the limit, while the event loop turns."""
    systemd.heard()
    end = time.monotonic() + 10 * LIMIT_SECONDS
    await eventually(lambda: time.monotonic() > end, 10, lambda: "")
    return systemd.heard()


async def test_an_idle_coordinator_is_heard(systemd: ServiceManager) -> None:
    async with running(Daemon(MemoryJournal(), Settings())):
        for _ in range(3):
            await until_heard(systemd)


async def test_a_commit_that_does_not_end_silences_it(systemd: ServiceManager) -> None:
    """Also while everything else of the daemon goes on."""
    journal = StuckJournal()
    async with running(Daemon(journal, Settings())) as daemon:
        await until_heard(systemd)
        journal.free.clear()
        asked = asyncio.create_task(daemon.ask(hello("h1")))
        await journal.waits.wait()
        assert await heard_in_time(systemd) == []
        journal.free.set()
        await asked
        await until_heard(systemd)


async def test_waiting_for_room_on_a_full_disk_is_no_hang(
    systemd: ServiceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "ROOM_PERIOD_MS", 5)
    journal = MemoryJournal()
    async with running(Daemon(journal, Settings())) as daemon:
        await until_heard(systemd)
        journal.fill(reserve=0)
        asked = asyncio.create_task(daemon.ask(hello("h1")))
        told = "STATUS=the disk is full: jobs go on, nothing can be recorded"
        await eventually(lambda: told in systemd.heard(), 10, lambda: "not full")
        for _ in range(3):
            await until_heard(systemd)
        assert not asked.done()
        journal.make_room()
        await asked
        await until_heard(systemd)
