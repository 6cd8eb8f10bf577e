"""Each promise of a campaign can be broken: a made-up record for each way, and what is said of it.

No daemon runs here; `make chaos` holds real ones against the same functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from tests.chaos.forecast import AGENT_KINDS, COORDINATOR_KINDS, HASTY, SETTINGS
from tests.chaos.promises import PROMISES, is_excused, silences, violations
from tests.chaos.record import COORDINATOR, Disturbance, Job, Outcome, Period, Record

WELL = Job(
    token="token",
    code=3,
    attempts_allowed=2,
    answers=("job", "job"),
    listed=("job",),
    submitted_at=100.0,
    ended_at=130.0,
    outcomes=(Outcome("FAILED", (3, 3)),),
    mains=("h1", "h2"),
    lives={1: (101.0, 110.0), 2: (111.0, 120.0)},
    main_lives={1: (101.0, 110.0), 2: (112.0, 120.0)},
    words={
        (0, 1): ("started", "ended"),
        (1, 1): ("started", "stopped"),
        (0, 2): ("started", "ended"),
    },
)
GOOD = dataclasses.replace(
    WELL,
    code=0,
    outcomes=(Outcome("SUCCEEDED", (0,)),),
    lives={1: (101.0, 110.0)},
    main_lives={1: (101.0, 110.0)},
    words={(0, 1): ("started", "ended")},
)
LOST = dataclasses.replace(
    WELL,
    code=0,
    outcomes=(Outcome("SUCCEEDED", (None, 0)),),
    words={(0, 1): ("started",), (0, 2): ("started", "ended")},
)
"""Main of its first attempt, on h1, was lost between 101 and 111."""


def record(*jobs: Job, **members: Any) -> Record:
    usual: dict[str, Any] = {
        "disturbances": (),
        "periods": (Period(since=0.0, settings=HASTY),),
        "ended": 200.0,
    }
    return Record(jobs=jobs, **{**usual, **members})


def done(kind: str, target: str, began: float, ended: float) -> Disturbance:
    return Disturbance(target=target, kind=kind, began=began, ended=ended)


def test_a_record_of_nothing_wrong_breaks_no_promise() -> None:
    never_accepted = dataclasses.replace(
        GOOD, answers=(), listed=(), outcomes=(), lives={}, main_lives={}, words={}
    )
    terminated = dataclasses.replace(
        GOOD, is_terminated=True, outcomes=(Outcome("FAILED", (143,)),),
        words={(0, 1): ("started", "stopped")},
    )  # fmt: skip
    too_late = dataclasses.replace(
        GOOD, is_terminated=True, outcomes=(Outcome("FAILED", (0,), "by a user"),)
    )
    assert violations(record(WELL, GOOD, never_accepted, terminated, too_late)) == []


@pytest.mark.parametrize(
    ("promise", "job", "changes", "said"),
    [
        ("one job", GOOD, {"answers": ("job", "other")}, "answered with ('job', 'other')"),
        ("one job", GOOD, {"listed": ("job", "other")}, "the listing has ('job', 'other')"),
        ("one job", GOOD, {"listed": ()}, "was accepted as job, and no job is listed"),
        ("one job", GOOD, {"answers": (), "listed": ("job", "other")}, "('job', 'other')"),
        ("one outcome", GOOD, {"outcomes": (), "ended_at": None}, "never ended"),
        ("one outcome", GOOD, {"outcomes": (Outcome("RUNNING", ()),)}, "is RUNNING"),
        (
            "one outcome",
            GOOD,
            {"outcomes": (Outcome("SUCCEEDED", (0,)), Outcome("FAILED", (None,)))},
            "SUCCEEDED",
        ),
        ("one outcome", GOOD, {"outcomes": (Outcome("FAILED", (0,)),)}, "FAILED with the exit"),
        ("one outcome", WELL, {"outcomes": (Outcome("SUCCEEDED", (3, 3)),)}, "SUCCEEDED with"),
        (
            "one outcome",
            GOOD,
            {"words": {(0, 1): ("started", "stopped")}},
            "is told to have ended by itself, and its main said ('started', 'stopped')",
        ),
        ("one outcome", GOOD, {"lives": WELL.lives}, "the attempts [2] ran, and only 1 are told"),
        ("one outcome", WELL, {"attempts_allowed": 1}, "2 attempts were made, and 1 allowed"),
        (
            "runs twice",
            GOOD,
            {"words": {(0, 1): ("started", "started", "ended")}},
            "node 0 started 2 times in attempt 1",
        ),
        (
            "runs twice",
            WELL,
            {"words": {**WELL.words, (1, 2): ("started", "stopped", "started")}},
            "node 1 started 2 times in attempt 2",
        ),
        (
            "overlap",
            WELL,
            {"lives": {1: (101.0, 111.5), 2: (111.0, 120.0)}},
            "attempt 2 began 0.50 s before attempt 1 was seen alive for the last time",
        ),
        (
            "overlap",
            dataclasses.replace(WELL, attempts_allowed=3, outcomes=(Outcome("FAILED", (3,) * 3),)),
            {
                "lives": {1: (101.0, 125.0), 2: (102.0, 103.0), 3: (121.0, 126.0)},
                "words": {**WELL.words, (0, 3): ("started", "ended")},
            },
            "attempt 3 began 4.00 s before attempt 1",
        ),
        (
            "starts again",
            GOOD,
            {"main_lives": {1: (131.0, 132.0)}},
            "main of attempt 1 started after the job had SUCCEEDED",
        ),
        ("healthy", LOST, {}, "attempt 1 has the exit code None and not its own 0"),
        (
            "healthy",
            GOOD,
            {"outcomes": (Outcome("FAILED", (137,)),), "attempts_allowed": 1},
            "attempt 1 has the exit code 137 and not its own 0",
        ),
        ("healthy", WELL, {"attempts_allowed": 3}, "and 3 attempts were allowed"),
        (
            "healthy",
            dataclasses.replace(WELL, code=0),
            {"outcomes": (Outcome("SUCCEEDED", (0, 0)),)},
            "was tried again after its main had ended well",
        ),
    ],
)
def test_a_broken_promise_to_a_job_is_seen(
    promise: str, job: Job, changes: Mapping[str, Any], said: str
) -> None:
    broken = violations(record(dataclasses.replace(job, **changes)))
    assert any(promise in each.promise and said in each.text for each in broken), broken
    assert all(each.token == "token" for each in broken)


@pytest.mark.parametrize(
    ("promise", "members"),
    [
        ("nothing is left", {"left": ("process 7 of job job",)}),
        ("no daemon does", {"faults": ("h1 ended by itself with status 1",)}),
    ],
)
def test_a_broken_promise_to_everybody_is_seen(promise: str, members: dict[str, Any]) -> None:
    (broken,) = violations(record(GOOD, **members))
    assert broken.promise.startswith(promise)
    assert broken.text == members.popitem()[1][0]
    assert broken.token is None


def test_every_promise_has_a_record_that_breaks_it() -> None:
    """Each is named above, by a part of its name that no other has."""
    named = (
        *("one job", "one outcome", "runs twice", "overlap", "starts again", "healthy"),
        *("nothing is left", "no daemon does"),
    )
    names = [promise.__name__.replace("_", " ") for promise in PROMISES]
    assert [sum(part in name for name in names) for part in named] == [1] * len(PROMISES)


@pytest.mark.parametrize("kind", [kind for kind in AGENT_KINDS if kind != "clock stepped"])
def test_a_host_that_was_disturbed_for_too_long_excuses_its_own_main(kind: str) -> None:
    too_long = done(kind, "h1", 102.0, 102.0 + HASTY.verdict_after_seconds)
    assert violations(record(LOST, disturbances=(too_long,))) == []


@pytest.mark.parametrize("kind", [kind for kind in COORDINATOR_KINDS if kind != "clock stepped"])
def test_a_coordinator_that_was_away_for_the_lease_excuses_all(kind: str) -> None:
    too_long = done(kind, COORDINATOR, 102.0, 102.0 + HASTY.lease_seconds)
    assert violations(record(LOST, disturbances=(too_long,))) == []


@pytest.mark.parametrize(
    "disturbances",
    [
        (done("hung", "h2", 102.0, 109.0),),
        (done("hung", "h1", 80.0, 90.0),),
        (done("hung", "h1", 125.0, 129.0),),
        (done("killed", "h1", 102.0, 102.5),),
        (done("killed", "h1", 102.0, 102.5), done("killed", "h1", 107.0, 107.5)),
        (dataclasses.replace(done("stopped in order", "h1", 102.0, 109.0), is_goodbye=True),),
        (done("clock stepped", "h1", 102.0, 102.0),),
        (done("clock stepped", COORDINATOR, 102.0, 102.0),),
    ],
)
def test_another_host_another_time_a_short_while_a_goodbye_and_a_clock_excuse_nobody(
    disturbances: tuple[Disturbance, ...],
) -> None:
    broken = violations(record(LOST, disturbances=disturbances))
    assert [each.promise for each in broken] == ["no healthy attempt fails"]


def test_what_was_done_before_a_host_had_recovered_counts_together() -> None:
    both = (done("killed", "h1", 102.0, 102.5), done("hung", "h1", 103.0, 103.5))
    assert silences(both) == [(102.0, 105.5)]
    assert violations(record(LOST, disturbances=both)) == []


def test_a_cut_lasts_until_the_kernel_sends_again() -> None:
    assert silences([done("cut off", "h1", 10.0, 13.0)]) == [(10.0, 18.0)]
    assert silences([done("hung", "h1", 10.0, 13.0)]) == [(10.0, 15.0)]


def test_the_shortest_verdict_of_all_that_were_in_force_counts() -> None:
    patient = SETTINGS[1]
    six = (done("hung", "h1", 102.0, 106.0),)
    always = (Period(since=0.0, settings=patient),)
    assert not is_excused(record(disturbances=six, periods=always), LOST, 1)
    changed = (*always, Period(since=108.0, settings=HASTY))
    assert is_excused(record(disturbances=six, periods=changed), LOST, 1)
    over = (Period(since=0.0, settings=HASTY), Period(since=90.0, settings=patient))
    assert not is_excused(record(disturbances=six, periods=over), LOST, 1)


def test_an_attempt_whose_main_said_nothing_is_looked_for_since_the_one_before() -> None:
    silent = dataclasses.replace(
        WELL,
        code=0,
        outcomes=(Outcome("FAILED", (None, None)),),
        mains=("h1", "h2"),
        lives={1: (101.0, 110.0)},
        main_lives={1: (101.0, 110.0)},
        words={(0, 1): ("started",)},
    )
    away = (done("hung", "h1", 102.0, 109.0), done("hung", "h2", 115.0, 125.0))
    assert violations(record(silent, disturbances=away)) == []
    assert len(violations(record(silent, disturbances=away[:1]))) == 1
