"""A journal that is taken away under its coordinator: it is said, and can be saved."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from coordinator.journal.port import Batch, Entry
from coordinator.journal.sqlite import SqliteJournal

NAME = "journal.db"


def one(stream: str) -> Batch:
    return Batch(entries=[Entry(stream=stream, at_ms=1, kind="Happened", body="0")])


async def streams_of(path: Path) -> list[str]:
    """What a start with this journal would know."""
    journal = await SqliteJournal.open(path)
    try:
        return [entry.stream for entry in (await journal.replay()).entries]
    finally:
        await journal.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    return made


async def test_a_journal_that_was_moved_is_told_until_it_is_back(directory: Path) -> None:
    journal = await SqliteJournal.open(directory / NAME, 1024 * 1024)
    try:
        await journal.append(one("a"))
        assert journal.shortage == ""
        moved = directory.rename(directory.with_name("moved"))
        await journal.measure()
        assert f"is not at {directory / NAME} any more" in journal.shortage
        assert f"it was moved to {moved / NAME}; move it back" in journal.shortage
        # What has to be recorded is, wherever it is.
        await journal.append(one("b"))
        moved.rename(directory)
        await journal.measure()
        assert journal.shortage == ""
    finally:
        await journal.close()
    assert await streams_of(directory / NAME) == ["a", "b"]


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_journal_that_was_deleted_can_be_saved_as_it_says(
    directory: Path, tmp_path: Path, is_replaced: bool
) -> None:
    saved = tmp_path / NAME
    journal = await SqliteJournal.open(directory / NAME, 1024 * 1024)
    try:
        await journal.append(one("a"))
        shutil.rmtree(directory)
        if is_replaced:
            directory.mkdir()
            (directory / NAME).touch()
        await journal.append(one("b"))
        assert "it was deleted or replaced" in journal.shortage
        commands = re.findall(r"cp /proc/\d+/fd/\d+ FILE\S*(?=[;)])", journal.shortage)
        assert [command.rpartition(" ")[2] for command in commands] == ["FILE-wal", "FILE"]
        for command in commands:
            copy = command.replace("FILE", str(saved)).split()
            await asyncio.to_thread(subprocess.run, copy, check=True)
    finally:
        await journal.close()
    assert await streams_of(saved) == ["a", "b"]
