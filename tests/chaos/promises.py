"""What must hold whatever was done to the daemons, as functions of a record.

Each promise yields its violations. A promise that excuses (`healthy jobs do not fail`) says when:
an excuse is what was done to the host of main or to the coordinator, never what a daemon says.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.record import COORDINATOR, Disturbance, Job, Record

RECOVERY_SECONDS = 2.0
"""Until a daemon that was let go again has been heard: start, reconnect, one heartbeat."""
CABLE_SECONDS = 6.0
"""The longest pause before the kernel sends again over a cable that is back; no longer than it
was cut."""
ENDS = ("SUCCEEDED", "FAILED")


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept, to which job, and how."""

    promise: str
    token: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.token + ': ' if self.token else ''}{self.text}"


Promise = Callable[[Record], Iterator[tuple[Job | None, str]]]


def each_accepted_token_has_one_job(record: Record) -> Iterator[tuple[Job | None, str]]:
    for job in record.jobs:
        if len({*job.answers, *job.listed}) > 1 or len(job.listed) > 1:
            yield job, f"answered with {job.answers}, and the listing has {job.listed}"
        elif job.answers and not job.listed:
            yield job, f"was accepted as {job.answers[0]}, and no job is listed"


def each_job_has_one_outcome(record: Record) -> Iterator[tuple[Job | None, str]]:
    for job in record.jobs:
        if job.job_id is None:
            continue
        if len(job.outcomes) != 1:
            told = " and then ".join(map(str, job.outcomes)) or "never ended"
            yield job, told
            continue
        (outcome,) = job.outcomes
        last = outcome.codes[-1] if outcome.codes else None
        if outcome.status not in ENDS:
            yield job, f"never ended, and is {outcome.status} ({outcome.reason})"
        elif (outcome.status == "SUCCEEDED") != (last == 0) and not (
            # It came between the wish and the stop, and the wish counts, as on AWS Batch.
            job.is_terminated and outcome.status == "FAILED"
        ):
            yield job, f"{outcome.status} with the exit codes {outcome.codes}"
        yield from ((job, lie) for lie in _lies(job, outcome.codes))


def _lies(job: Job, codes: Sequence[int | None]) -> Iterator[str]:
    """What is told of an attempt and cannot be true by what its main said."""
    for attempt, code in enumerate(codes, 1):
        words = job.words.get((0, attempt), ())
        if code == job.code and "ended" not in words:
            yield f"attempt {attempt} is told to have ended by itself, and its main said {words}"
    untold = [attempt for attempt in job.lives if attempt > len(codes)]
    if untold:
        yield f"the attempts {untold} ran, and only {len(codes)} are told of"
    if len(codes) > job.attempts_allowed:
        yield f"{len(codes)} attempts were made, and {job.attempts_allowed} allowed"


def no_node_runs_twice_in_an_attempt(record: Record) -> Iterator[tuple[Job | None, str]]:
    for job in record.jobs:
        for (index, attempt), words in sorted(job.words.items()):
            if (count := words.count("started")) > 1:
                yield job, f"node {index} started {count} times in attempt {attempt}: {words}"


def no_two_attempts_overlap(record: Record) -> Iterator[tuple[Job | None, str]]:
    for job in record.jobs:
        for (one, (_, last)), (other, (first, _)) in itertools.combinations(
            sorted(job.lives.items()), 2
        ):
            if first < last:
                yield (
                    job,
                    (
                        f"attempt {other} began {last - first:.2f} s before attempt {one} was seen "
                        f"alive for the last time: {dict(sorted(job.lives.items()))}"
                    ),
                )


def no_ended_job_starts_again(record: Record) -> Iterator[tuple[Job | None, str]]:
    """A job that nobody wanted to end and whose main ended by itself."""
    for job in record.jobs:
        if job.ended_at is None or not job.outcomes or job.outcomes[0].status != "SUCCEEDED":
            continue
        for attempt, (first, _) in job.main_lives.items():
            if first > job.ended_at:
                yield job, f"main of attempt {attempt} started after the job had SUCCEEDED"


