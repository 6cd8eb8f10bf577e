"""Appends to a journal for ever and prints the number of each batch when it is durable: the
process that tests of the sqlite journal kill. `python -m tests.coordinator.journal_writer FILE`"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from coordinator.journal.port import Batch, Entry
from coordinator.journal.sqlite import SqliteJournal

STREAMS = 7
PARTS = 3


def batch(number: int) -> Batch:
    """Several entries, so that a batch that was cut in two would show."""
    return Batch(
        entries=[
            Entry(
                stream=f"job/{(number + part) % STREAMS}",
                at_ms=number,
                kind="Written",
                body=f"{number}.{part}",
            )
            for part in range(PARTS)
        ]
    )


async def write(path: Path) -> None:
    journal = await SqliteJournal.open(path)
    for number in itertools.count():
        await journal.append(batch(number))
        print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1])))
