"""The agent's machine: what is wanted only moves forward, and release is by proof."""

from __future__ import annotations

import pytest

from agent.core import effects as f
from agent.core import inputs as i
from agent.core.assignment import Assignment, ContainerSpec, Desired, Gang, NodeKey, Progress
from agent.core.state import RETRY_FIRST_MS, RETRY_MAX_MS
from agent.ledger.codec import decode
from tests.core.agent_bench import KEY, OTHER, SPEC, Bench

# a node's life


def test_a_life_from_the_vote_to_the_release(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    assert bench.asked() == ["Prepare"]
    bench.do(i.Prepared(key=KEY))
    assert bench.asked() == []
    assert bench.reported() == [Progress.PREPARED]
    bench.assign((KEY, Desired.RUN))
    assert bench.asked() == ["Start"]
    bench.do(i.StartedUp(key=KEY, started_at_ms=5, private_ipv4="10.0.0.1"))
    assert bench.asked() == ["Wait"]
    assert bench.reported() == [Progress.RUNNING]
    bench.do(i.Ended(key=KEY, exit_code=3, reason="", stopped_at_ms=9))
    assert bench.asked() == ["Remove"]
    assert bench.slot().exit_code == 3
    bench.do(i.Removed(key=KEY))
    assert bench.reported() == [Progress.RELEASED]
    bench.do(i.ReportAcked(seq=99))
    assert bench.machine.state.slots == {}


def test_to_be_named_for_a_vote_changes_nothing_of_what_runs(bench: Bench) -> None:
    """So is told to let be what runs of a job that nobody can read any more."""
    bench.run()
    bench.connect()
    bench.assign((KEY, Desired.PREPARE), lease=0)
    for _ in range(100):
        bench.do(i.HeartbeatSent(seq=7, at_ms=bench.now))
        bench.do(i.HeartbeatAcked(seq=7))
        assert bench.wait(10_000) == []
    assert bench.slot().desired is Desired.RUN
    assert bench.slot().progress is Progress.RUNNING


def test_what_is_started_is_in_the_ledger_first(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY))
    bench.assign((KEY, Desired.RUN))
    kinds = [type(effect) for effect in bench.effects]
    assert f.KeepSlot in kinds[: kinds.index(f.Start)]
    assert decode(bench.ledger[KEY]).progress is Progress.STARTING


def test_a_vote_starts_nothing(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY))
    assert bench.wait(3_600_000) == []
    assert bench.slot().progress is Progress.PREPARED


def test_a_refusal_is_told_with_its_reason_and_kept_until_it_is_let_go(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.PrepareFailed(key=KEY, reason="no such image", permanent=True))
    assert bench.reported() == [Progress.REFUSED]
    assert (bench.slot().reason, bench.slot().permanent) == ("no such image", True)
    bench.assign((KEY, Desired.STOP))
    assert bench.asked() == ["Remove"]


