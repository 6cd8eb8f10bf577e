"""What is acknowledged while a step waits for room, and that no lease is endangered by it."""

from __future__ import annotations

from coordinator import shell
from coordinator.core import inputs as i
from coordinator.core.effects import SendHeartbeatAck
from coordinator.core.ids import HostId, NodeKey, SessionId
from coordinator.core.settings import Settings
from tests.core.harness import Cluster

LEASE_SECONDS = 60
SETTINGS = Settings(lease_seconds=LEASE_SECONDS, last_attempt_lease_seconds=0)


def running() -> tuple[Cluster, SessionId]:
    """A job of one node that runs on h1, and the session of h1."""
    c = Cluster(SETTINGS)
    c.hosts(1)
    c.submit(1, attempts=2)
    c.prepared("h1")
    c.up("h1")
    return c, c.session("h1")


def beat(session_id: SessionId, seq: int) -> i.HostHeartbeat:
    return i.HostHeartbeat(session_id=session_id, seq=seq, wall_ms=5)


def test_a_heartbeat_is_acknowledged_and_taken_later() -> None:
    c, session = running()
    hold = shell.Hold()
    hold.begin()
    acks = [hold.beat(c.machine, beat(session, seq)) for seq in (7, 8)]
    assert acks == [SendHeartbeatAck(session_id=session, seq=seq) for seq in (7, 8)]
    # The host's clock is compared at once or not at all.
    assert hold.end() == [i.HostHeartbeat(session_id=session, seq=8, wall_ms=0)]
    assert (hold.is_on, hold.end()) == (False, [])


def test_a_session_that_was_taken_over_gets_no_acknowledgement() -> None:
    c, _ = running()
    hold = shell.Hold()
    hold.begin()
    assert hold.beat(c.machine, beat(SessionId("older"), 1)) is None
    assert hold.end() == []


def _holds_after(c: Cluster, first: list[i.HostHeartbeat]) -> list[NodeKey]:
    """What h1 holds after a hold for longer than lease, grace and margin, and 40 s of silence."""
    c.now += 1000 * (LEASE_SECONDS + 300)
    step = shell.step(c.machine, first, c.now, c.now, c.now)
    assert step.events == []
    c.wait(40, silent=("h1",))
    return list(c.state.hosts[HostId("h1")].holds)


def test_the_lease_of_a_host_counts_from_its_last_acknowledgement() -> None:
    c, session = running()
    hold = shell.Hold()
    hold.begin()
    hold.beat(c.machine, beat(session, 9))
    assert len(_holds_after(c, hold.end())) == 1
    c, _ = running()
    assert _holds_after(c, []) == []


def test_what_waits_is_withdrawn_and_the_rest_keeps_its_order() -> None:
    inbox: shell.Inbox[int] = shell.Inbox()
    for number in range(5):
        inbox.put(number, number)
    assert inbox.withdraw(lambda number: number % 2 == 0) == [0, 2, 4]
    assert inbox.take(9) == ([1, 3], 9)
