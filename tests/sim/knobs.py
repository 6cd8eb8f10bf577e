"""What a seed makes the world be like: its size, its delays, and which faults it knows.

Every kind of fault is off in some seeds, so that a rare mixture is not hidden behind a common one
(swarm testing, as TigerBeetle's simulator does). Times are milliseconds of the world.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from random import Random

from coordinator.core.settings import Settings

SETTINGS = Settings(
    heartbeat_ms=8_000,
    lost_after_ms=25_000,
    lease_seconds=60,
    stop_grace_seconds=10,
    fence_margin_seconds=15,
    vote_timeout_ms=45_000,
    refusal_backoff_ms=10_000,
    refusal_backoff_max_ms=40_000,
)
"""Shorter than the real ones, in the same proportions: a lease is several times a host's silence,
which is several heartbeats."""
SKEW_MAX = 0.001
SEEDS = 1000
"""How many a test run plays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """`every` is the mean time between two faults of a kind, None when there are none."""

    hosts: int
    types: int
    own_addresses: bool
    jobs: int
    horizon_ms: int
    delay_ms: int
    engine_ms: int
    life_ms: int
    drop_every_ms: int | None
    stall_every_ms: int | None
    cut_every_ms: int | None
    agent_crash_every_ms: int | None
    coordinator_crash_every_ms: int | None
    power_every_ms: int | None
    operator_every_ms: int | None
    user_every_ms: int | None
    refuse: float
    start_fails: float
    engine_gone: float
    unclean: float
    late: float

    @classmethod
    def draw(cls, rng: Random) -> Knobs:
        def every(*choices: int) -> int | None:
            return rng.choice((None, None, *choices))

        def chance(*choices: float) -> float:
            return rng.choice((0.0, 0.0, *choices))

        return cls(
            hosts=rng.randint(1, 6),
            types=rng.choice((1, 1, 2)),
            own_addresses=rng.random() < 0.5,
            jobs=rng.randint(1, 6),
            horizon_ms=rng.choice((150_000, 300_000, 400_000)),
            delay_ms=rng.choice((1, 20, 400)),
            engine_ms=rng.choice((10, 500, 2_000)),
            life_ms=rng.choice((5_000, 40_000, 300_000)),
            drop_every_ms=every(100_000, 20_000),
            stall_every_ms=every(150_000, 40_000),
            cut_every_ms=every(150_000, 50_000),
            agent_crash_every_ms=every(100_000, 30_000),
            coordinator_crash_every_ms=every(120_000, 30_000),
            power_every_ms=every(150_000, 50_000),
            operator_every_ms=every(100_000, 20_000),
            user_every_ms=every(100_000, 25_000),
            refuse=chance(0.1, 0.3),
            start_fails=chance(0.1, 0.2),
            engine_gone=chance(0.05, 0.2),
            unclean=chance(0.1, 0.4),
            late=chance(0.1, 0.4),
        )

    def __str__(self) -> str:
        shown = {name: value for name, value in asdict(self).items() if value not in (None, 0.0)}
        return ", ".join(f"{name}={value}" for name, value in shown.items())
