"""What will be done to each daemon: drawn from the seed, and nothing else.

How the cluster takes it is not foreseen, since its time is real.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.record import Settings

HASTY = Settings(
    heartbeat_seconds=1,
    lost_after_seconds=2,
    verdict_after_seconds=3,
    lease_seconds=5,
    last_attempt_lease_seconds=5,
    stop_grace_seconds=1,
)
"""About the shortest times that a coordinator takes."""
SETTINGS = (
    HASTY,
    Settings(
        heartbeat_seconds=1,
        lost_after_seconds=3,
        verdict_after_seconds=8,
        lease_seconds=10,
        last_attempt_lease_seconds=15,
        stop_grace_seconds=1,
    ),
    Settings(
        heartbeat_seconds=1,
        lost_after_seconds=2,
        verdict_after_seconds=5,
        lease_seconds=12,
        last_attempt_lease_seconds=12,
        stop_grace_seconds=2,
    ),
    Settings(
        heartbeat_seconds=2,
        lost_after_seconds=4,
        verdict_after_seconds=6,
        lease_seconds=7,
        last_attempt_lease_seconds=86_400,
        stop_grace_seconds=0,
    ),
)
AGENT_KINDS = {
    "killed": 3,
    "stopped in order": 3,
    "hung": 3,
    "cut off": 4,
    "killed while cut off": 1,
    "hung while cut off": 1,
    "clock stepped": 1,
}
COORDINATOR_KINDS = {
    "killed": 3,
    "stopped in order": 2,
    "hung": 2,
    "restarted with other settings": 3,
    "clock stepped": 1,
}
AGENT_CALM_SECONDS = 10.0
COORDINATOR_CALM_SECONDS = 18.0
"""On average. Each of its starts begins to count silence anew, and nothing would be found out
about leases if they were many."""
_STEPS_SECONDS = (-400_000, -4000, -40, 0, 40, 4000, 400_000)
_SPANS_SECONDS = ((0.1, 1.5), (2.5, 6.0), (9.0, 20.0))
"""Shorter than every limit, about as long as they are, and longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doing:
    """One thing to do to a daemon after `calm_seconds`, for `seconds`. A step of a clock and a
    restart do not last; `step_seconds` and `settings` are for these."""

    calm_seconds: float
    kind: str
    seconds: float
    step_seconds: int
    settings: Settings


def forecast(seed: int, number: int, *, is_agent: bool) -> Iterator[Doing]:
    """All that is done to the daemon with this number, without end."""
    chance = random.Random(f"{seed}/{number}")
    kinds = AGENT_KINDS if is_agent else COORDINATOR_KINDS
    calm_seconds = AGENT_CALM_SECONDS if is_agent else COORDINATOR_CALM_SECONDS
    while True:
        (span,) = chance.choices(_SPANS_SECONDS, (4, 2, 4) if is_agent else (6, 3, 1))
        yield Doing(
            calm_seconds=chance.expovariate(1 / calm_seconds),
            kind=chance.choices([*kinds], [*kinds.values()])[0],
            seconds=chance.uniform(*span),
            step_seconds=chance.choice(_STEPS_SECONDS),
            settings=chance.choices(SETTINGS, (3, 1, 1, 1))[0],
        )
