"""What waits for the machine: its bounds, and until when all that had arrived has been taken."""

from __future__ import annotations

from coordinator.shell import BATCH_MAX, INBOX_MAX, Inbox


def test_callers_leave_half_of_the_room_to_agents() -> None:
    inbox: Inbox[int] = Inbox()
    while inbox.has_room(for_agents=False):
        inbox.put(1, 0)
    assert len(inbox) == INBOX_MAX // 2
    assert inbox.has_room(for_agents=True)
    while inbox.has_room(for_agents=True):
        inbox.put(1, 0)
    assert len(inbox) == INBOX_MAX


def test_what_is_left_says_until_when_all_has_been_taken() -> None:
    inbox: Inbox[int] = Inbox()
    for number in range(BATCH_MAX + 1):
        inbox.put(number, now_ms=number)
    batch, heard_until_ms = inbox.take(now_ms=99_999)
    assert (len(batch), heard_until_ms) == (BATCH_MAX, BATCH_MAX)
    assert inbox.take(now_ms=99_999) == ([BATCH_MAX], 99_999)