def no_healthy_attempt_fails(record: Record) -> Iterator[tuple[Job | None, str]]:
    for job in record.jobs:
        if job.is_terminated or len(job.outcomes) != 1:
            continue
        for attempt, code in enumerate(job.outcomes[0].codes, 1):
            if code != job.code and not is_excused(record, job, attempt):
                began, ended = window(record, job, attempt)
                yield (
                    job,
                    (
                        f"attempt {attempt} has the exit code {code} and not its own {job.code} "
                        f"({job.outcomes[0].reason}), although nothing was done for too long to "
                        f"its host {main_of(job, attempt)} from {began:.1f} to {ended:.1f}"
                    ),
                )
        told = job.outcomes[0].codes
        if len(told) < job.attempts_allowed and told[-1:] != (0,):
            yield job, f"FAILED with {told}, and {job.attempts_allowed} attempts were allowed"
        if 0 in told[:-1]:
            yield job, f"was tried again after its main had ended well: {told}"


def nothing_is_left(record: Record) -> Iterator[tuple[Job | None, str]]:
    yield from ((None, left) for left in record.left)


def no_daemon_does_what_none_may(record: Record) -> Iterator[tuple[Job | None, str]]:
    yield from ((None, fault) for fault in record.faults)


PROMISES: tuple[Promise, ...] = (
    each_accepted_token_has_one_job,
    each_job_has_one_outcome,
    no_node_runs_twice_in_an_attempt,
    no_two_attempts_overlap,
    no_ended_job_starts_again,
    no_healthy_attempt_fails,
    nothing_is_left,
    no_daemon_does_what_none_may,
)


def violations(record: Record) -> list[Violation]:
    """All promises that the record does not keep, in the order of PROMISES."""
    return [
        Violation(promise.__name__.replace("_", " "), job.token if job else None, text)
        for promise in PROMISES
        for job, text in promise(record)
    ]


def main_of(job: Job, attempt: int) -> str | None:
    """The host of main in this attempt; None when it is not known."""
    return job.mains[attempt - 1] if attempt <= len(job.mains) else None


def is_excused(record: Record, job: Job, attempt: int) -> bool:
    """Whether main of this attempt may have been lost, by what was done to its host, or may have
    ended with its lease, by what was done to its host or to the coordinator."""
    host = main_of(job, attempt)
    began, ended = window(record, job, attempt)
    verdict, lease = _limits(record, began, ended)
    on_host = [each for each in record.disturbances if each.target in (host, "")]
    if host is None:  # it never came so far that anybody knows where
        on_host = [each for each in record.disturbances if each.target != COORDINATOR]
    contactless = [*on_host, *(d for d in record.disturbances if d.target == COORDINATOR)]
    return any(
        first < ended and last > began and last - first > limit
        for limit, disturbances in ((verdict, on_host), (lease, contactless))
        for first, last in silences(disturbances)
    )


def window(record: Record, job: Job, attempt: int) -> tuple[float, float]:
    """From when to when something may have happened that this attempt ended with: from main's
    first sign of life, or from the end of the attempt before, until its end was known."""
    if attempt in job.main_lives:
        began = job.main_lives[attempt][0]
    else:
        before = [last for each, (_, last) in job.lives.items() if each < attempt]
        began = max(before, default=job.submitted_at)
    after = [first for each, (first, _) in job.lives.items() if each > attempt]
    ended = job.ended_at if job.ended_at is not None else record.ended
    return began, min([*after, ended])


def silences(disturbances: Sequence[Disturbance]) -> list[tuple[float, float]]:
    """From when to when there may have been no contact: a disturbance, the time that it takes to
    recover, and the next one if it comes before. While a goodbye stands nothing is counted."""
    merged: list[tuple[float, float]] = []
    for each in sorted(disturbances, key=lambda each: each.began):
        if each.ended <= each.began or each.is_goodbye:
            continue
        cable = min(each.ended - each.began, CABLE_SECONDS) if "cut" in each.kind else 0.0
        last = each.ended + RECOVERY_SECONDS + cable
        if merged and each.began <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((each.began, last))
    return merged


def _limits(record: Record, began: float, ended: float) -> tuple[float, float]:
    """The shortest verdict and lease of all coordinators that ran within these times, or that ran
    when the attempt was placed. A lease is over two heartbeats early, as its agent counts from
    the last contact that was acknowledged."""
    until = [period.since for period in record.periods[1:]] + [float("inf")]
    in_force = [
        period.settings
        for period, end in zip(record.periods, until, strict=True)
        if period.since <= ended and end >= began - RECOVERY_SECONDS
    ]
    verdict = min(settings.verdict_after_seconds for settings in in_force)
    lease = min(each.lease_seconds - 2 * each.heartbeat_seconds for each in in_force)
    return verdict, lease
