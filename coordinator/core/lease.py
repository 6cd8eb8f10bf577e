"""How long an attempt may run on without contact, and what that means for who waits for its end.

Lease and stop grace are facts of an attempt: they are journaled with it, its hosts are told them,
and no later setting changes them. The lease is needed only where another attempt may be started;
the last attempt that a job may have gets a longer lease. No I/O.
"""

from __future__ import annotations

from coordinator.core.settings import Settings
from coordinator.core.state import Attempt, Job

_VERDICT_SECONDS = 300
_BEFORE = Settings(lease_seconds=600, stop_grace_seconds=30)
"""The defaults of the releases that did not journal leases."""


def new_lease_seconds(settings: Settings, job: Job, number: int) -> int:
    """The lease of an attempt that begins now; 0: it never stops by itself."""
    if number >= job.spec.attempts:
        return _longest(settings.lease_seconds, settings.last_attempt_lease_seconds)
    return settings.lease_seconds


def lease_seconds(settings: Settings, job: Job, attempt: Attempt) -> int:
    """What the hosts of the attempt were told. An attempt of an older journal may have been told
    any setting of its time, so it counts the longest that is known."""
    if attempt.lease_seconds is not None:
        return attempt.lease_seconds
    return _longest(_BEFORE.lease_seconds, new_lease_seconds(settings, job, attempt.number))


def stop_grace_seconds(settings: Settings, attempt: Attempt) -> int:
    """Time from SIGTERM to SIGKILL, as the hosts of the attempt were told."""
    if attempt.stop_grace_seconds is not None:
        return attempt.stop_grace_seconds
    return _longest_grace_seconds(settings)


def stopped_after_ms(settings: Settings, job: Job, attempt: Attempt) -> int | None:
    """How long after the last contact a silent host has stopped what it ran of the attempt; None
    when it never does that by itself."""
    lease, grace = lease_seconds(settings, job, attempt), stop_grace_seconds(settings, attempt)
    return _stopped_after_ms(settings, lease, grace)


def unknown_stopped_after_ms(settings: Settings) -> int | None:
    """The same for what this journal does not know: the longest that it may have been told."""
    lease = _longest(
        _BEFORE.lease_seconds, settings.lease_seconds, settings.last_attempt_lease_seconds
    )
    return _stopped_after_ms(settings, lease, _longest_grace_seconds(settings))


def _stopped_after_ms(settings: Settings, lease: int, grace: int) -> int | None:
    return 1000 * (lease + grace + settings.fence_margin_seconds) if lease else None


def _longest_grace_seconds(settings: Settings) -> int:
    """The longest that a host may have been told where the journal does not say it."""
    return max(_BEFORE.stop_grace_seconds, settings.stop_grace_seconds)


def verdict_after_ms(settings: Settings, job: Job, attempt: Attempt) -> int:
    """How long a host may be silent before a node of the attempt that runs there has failed: never
    sooner than the host is lost, and never later than the node has stopped by itself."""
    wanted = job.spec.verdict_after_seconds
    after_ms = 1000 * (default_verdict_seconds(settings) if wanted is None else wanted)
    lease_ms = 1000 * lease_seconds(settings, job, attempt)
    if lease_ms:
        after_ms = min(after_ms, lease_ms)
    return max(after_ms, settings.lost_after_ms)


def default_verdict_seconds(settings: Settings) -> int:
    """The cluster's own, for jobs that ask for none."""
    if settings.verdict_after_seconds is not None:
        return settings.verdict_after_seconds
    if settings.lease_seconds:
        return min(_VERDICT_SECONDS, settings.lease_seconds // 2)
    return _VERDICT_SECONDS


def _longest(*leases: int) -> int:
    return 0 if 0 in leases else max(leases)