def test_stop_while_it_prepares_cancels(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    bench.assign((KEY, Desired.STOP))
    assert bench.asked() == ["CancelPrepare"]
    bench.do(i.PrepareFailed(key=KEY, reason="no longer wanted", permanent=False))
    assert bench.asked() == ["Remove"]


def test_stop_while_it_prepares_and_the_preparation_wins(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    bench.assign((KEY, Desired.STOP))
    bench.do(i.Prepared(key=KEY))
    assert bench.asked() == ["Remove"]


def test_stop_while_it_starts_stops_what_came_up(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY))
    bench.assign((KEY, Desired.RUN))
    bench.assign((KEY, Desired.STOP))
    assert bench.asked() == []
    bench.do(i.StartedUp(key=KEY, started_at_ms=5, private_ipv4=""))
    assert bench.asked() == ["Wait", "Stop"]


def test_an_end_comes_before_or_after_its_stop(bench: Bench) -> None:
    bench.run()
    bench.assign((KEY, Desired.STOP))
    assert bench.asked() == ["Stop"]
    bench.do(i.Stopped(key=KEY, wall_ms=9))
    assert bench.asked() == []
    bench.do(i.Ended(key=KEY, exit_code=143, reason="", stopped_at_ms=9))
    assert bench.asked() == ["Remove"]


@pytest.mark.parametrize(
    "answer", [i.Stopped(key=KEY, wall_ms=9), i.StopFailed(key=KEY, reason="no such container")]
)
def test_a_stop_that_answers_after_the_end_goes_on(bench: Bench, answer: i.Input) -> None:
    bench.run()
    bench.assign((KEY, Desired.STOP))
    bench.do(i.Ended(key=KEY, exit_code=143, reason="", stopped_at_ms=9))
    assert bench.asked() == []
    bench.do(answer)
    assert bench.asked() == ["Remove"]
    assert bench.slot().unclean_reason == ""


def test_a_failed_start_has_ended(bench: Bench) -> None:
    bench.assign((KEY, Desired.RUN))
    bench.do(i.Prepared(key=KEY))
    bench.do(i.StartFailed(key=KEY, reason="no such program", uncertain=False, wall_ms=9))
    assert bench.slot().progress is Progress.EXITED
    assert bench.slot().exit_code is None
    assert bench.asked() == ["Remove"]


@pytest.mark.parametrize("doubtful", [False, True])
def test_a_start_that_may_have_run_once_is_never_called_certain(
    bench: Bench, doubtful: bool
) -> None:
    bench.assign((KEY, Desired.RUN))
    bench.do(i.Prepared(key=KEY))
    if doubtful:
        bench.do(i.StartFailed(key=KEY, reason="engine gone", uncertain=True, wall_ms=9))
    bench.do(i.StartFailed(key=KEY, reason="no room", uncertain=False, wall_ms=9, not_started=True))
    assert bench.slot().not_started is not doubtful


def test_an_uncertain_start_is_asked_for_again_and_never_assumed(bench: Bench) -> None:
    bench.assign((KEY, Desired.RUN))
    bench.do(i.Prepared(key=KEY))
    for number in range(4):
        bench.do(i.StartFailed(key=KEY, reason="engine gone", uncertain=True, wall_ms=9))
        assert bench.slot().progress is Progress.STARTING
        assert bench.wait(RETRY_FIRST_MS * 2**number - 1) == []
        assert bench.wait(1) == ["Start"]


def test_an_uncertain_start_that_is_no_longer_wanted_is_stopped(bench: Bench) -> None:
    bench.assign((KEY, Desired.RUN))
    bench.do(i.Prepared(key=KEY))
    bench.do(i.StartFailed(key=KEY, reason="engine gone", uncertain=True, wall_ms=9))
    bench.assign((KEY, Desired.STOP))
    assert bench.asked() == ["Stop"]
    bench.do(i.Stopped(key=KEY, wall_ms=9))
    assert bench.asked() == ["Remove"]


# what is wanted only moves forward


def test_an_older_list_is_ignored(bench: Bench) -> None:
    bench.run()
    bench.assign((KEY, Desired.STOP))
    bench.generation -= 2
    bench.assign()
    assert bench.effects == []


@pytest.mark.parametrize("wanted", [Desired.PREPARE, Desired.RUN])
def test_nothing_comes_back_from_stop(bench: Bench, wanted: Desired) -> None:
    bench.run()
    bench.assign((KEY, Desired.STOP))
    bench.do(i.Stopped(key=KEY, wall_ms=9))
    bench.assign((KEY, wanted))
    assert bench.slot().desired is Desired.STOP
    assert bench.asked() == []


def test_run_goes_not_back_to_prepare(bench: Bench) -> None:
    bench.assign((KEY, Desired.RUN))
    bench.assign((KEY, Desired.PREPARE))
    assert bench.slot().desired is Desired.RUN


def test_the_newest_specification_is_the_one_that_starts(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY))
    spec = ContainerSpec(
        image="busybox", command=(), environment=(("MAIN", "10.0.0.9"),), vcpus=1, memory_mib=64
    )
    assignment = Assignment(
        key=KEY, desired=Desired.RUN, spec=spec, stop_grace_seconds=30, lease_seconds=600
    )
    bench.do(i.AssignmentsReceived(generation=9, assignments=(assignment,)))
    (start,) = bench.found(f.Start)
    assert start.spec == spec


def test_stop_of_what_was_never_here_is_answered(bench: Bench) -> None:
    bench.assign((KEY, Desired.STOP))
    assert bench.reported() == [Progress.RELEASED]
    assert bench.asked() == []


def test_a_node_that_prepared_is_let_go_when_it_is_no_longer_named(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY))
    bench.assign()
    assert bench.asked() == ["Remove"]


# released until acknowledged


