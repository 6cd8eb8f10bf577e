"""What every journal promises when there is no room, and when rows of it have to be set aside."""

from __future__ import annotations

import pytest

from coordinator.journal.port import Batch, Journal, JournalFull, SetAside
from tests.contract.journals import Store, entry, record, tail
from tests.contract.test_journal_contract import bodies, history, journal, store

__all__ = ["journal", "store"]

# a full disk

LARGE = Batch(
    entries=[entry("job/a", "2" * 100_000), entry("job/b", "3")],
    tails=[tail("a")],
    records=[record("c")],
    closed=["job/c"],
)


async def test_a_batch_without_room_is_not_durable_and_goes_in_later(
    journal: Journal, store: Store
) -> None:
    before = [entry("job/a", "1"), entry("job/c", "1")]
    await journal.append(Batch(entries=before))
    store.fill()
    for _ in range(3):
        with pytest.raises(JournalFull):
            await journal.append(LARGE)
    assert list((await journal.replay()).entries) == before
    assert await journal.log_tail("a", 0, 1) is None
    assert await journal.record("c") is None
    store.make_room()
    await journal.append(LARGE)
    await journal.append(Batch(entries=[entry("job/b", "4")]))
    again = await store.open()
    expected = [before[0], *LARGE.entries, entry("job/b", "4")]
    assert list((await again.replay()).entries) == expected
    assert await again.log_tail("a", 0, 1) is not None
    assert await again.record("c") is not None


async def test_nothing_of_a_batch_without_room_outlives_the_journal(
    journal: Journal, store: Store
) -> None:
    await journal.append(Batch(entries=[entry("job/a", "1")]))
    store.fill()
    with pytest.raises(JournalFull):
        await journal.append(LARGE)
    assert await bodies(await store.open()) == ["1"]


async def test_a_journal_with_room_says_nothing_of_it(journal: Journal) -> None:
    await journal.append(Batch())
    await journal.measure()
    assert journal.shortage == ""


# repairs


async def test_what_is_set_aside_is_replaced_in_its_place_or_left_out(
    journal: Journal, store: Store
) -> None:
    await journal.append(Batch(entries=[entry("job/a", "1"), entry("job/b", "2")]))
    await journal.append(Batch(entries=[entry("job/a", "3"), entry("job/b", "4")]))
    first, second, third, _ = (each.seq for each in (await journal.replay()).entries)
    assert 0 < first < second < third
    await journal.set_aside(
        [
            SetAside(seq=first, reason="why", instead=entry("job/a", "one")),
            SetAside(seq=third, reason="why"),
        ]
    )
    again = await store.open()
    assert await bodies(again) == ["one", "2", "4"]
    assert [each.body for each in await history(again, "job/a")] == ["one"]
    assert [each.seq for each in (await again.replay()).entries][:2] == [first, second]
    await again.append(Batch(entries=[entry("job/c", "5")]))
    assert await bodies(again) == ["one", "2", "4", "5"]
