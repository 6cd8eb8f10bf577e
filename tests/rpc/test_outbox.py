"""What waits for one session, and how new the journal is that it is told with."""

from __future__ import annotations

from coordinator.core.effects import SendAck, SendHeartbeatAck, SendInquiry, SendWelcome
from coordinator.core.ids import SessionId
from coordinator.rpc.outbox import Outbox

SESSION = SessionId("s")


def told(outbox: Outbox) -> list[bytes]:
    return [message.journal_token for message in outbox.take_now()]


def test_the_newest_token_goes_with_the_first_message_and_once() -> None:
    outbox = Outbox()
    outbox.put(SendWelcome(session_id=SESSION, heartbeat_ms=5), b"one")
    outbox.put(SendHeartbeatAck(session_id=SESSION, seq=1), b"two")
    assert told(outbox) == [b"two", b""]
    outbox.put(SendHeartbeatAck(session_id=SESSION, seq=2), b"two")
    assert told(outbox) == [b""]
    outbox.put(SendAck(session_id=SESSION, report_seq=1), b"three")
    assert told(outbox) == [b"three"]


def test_an_empty_token_says_nothing() -> None:
    outbox = Outbox()
    outbox.put(SendWelcome(session_id=SESSION, heartbeat_ms=5), b"one")
    outbox.put(SendHeartbeatAck(session_id=SESSION, seq=1))
    assert told(outbox) == [b"one", b""]
    outbox.put(SendHeartbeatAck(session_id=SESSION, seq=2))
    assert told(outbox) == [b""]


def test_an_agent_that_is_not_welcome_yet_is_told_no_token() -> None:
    """It does not know whether the journal is that of its own cluster."""
    outbox = Outbox()
    outbox.put(SendInquiry(session_id=SESSION), b"one")
    assert told(outbox) == [b""]
    outbox.put(SendWelcome(session_id=SESSION, heartbeat_ms=5), b"one")
    assert told(outbox) == [b"one"]