def test_a_release_is_kept_until_it_is_acknowledged(bench: Bench) -> None:
    bench.run()
    bench.do(i.Ended(key=KEY, exit_code=0, reason="", stopped_at_ms=9))
    bench.do(i.Removed(key=KEY))
    (told,) = bench.found(f.Report)
    bench.do(i.ReportAcked(seq=told.seq - 1))
    assert KEY in bench.machine.state.slots
    bench.assign((KEY, Desired.RUN))
    assert bench.asked() == [], "a repeated assignment starts nothing"
    assert bench.reported() == [Progress.RELEASED]
    bench.do(i.ReportAcked(seq=told.seq))
    assert bench.found(f.ForgetSlot) == [f.ForgetSlot(key=KEY)]


def test_a_release_that_was_not_acknowledged_is_told_in_the_next_session(bench: Bench) -> None:
    bench.run()
    bench.do(i.Ended(key=KEY, exit_code=0, reason="", stopped_at_ms=9))
    bench.do(i.Removed(key=KEY))
    (told,) = bench.found(f.Report)
    bench.do(i.LinkDown())
    bench.connect()
    assert bench.reported() == [Progress.RELEASED]
    bench.do(i.ReportAcked(seq=told.seq))
    assert KEY in bench.machine.state.slots, "that was of a report of the session before"


def test_a_second_acknowledgement_forgets_no_newer_node_of_the_same_name(bench: Bench) -> None:
    bench.assign((KEY, Desired.STOP))
    (first,) = bench.found(f.Report)
    bench.assign((KEY, Desired.STOP))
    (second,) = bench.found(f.Report)
    bench.do(i.ReportAcked(seq=first.seq))
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.ReportAcked(seq=second.seq))
    assert bench.slot().progress is Progress.ASSIGNED


# unclean


def test_a_host_that_cannot_be_cleaned_says_so_and_goes_on_trying(bench: Bench) -> None:
    bench.run()
    bench.do(i.Ended(key=KEY, exit_code=0, reason="", stopped_at_ms=9))
    bench.do(i.RemoveFailed(key=KEY, reason="pid 77 survives"))
    assert bench.found(f.Report)[0].slots[0].unclean_reason == "pid 77 survives"
    assert decode(bench.ledger[KEY]).unclean_reason == "pid 77 survives"
    assert bench.wait(RETRY_FIRST_MS) == ["Remove"]
    bench.do(i.RemoveFailed(key=KEY, reason="pid 77 survives"))
    assert bench.reported() == [], "said once"
    for _ in range(20):
        assert bench.wait(RETRY_MAX_MS) == ["Remove"]
        bench.do(i.RemoveFailed(key=KEY, reason="pid 77 survives"))
    bench.wait(RETRY_MAX_MS)
    bench.do(i.Removed(key=KEY))
    assert bench.slot().unclean_reason == ""
    assert bench.reported() == [Progress.RELEASED]


def test_a_resumed_host_tries_at_once(bench: Bench) -> None:
    bench.run()
    bench.do(i.Ended(key=KEY, exit_code=0, reason="", stopped_at_ms=9))
    bench.assign((KEY, Desired.STOP))
    bench.do(i.RemoveFailed(key=KEY, reason="pid 77 survives"))
    bench.assign((KEY, Desired.STOP))
    assert bench.asked() == ["Remove"]


def test_a_wait_that_failed_is_asked_again(bench: Bench) -> None:
    bench.run()
    bench.do(i.WaitFailed(key=KEY, reason="engine gone"))
    assert bench.wait(RETRY_FIRST_MS) == ["Wait"]


def test_a_stop_that_failed_is_asked_again(bench: Bench) -> None:
    bench.run()
    bench.assign((KEY, Desired.STOP))
    bench.do(i.StopFailed(key=KEY, reason="engine gone"))
    assert bench.slot().unclean_reason == "engine gone"
    assert bench.wait(RETRY_FIRST_MS) == ["Stop"]


def test_two_nodes_one_of_which_still_stops(bench: Bench) -> None:
    bench.run()
    bench.assign((KEY, Desired.STOP), (OTHER, Desired.PREPARE))
    assert bench.asked() == ["Stop", "Prepare"]
    bench.do(i.Ended(key=KEY, exit_code=143, reason="", stopped_at_ms=9))
    bench.do(i.Prepared(key=OTHER))
    assert bench.slot(OTHER).progress is Progress.PREPARED


