"""Nodes that the ledger does not know and the host does: their leases until a coordinator names
them are those that their own marks and holders tell."""

from __future__ import annotations

import pytest

from agent.core import effects as f
from agent.core import inputs as i
from agent.core.assignment import Desired, FoundLease, Progress
from tests.core.agent_bench import KEY, Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()


def found(*, ends_in_ms: int | None, at: int, seconds: int = 600) -> i.Found:
    ends_at_ms = None if ends_in_ms is None else at + ends_in_ms
    lease = FoundLease(seconds=seconds, grace_seconds=7, ends_at_ms=ends_at_ms)
    return i.Found(key=KEY, started_at_ms=5, lease=lease)


def test_it_ends_when_its_holder_would_end_it(bench: Bench) -> None:
    """A fresh lease would let it live for longer than the coordinator counts."""
    bench.begin(found(ends_in_ms=20_000, at=bench.now))
    (told,) = bench.found(f.SetLease)
    assert (told.ends_at_ms, told.grace_seconds) == (bench.now + 20_000, 7)
    assert bench.wait(19_999) == []
    assert bench.wait(1) == ["EndLease"]


def test_its_own_lease_runs_anew_with_the_first_contact(bench: Bench) -> None:
    bench.begin(found(ends_in_ms=20_000, at=bench.now, seconds=100))
    bench.now += 10
    bench.connect()
    (told,) = bench.found(f.SetLease)
    assert told.ends_at_ms == bench.now + 100_000
    bench.do(i.LinkDown())
    assert bench.wait(99_999) == []
    assert bench.wait(1) == ["EndLease"]


def test_another_start_keeps_what_the_first_has_found(bench: Bench) -> None:
    bench.begin(found(ends_in_ms=20_000, at=bench.now))
    again = bench.restarted(contact=bench.now)
    again.begin(i.Found(key=KEY, started_at_ms=5))
    assert again.wait(18_999) == []
    assert again.wait(1) == ["EndLease"]


def test_a_later_start_counts_from_what_the_holder_has_shown() -> None:
    """The ledger of an older copy knows an older contact, and the next start reads the ledger."""
    bench = Bench(contact=500_000)
    bench.begin(found(ends_in_ms=500_000, at=bench.now))
    (kept,) = bench.found(f.KeepContact)
    assert kept.last_contact_ms == bench.now - 100_000
    again = bench.restarted(contact=kept.last_contact_ms)
    again.begin(found(ends_in_ms=500_000, at=bench.now))
    assert again.found(f.KeepContact) == []


def test_a_lease_that_never_ends_is_left_at_that(bench: Bench) -> None:
    bench.begin(found(ends_in_ms=None, at=bench.now, seconds=0))
    assert [told.ends_at_ms for told in bench.found(f.SetLease)] == [None]
    assert bench.wait(10**9) == []


def test_what_nobody_holds_ends_at_once_without_contact(bench: Bench) -> None:
    bench.begin(found(ends_in_ms=1 - bench.now, at=bench.now))
    assert bench.wait(0) == ["EndLease"]


def test_who_waits_is_told_which_run_is_the_node_s() -> None:
    """Somebody may have started the container again while no agent was here."""
    bench = Bench()
    bench.begin()
    bench.connect()
    bench.run()
    again = bench.restarted()
    again.begin(i.Found(key=KEY, started_at_ms=8))
    assert [wait.began_at_ms for wait in again.found(f.Wait)] == [5]


def test_an_assignment_says_it_from_then_on(bench: Bench) -> None:
    bench.begin(found(ends_in_ms=20_000, at=bench.now))
    bench.now += 10
    bench.connect()
    bench.assign((KEY, Desired.RUN), lease=50)
    (told,) = bench.found(f.SetLease)
    assert (told.ends_at_ms, told.grace_seconds) == (bench.now + 50_000, 30)


def test_one_that_is_still_being_made_is_started_again_but_may_have_run(bench: Bench) -> None:
    """A call of the agent that lost its ledger is about to make it. Should it not come up, nobody
    knows that it never ran."""
    bench.begin(i.Found(key=KEY, started_at_ms=0))
    bench.connect()
    bench.assign((KEY, Desired.RUN))
    bench.do(i.StartFailed(key=KEY, reason="gone", uncertain=False, wall_ms=1, not_started=True))
    assert not bench.slot().not_started


def test_an_older_ledger_takes_one_that_is_being_made_for_no_vote(bench: Bench) -> None:
    bench.begin()
    bench.connect()
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY))
    again = bench.restarted(contact=bench.now)
    again.begin(i.Found(key=KEY, started_at_ms=0))
    assert again.slot().progress is Progress.STARTING
