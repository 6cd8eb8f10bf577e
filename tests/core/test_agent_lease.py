"""The agent alone: leases that end by themselves, and what a restart finds."""

from __future__ import annotations

import pytest

from agent.core import effects as f
from agent.core import inputs as i
from agent.core.assignment import Desired, FoundLease, Progress
from agent.core.lease import UNKNOWN_GRACE_MS
from tests.core.agent_bench import KEY, LEASE_SECONDS, OTHER, Bench

# the lease


def test_without_contact_a_container_stops_when_its_lease_ends(bench: Bench) -> None:
    bench.run()
    bench.do(i.LinkDown())
    assert bench.wait(1000 * LEASE_SECONDS - 1) == []
    assert bench.wait(1) == ["EndLease"]
    bench.do(i.Ended(key=KEY, exit_code=143, reason="", stopped_at_ms=9, lease_ended=True))
    assert bench.slot().lease_ended
    assert bench.slot().reason == "MusterLeaseError: no contact with the coordinator for 600 s"


def test_the_lease_runs_from_when_an_acknowledged_heartbeat_was_sent(bench: Bench) -> None:
    bench.run()
    began = bench.now
    bench.now += 100_000
    bench.do(i.HeartbeatSent(seq=1, at_ms=began + 50_000))
    assert bench.machine.next_deadline() == began + 600_000, "sending is no contact"
    bench.do(i.HeartbeatAcked(seq=1))
    assert bench.found(f.KeepContact) == [f.KeepContact(last_contact_ms=began + 50_000)]
    assert bench.machine.next_deadline() == began + 650_000


def test_an_old_or_unknown_acknowledgement_is_no_contact(bench: Bench) -> None:
    bench.run()
    began = bench.now
    bench.do(i.HeartbeatSent(seq=1, at_ms=began + 1))
    bench.do(i.HeartbeatSent(seq=2, at_ms=began + 2))
    bench.do(i.HeartbeatAcked(seq=2))
    for seq in (1, 2, 77):
        bench.do(i.HeartbeatAcked(seq=seq))
        assert bench.effects == []
    assert bench.machine.state.last_contact_ms == began + 2


def test_a_heartbeat_of_the_last_session_is_not_acknowledged_by_this_one(bench: Bench) -> None:
    bench.run()
    bench.do(i.HeartbeatSent(seq=1, at_ms=bench.now + 500))
    bench.do(i.LinkDown())
    bench.do(i.HeartbeatAcked(seq=1))
    assert bench.found(f.KeepContact) == []


def test_a_welcome_renews_the_lease_before_the_first_assignment(bench: Bench) -> None:
    """Both were away for longer than a lease; the vote was kept, and main is wanted at once."""
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY))
    bench.do(i.LinkDown())
    assert bench.wait(2000 * LEASE_SECONDS) == []
    bench.connect()
    assert bench.found(f.KeepContact) == [f.KeepContact(last_contact_ms=bench.now)]
    bench.assign((KEY, Desired.RUN))
    bench.do(i.StartedUp(key=KEY, started_at_ms=5, private_ipv4=""))
    assert bench.wait(1000 * LEASE_SECONDS - 1) == []


def test_a_lease_of_zero_never_ends(bench: Bench) -> None:
    bench.assign((KEY, Desired.RUN), lease=0)
    bench.do(i.Prepared(key=KEY))
    bench.do(i.StartedUp(key=KEY, started_at_ms=5, private_ipv4=""))
    bench.do(i.LinkDown())
    assert bench.wait(10_000 * LEASE_SECONDS) == []


def test_a_lease_that_ended_while_it_still_prepared_starts_nothing(bench: Bench) -> None:
    bench.assign((KEY, Desired.RUN))
    bench.do(i.LinkDown())
    assert bench.wait(1000 * LEASE_SECONDS) == ["CancelPrepare"]
    bench.do(i.Prepared(key=KEY))
    assert bench.asked() == ["Remove"]


def test_a_dead_agent_does_not_stretch_the_lease(bench: Bench) -> None:
    bench.run()
    contact = bench.machine.state.last_contact_ms
    again = bench.restarted(contact)
    again.now = contact + 1000 * LEASE_SECONDS - 10
    again.begin(i.Found(key=KEY, started_at_ms=5))
    assert again.asked() == ["Wait"]
    assert again.wait(10) == ["EndLease"]


def test_a_contact_made_while_the_engine_was_away_counts(bench: Bench) -> None:
    bench.run()
    contact = bench.machine.state.last_contact_ms
    again = bench.restarted(contact)
    again.now = contact + 1000 * LEASE_SECONDS - 10
    again.connect()
    again.begin(i.Found(key=KEY, started_at_ms=5))
    assert again.wait(1000 * LEASE_SECONDS - 1) == []
    assert again.wait(1) == ["EndLease"]


