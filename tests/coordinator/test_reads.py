"""Reads of a real daemon: many at once leave room for everything else."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator

import pytest

from coordinator.core.settings import Settings
from coordinator.core.state import ClusterState
from coordinator.daemon import READ_SECONDS, Daemon
from coordinator.garbage import Collections
from coordinator.journal.memory import MemoryJournal


async def test_the_loop_turns_between_long_reads() -> None:
    daemon = Daemon(MemoryJournal(), Settings())
    await daemon.open()
    order: list[str] = []

    def long_read(_: ClusterState) -> None:
        order.append("read")
        until = time.monotonic() + READ_SECONDS
        while time.monotonic() < until:
            pass

    async def others() -> None:
        """What else the loop has to do: once in each of its turns."""
        while True:
            order.append("other")
            await asyncio.sleep(0)

    reads = [asyncio.create_task(daemon.read(long_read)) for _ in range(3)]
    await asyncio.sleep(0)
    running = asyncio.create_task(daemon.run())
    other = asyncio.create_task(others())
    await asyncio.gather(*reads)
    for task in (running, other):
        task.cancel()
    await asyncio.wait((running, other))
    await daemon.close()
    assert order.count("read") == 3
    assert "read read" not in " ".join(order)


async def test_a_reader_that_goes_away_in_a_pause_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A caller may hang up in each turn of the loop, also between its turn and its answer."""
    monkeypatch.setattr("coordinator.daemon.READ_SECONDS", 0)
    daemon = Daemon(MemoryJournal(), Settings())
    await daemon.open()
    asked: list[str] = []

    def first_read(_: ClusterState) -> None:
        # It runs within the pause before the second read.
        asyncio.get_running_loop().call_soon(second.cancel)

    def second_read(_: ClusterState) -> None:
        asked.append("second")

    def third_read(_: ClusterState) -> None:
        asked.append("third")

    first = asyncio.create_task(daemon.read(first_read))
    second = asyncio.create_task(daemon.read(second_read))
    third = asyncio.create_task(daemon.read(third_read))
    await asyncio.sleep(0)
    running = asyncio.create_task(daemon.run())
    await asyncio.wait((running, third), return_when=asyncio.FIRST_COMPLETED)
    assert not running.done(), running.exception()
    await first
    assert second.cancelled()
    assert asked == ["third"]
    running.cancel()
    await asyncio.wait((running,))
    await daemon.close()


@pytest.fixture
def untouched() -> Iterator[None]:
    before = list(gc.callbacks)
    # Only the collections that the test asks for.
    gc.disable()
    yield
    gc.enable()
    gc.callbacks[:] = before
    gc.unfreeze()


def test_what_survived_a_full_collection_is_set_aside(
    untouched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.garbage._FEW", 0)
    monkeypatch.setattr("coordinator.garbage._GROWTH", 2)
    monkeypatch.setattr("coordinator.garbage._PERIOD_SECONDS", 0)
    gc.collect()
    Collections().install()
    gc.collect()
    survived = gc.get_freeze_count()
    assert survived > 0
    alive = [[] for _ in range(survived // 2)]  # type: ignore[var-annotated]
    gc.collect()
    assert gc.get_freeze_count() > survived
    alive += [[] for _ in range(survived)]
    gc.collect()
    # More than twice as much: the next one looks at all again.
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert gc.get_freeze_count() > 2 * survived
    assert alive
