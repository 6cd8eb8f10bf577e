"""What the simulator needs of the memory journal beyond the contract."""

from __future__ import annotations

import pytest

from coordinator.journal.memory import MemoryJournal
from coordinator.journal.port import Batch, JournalError
from tests.contract.journals import entry


@pytest.mark.parametrize(("durable", "expected"), [(False, ["1"]), (True, ["1", "2"])])
def test_a_failed_commit_may_or_may_not_be_durable(durable: bool, expected: list[str]) -> None:
    journal = MemoryJournal()
    journal.append_now(Batch(entries=[entry("job/a", "1")]))
    journal.fail_next_append("power cut", durable=durable)
    with pytest.raises(JournalError, match="cannot append to memory: power cut"):
        journal.append_now(Batch(entries=[entry("job/a", "2")]))
    with pytest.raises(JournalError, match="an append failed"):
        journal.replay_now()
    assert [each.body for each in journal.reopened().replay_now().entries] == expected


def test_a_journal_that_was_opened_again_has_lost_its_facts_to_the_newer() -> None:
    """So a coordinator that the simulator has crashed can write nothing more."""
    old = MemoryJournal()
    new = old.reopened()
    with pytest.raises(JournalError, match="opened again"):
        old.append_now(Batch(entries=[entry("job/a", "1")]))
    new.append_now(Batch(entries=[entry("job/a", "2")]))
    assert [each.body for each in new.replay_now().entries] == ["2"]