def test_what_ended_by_itself_while_its_agent_hung_has_its_own_code(bench: Bench) -> None:
    bench.run()
    assert bench.wait(5000 * LEASE_SECONDS) == ["EndLease"]
    bench.do(i.Ended(key=KEY, exit_code=0, reason="", stopped_at_ms=9))
    bench.do(i.Stopped(key=KEY, wall_ms=9))
    slot = bench.slot()
    assert (slot.exit_code, slot.reason, slot.lease_ended) == (0, "", False)


def test_what_its_holder_ended_is_no_result_of_its_own(bench: Bench) -> None:
    """The agent was stopped meanwhile, and finds out before it looks at the lease."""
    bench.run()
    bench.do(i.Ended(key=KEY, exit_code=0, reason="", stopped_at_ms=9, lease_ended=True))
    assert bench.slot().lease_ended
    assert bench.slot().reason.startswith("MusterLeaseError: no contact")


def test_a_holder_that_ends_what_is_being_stopped_is_not_why_it_ends(bench: Bench) -> None:
    bench.run()
    bench.assign((KEY, Desired.STOP))
    bench.do(i.Ended(key=KEY, exit_code=143, reason="", stopped_at_ms=9, lease_ended=True))
    slot = bench.slot()
    assert (slot.exit_code, slot.reason, slot.lease_ended) == (143, "", False)


def test_an_agent_that_comes_late_grants_what_is_left_of_the_grace(bench: Bench) -> None:
    bench.run()
    bench.now += 1000 * LEASE_SECONDS + 2_500
    bench.do(i.Tick())
    grace_seconds = bench.slot().assignment.stop_grace_seconds  # type: ignore[union-attr]
    assert bench.found(f.EndLease) == [f.EndLease(key=KEY, grace_seconds=grace_seconds - 2)]
    bench.do(i.StopFailed(key=KEY, reason="no docker daemon"))
    bench.wait(60_000)
    assert bench.found(f.EndLease) == [f.EndLease(key=KEY, grace_seconds=grace_seconds - 3)]


def test_a_lease_that_is_over_stays_over_in_a_restart(bench: Bench) -> None:
    bench.run()
    bench.wait(1000 * LEASE_SECONDS)
    again = bench.restarted()
    assert again.machine.leases() == [], "its holder has to end it"
    again.begin(i.Found(key=KEY, started_at_ms=5))
    assert again.asked() == ["Wait", "EndLease"]
    again.do(i.Ended(key=KEY, exit_code=0, reason="", stopped_at_ms=9, lease_ended=True))
    assert again.slot().lease_ended


def test_a_start_that_fails_when_the_lease_is_over_is_no_fault_of_the_host(bench: Bench) -> None:
    """The engine starts nothing by then."""
    bench.assign((KEY, Desired.RUN))
    bench.do(i.Prepared(key=KEY))
    assert bench.asked() == ["Start"]
    bench.wait(1000 * LEASE_SECONDS)
    failed = i.StartFailed(
        key=KEY, reason="the lease is over", uncertain=False, wall_ms=9, not_started=True
    )
    bench.do(failed)
    slot = bench.slot()
    assert (slot.lease_ended, slot.not_started) == (True, False)
    assert slot.reason.startswith("MusterLeaseError: no contact")


# what the holder of a lease is told


def _told(bench: Bench) -> list[int | None]:
    return [effect.ends_at_ms for effect in bench.found(f.SetLease)]