def test_names_and_keys_are_the_same_thing() -> None:
    key = NodeKey(job_id="a-b-1", attempt=2, node_index=30)
    assert NodeKey.parse(key.name) == key
    for foreign in ("", "muster", "muster-x-1", "other-a-1-2", "muster-a-x-2", "muster--1-2"):
        assert NodeKey.parse(foreign) is None


# the start barrier


def held(bench: Bench) -> None:
    """The container is up and its command waits."""
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY, private_ipv4="10.1.0.1"))
    bench.assign((KEY, Desired.RUN), hold=True)
    (start,) = bench.found(f.Start)
    assert (start.hold, start.spec.address) == (True, "10.1.0.1")
    bench.do(i.StartedUp(key=KEY, started_at_ms=5, private_ipv4=""))
    assert bench.slot().private_ipv4 == "10.1.0.1"
    assert bench.found(f.Lift) == []


def test_a_held_command_is_let_go_once(bench: Bench) -> None:
    held(bench)
    bench.assign((KEY, Desired.RUN))
    assert len(bench.found(f.Lift)) == 1
    bench.do(i.Lifted(key=KEY))
    bench.assign((KEY, Desired.RUN))
    assert bench.found(f.Lift) == []


def test_a_lift_that_failed_is_tried_again(bench: Bench) -> None:
    held(bench)
    bench.assign((KEY, Desired.RUN))
    bench.do(i.LiftFailed(key=KEY, reason="no space left"))
    bench.wait(2_000)
    assert len(bench.found(f.Lift)) == 1


def test_the_next_agent_knows_who_waits(bench: Bench) -> None:
    held(bench)
    later = bench.restarted()
    later.begin(i.Found(key=KEY, started_at_ms=5))
    later.connect()
    later.assign((KEY, Desired.RUN))
    assert len(later.found(f.Lift)) == 1


def test_a_held_container_is_stopped_as_any_other(bench: Bench) -> None:
    held(bench)
    bench.assign((KEY, Desired.STOP))
    assert bench.asked() == ["Stop"]


def test_a_start_that_is_repeated_still_waits(bench: Bench) -> None:
    """The first try may have made a container that waits, and only Lift lets it go."""
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY))
    bench.assign((KEY, Desired.RUN), hold=True)
    bench.do(i.StartFailed(key=KEY, reason="engine gone", uncertain=True, wall_ms=1))
    bench.assign((KEY, Desired.RUN))
    bench.now += 1_000
    bench.do(i.Tick())
    (start,) = bench.found(f.Start)
    assert start.hold
    bench.do(i.StartedUp(key=KEY, started_at_ms=5, private_ipv4=""))
    assert len(bench.found(f.Lift)) == 1


def test_a_clock_that_was_set_makes_no_container_older_than_its_start() -> None:
    """The agent died while it started the container, and the wall clock was set a day ahead."""
    bench = Bench()
    bench.begin()
    bench.connect()
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY))
    bench.assign((KEY, Desired.RUN))
    later = bench.restarted()
    found = i.Found(key=KEY, started_at_ms=50, private_ipv4="10.0.0.1")
    later.do(i.Started(managed=(found,), rebooted=False, wall_ms=86_400_050))
    assert later.slot().progress is Progress.RUNNING
    assert later.slot().up_boot_ms == bench.now


def test_what_an_older_ledger_names_as_not_begun_is_taken_over_when_it_runs(bench: Bench) -> None:
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY))
    again = bench.restarted()
    again.begin(i.Found(key=KEY, started_at_ms=5))
    assert again.asked() == ["Wait"]
    assert again.slot().progress is Progress.RUNNING
    again.connect()
    again.assign((KEY, Desired.RUN))
    assert again.asked() == []


def test_a_node_that_lost_its_promised_address_is_not_started(bench: Bench) -> None:
    """An older copy of the ledger has the vote before the last: the gang was told another one, and
    the node may have run since."""
    bench.assign((KEY, Desired.PREPARE))
    bench.do(i.Prepared(key=KEY, private_ipv4="10.1.0.2"))
    gang = Gang(main_node=0, addresses=("10.1.0.1",), host_ids=("h1",), slots=(1,))
    wanted = Assignment(
        key=KEY,
        desired=Desired.RUN,
        spec=SPEC,
        stop_grace_seconds=30,
        lease_seconds=600,
        gang=gang,
    )
    bench.do(i.AssignmentsReceived(generation=2, assignments=(wanted,)))
    assert bench.asked() == ["Remove"]
    assert not bench.slot().not_started
    assert "another address" in bench.slot().reason