def test_a_holder_knows_the_lease_before_the_start(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    assert _told(bench) == []
    bench.do(i.Prepared(key=KEY))
    bench.assign((KEY, Desired.RUN))
    order = [type(e) for e in bench.effects if isinstance(e, f.SetLease | f.Start)]
    assert order == [f.SetLease, f.Start]
    grace_seconds = bench.slot().assignment.stop_grace_seconds  # type: ignore[union-attr]
    (start,) = bench.found(f.Start)
    assert start.spec.stop_grace_seconds == grace_seconds
    (told,) = bench.found(f.SetLease)
    ends_at_ms = bench.machine.state.last_contact_ms + 1000 * LEASE_SECONDS
    assert told == f.SetLease(key=KEY, ends_at_ms=ends_at_ms, grace_seconds=grace_seconds)


def test_a_holder_is_told_of_each_contact_while_the_node_is_wanted(bench: Bench) -> None:
    bench.run()
    bench.do(i.HeartbeatSent(seq=1, at_ms=bench.now + 1))
    assert _told(bench) == []
    bench.do(i.HeartbeatAcked(seq=1))
    assert _told(bench) == [bench.now + 1 + 1000 * LEASE_SECONDS]
    bench.assign((KEY, Desired.STOP))
    bench.do(i.HeartbeatSent(seq=2, at_ms=bench.now + 2))
    bench.do(i.HeartbeatAcked(seq=2))
    assert _told(bench) == [], "should the stop be broken off, the last lease holds"


def test_a_lease_of_zero_is_told_as_never(bench: Bench) -> None:
    bench.assign((KEY, Desired.RUN), lease=0)
    bench.do(i.Prepared(key=KEY))
    assert _told(bench) == [None]


def test_what_was_found_has_a_short_lease_until_it_is_named() -> None:
    bench = Bench()
    bench.begin(i.Found(key=KEY, started_at_ms=5))
    order = [type(e) for e in bench.effects if isinstance(e, f.SetLease | f.Wait)]
    assert order == [f.SetLease, f.Wait], "who waits for it sees that it has a holder"
    contact = bench.machine.state.last_contact_ms
    assert _told(bench) == [contact + UNKNOWN_GRACE_MS]
    bench.connect()
    bench.assign((KEY, Desired.RUN))
    assert _told(bench) == [bench.machine.state.last_contact_ms + 1000 * LEASE_SECONDS]


def test_a_start_tells_the_lease_of_all_that_may_run(bench: Bench) -> None:
    bench.run()
    contact = bench.machine.state.last_contact_ms
    (told,) = bench.restarted(contact).machine.leases()
    assert told.ends_at_ms == contact + 1000 * LEASE_SECONDS
    bench.assign((KEY, Desired.STOP))
    assert [lease.key for lease in bench.restarted(contact).machine.leases()] == [KEY]
    bench.do(i.Ended(key=KEY, exit_code=0, reason="", stopped_at_ms=9))
    assert bench.restarted(contact).machine.leases() == []


# an engine that does not answer after a restart of the agent


def found(contact_ms: int) -> i.Found:
    """Its holder knows of that contact."""
    ends_at_ms = contact_ms + 1000 * LEASE_SECONDS
    lease = FoundLease(seconds=LEASE_SECONDS, grace_seconds=30, ends_at_ms=ends_at_ms)
    return i.Found(key=KEY, started_at_ms=5, lease=lease)


def test_while_the_engine_is_away_a_lease_is_its_holders(bench: Bench) -> None:
    """The ledger may be an older copy, and what it says of contacts too old."""
    bench.run()
    contact = bench.machine.state.last_contact_ms
    again = bench.restarted(contact)
    again.now = contact + 1000 * LEASE_SECONDS - 10
    assert again.wait(20) == []
    again.begin(found(contact))
    assert again.wait(1) == ["EndLease"]


def test_a_ledger_of_before_ends_nothing_whose_holder_knows_of_a_newer_contact(
    bench: Bench,
) -> None:
    bench.run()
    contact = bench.machine.state.last_contact_ms
    again = bench.restarted(contact)
    again.now = contact + 1000 * LEASE_SECONDS + 1
    again.begin(found(contact + 2000))
    assert again.wait(1998) == []
    assert again.wait(1) == ["EndLease"]


def test_a_stop_is_obeyed_while_the_engine_is_away_and_nothing_else_is(bench: Bench) -> None:
    bench.run()
    again = bench.restarted()
    again.connect()
    again.assign((KEY, Desired.STOP), (OTHER, Desired.PREPARE))
    assert again.asked() == ["Stop"]
    assert OTHER not in again.machine.state.slots
    again.begin(i.Found(key=KEY, started_at_ms=5))
    # The stop is still under way.
    assert again.asked() == ["Wait"]
    again.connect()
    again.assign((KEY, Desired.STOP), (OTHER, Desired.PREPARE))
    assert again.asked() == ["Prepare"]


def test_of_what_may_still_be_there_nothing_is_said_to_be_released(bench: Bench) -> None:
    again = bench.restarted()
    again.connect()
    again.assign((OTHER, Desired.STOP))
    assert again.reported() == []


# unknown


def test_what_no_list_names_is_told_and_stopped_after_a_grace(bench: Bench) -> None:
    bench.run()
    bench.assign()
    assert bench.asked() == []
    assert bench.wait(UNKNOWN_GRACE_MS - 1) == []
    assert bench.wait(1) == ["Stop"]


def test_the_grace_ends_when_it_is_named_again(bench: Bench) -> None:
    bench.run()
    bench.assign()
    bench.wait(UNKNOWN_GRACE_MS - 1)
    bench.assign((KEY, Desired.RUN))
    assert bench.wait(UNKNOWN_GRACE_MS) == []


def test_the_grace_runs_only_while_connected(bench: Bench) -> None:
    bench.run()
    bench.assign()
    bench.do(i.LinkDown())
    assert bench.wait(2 * UNKNOWN_GRACE_MS) == []


def test_a_container_that_the_ledger_does_not_know_is_told_and_has_a_short_lease() -> None:
    bench = Bench()
    bench.begin(i.Found(key=KEY, started_at_ms=5, private_ipv4="10.0.0.1"))
    assert bench.asked() == ["Wait"]
    assert bench.found(f.KeepSlot)
    bench.connect()
    assert bench.reported() == [Progress.RUNNING]
    bench.do(i.LinkDown())
    assert bench.wait(UNKNOWN_GRACE_MS) == ["EndLease"]


def test_a_found_container_that_is_named_goes_on() -> None:
    bench = Bench()
    bench.begin(i.Found(key=KEY, started_at_ms=5))
    bench.connect()
    bench.assign((KEY, Desired.RUN))
    assert bench.asked() == []
    assert bench.wait(UNKNOWN_GRACE_MS) == []


# restarts of the agent, and of its machine


def test_nothing_is_started_on_the_word_of_the_ledger_alone(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY))
    bench.assign((KEY, Desired.RUN))
    again = bench.restarted()
    again.begin()
    assert again.asked() == []
    again.connect()
    assert again.asked() == []
    assert again.reported() == [Progress.STARTING]
    again.assign((KEY, Desired.RUN))
    assert again.asked() == ["Start"]


def test_a_start_that_was_under_way_and_is_given_up_is_stopped(bench: Bench) -> None:
    bench.assign((KEY, Desired.RUN))
    bench.do(i.Prepared(key=KEY))
    again = bench.restarted()
    again.begin()
    again.connect()
    again.assign((KEY, Desired.STOP))
    assert again.asked() == ["Stop"]


def test_a_container_goes_on_over_a_restart(bench: Bench) -> None:
    bench.run()
    again = bench.restarted()
    again.begin(i.Found(key=KEY, started_at_ms=5, private_ipv4="10.0.0.1"))
    assert again.asked() == ["Wait"]
    again.do(i.Ended(key=KEY, exit_code=7, reason="", stopped_at_ms=9))
    assert again.slot().exit_code == 7


def test_a_start_that_succeeded_unheard_is_up_after_the_restart(bench: Bench) -> None:
    bench.assign((KEY, Desired.RUN))
    bench.do(i.Prepared(key=KEY))
    again = bench.restarted()
    again.begin(i.Found(key=KEY, started_at_ms=5, private_ipv4="10.0.0.1"))
    assert again.slot().progress is Progress.RUNNING
    assert again.slot().private_ipv4 == "10.0.0.1"


def test_a_container_that_the_engine_lost_has_ended(bench: Bench) -> None:
    bench.run()
    again = bench.restarted()
    again.begin()
    assert again.slot().progress is Progress.EXITED
    assert again.slot().reason.startswith("MusterLostContainerError")
    assert again.asked() == ["Remove"]


@pytest.mark.parametrize("found", [(), (i.Found(key=KEY, started_at_ms=5),)])
def test_after_a_reboot_nothing_runs_and_no_code_is_known(
    bench: Bench, found: tuple[i.Found, ...]
) -> None:
    bench.run()
    again = bench.restarted()
    again.begin(*found, rebooted=True)
    slot = again.slot()
    assert (slot.progress, slot.exit_code, slot.reason) == (Progress.EXITED, None, "")
    assert again.asked() == ["Remove"]


def test_a_vote_survives_a_reboot_and_starts_nothing(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY))
    again = bench.restarted()
    again.begin(rebooted=True)
    assert again.slot().progress is Progress.PREPARED
    assert again.asked() == []


def test_a_stop_goes_on_over_a_restart_without_contact(bench: Bench) -> None:
    bench.run()
    bench.assign((KEY, Desired.STOP))
    again = bench.restarted()
    again.begin(i.Found(key=KEY, started_at_ms=5))
    assert again.asked() == ["Wait", "Stop"]


def test_a_new_session_tells_everything_and_takes_any_generation(bench: Bench) -> None:
    bench.run()
    bench.generation = 90
    bench.assign((KEY, Desired.RUN))
    bench.do(i.LinkDown())
    bench.connect()
    assert bench.reported() == [Progress.RUNNING]
    bench.assign((KEY, Desired.STOP))
    assert bench.asked() == ["Stop"]


def test_nothing_is_reported_without_a_session(bench: Bench) -> None:
    bench.run()
    bench.do(i.LinkDown())
    bench.do(i.Ended(key=KEY, exit_code=0, reason="", stopped_at_ms=9))
    assert bench.found(f.Report) == []


def test_what_is_seen_of_the_journal_is_kept_as_it_comes(bench: Bench) -> None:
    bench.do(i.JournalSeen(token=b"newer"))
    assert bench.found(f.KeepToken) == [f.KeepToken(token=b"newer")]
    assert bench.machine.state.journal_token == b"newer"
