"""What a seed makes the world be like: its size, its delays, and which faults it knows.

Every kind of fault is off in some seeds, so that a rare mixture is not hidden behind a common one
(swarm testing, as TigerBeetle's simulator does). Times are milliseconds of the world.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from random import Random
from typing import Any

from coordinator.core.settings import Settings

SETTINGS = Settings(
    heartbeat_ms=8_000,
    lost_after_ms=25_000,
    lease_seconds=90,
    last_attempt_lease_seconds=600,
    stop_grace_seconds=10,
    fence_margin_seconds=15,
    vote_timeout_ms=45_000,
    refusal_backoff_ms=10_000,
    refusal_backoff_max_ms=40_000,
    failed_starts_to_drain=2,
)
"""Shorter than the real ones, in the same proportions: a lease is several times a host's silence,
which is several heartbeats."""
SKEW_MAX = 0.001
SEEDS = 3000
"""How many a test run plays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """`every` is the mean time between two faults of a kind, None when there are none; other faults
    are chances, or a number of hosts."""

    hosts: int
    types: int
    own_addresses: bool
    jobs: int
    horizon_ms: int
    delay_ms: int
    engine_ms: int
    life_ms: int
    batch_max: int
    """How many inputs the coordinator takes in one step."""
    verdict_seconds: int | None
    last_lease_seconds: int
    readers: int
    """People who read output."""
    other_lease_seconds: int | None = None
    """The lease that every second start of the coordinator is given, if it is another."""
    other_grace_seconds: int | None = None
    other_lost_after_ms: int | None = None
    """As that, the stop grace and when a host is lost."""
    drop_every_ms: int | None = None
    stall_every_ms: int | None = None
    cut_every_ms: int | None = None
    agent_crash_every_ms: int | None = None
    agent_stop_every_ms: int | None = None
    agent_hang_every_ms: int | None = None
    coordinator_crash_every_ms: int | None = None
    pause_every_ms: int | None = None
    slow_commit_every_ms: int | None = None
    slow_commit_ms: tuple[int, int] | None = None
    """How long a slow commit takes; None: up to all the time that commits are slow."""
    clock_step_every_ms: int | None = None
    full_disk_every_ms: int | None = None
    power_every_ms: int | None = None
    older_journal_every_ms: int | None = None
    directory_every_ms: int | None = None
    """A data directory is wiped, copied or brought back."""
    clone_every_ms: int | None = None
    second_agent_every_ms: int | None = None
    operator_every_ms: int | None = None
    user_every_ms: int | None = None
    log_break_every_ms: int | None = None
    commit_fails: float = 0.0
    wrong_at_start: float = 0.0
    """How often the coordinator starts with a wrong clock that is put right soon after."""
    refuse: float = 0.0
    start_fails: float = 0.0
    black_holes: int = 0
    """Hosts on which no container starts until all heals."""
    black_holes_permanent: bool = False
    engine_gone: float = 0.0
    unclean: float = 0.0
    late: float = 0.0
    tail_lost: float = 0.0

    @classmethod
    def draw(cls, rng: Random) -> Knobs:
        def every(*choices: int) -> int | None:
            return rng.choice((None, None, *choices))

        def chance(*choices: float) -> float:
            return rng.choice((0.0, 0.0, *choices))

        def rare(name: str, *choices: int) -> int | None:
            """Of a generator of its own, so that all that the seed means besides stays as it is."""
            own = Random(f"{name} {rng.getstate()}")
            return own.choice((None, None, *(choices or (150_000, 60_000))))

        knobs = cls(
            hosts=rng.randint(1, 6),
            types=rng.choice((1, 1, 2)),
            own_addresses=rng.random() < 0.5,
            jobs=rng.randint(1, 6),
            horizon_ms=rng.choice((150_000, 300_000, 400_000)),
            delay_ms=rng.choice((1, 20, 400)),
            engine_ms=rng.choice((10, 500, 2_000)),
            life_ms=rng.choice((5_000, 40_000, 300_000)),
            batch_max=rng.choice((1_000, 1_000, 3, 1)),
            verdict_seconds=rng.choice((None, None, 30, 80)),
            last_lease_seconds=rng.choice((600, 600, 200, 0)),
            other_lease_seconds=rng.choice((None, None, 80, 200)),
            other_grace_seconds=rare("grace", 1, 30),
            other_lost_after_ms=rare("lost after", 17_000, 40_000),
            drop_every_ms=every(100_000, 20_000),
            stall_every_ms=every(150_000, 40_000),
            cut_every_ms=every(150_000, 50_000),
            agent_crash_every_ms=every(100_000, 30_000),
            coordinator_crash_every_ms=every(120_000, 30_000),
            pause_every_ms=every(120_000, 40_000),
            slow_commit_every_ms=every(120_000, 40_000),
            slow_commit_ms=rng.choice((None, (1_000, 1_990))),
            clock_step_every_ms=every(100_000, 20_000),
            full_disk_every_ms=every(100_000, 30_000),
            power_every_ms=every(150_000, 50_000),
            older_journal_every_ms=Random(str(rng.getstate())).choice(
                (None, None, 150_000, 60_000)
            ),
            agent_hang_every_ms=rare("hang"),
            directory_every_ms=rare("directory"),
            clone_every_ms=rare("clone"),
            second_agent_every_ms=rare("second agent"),
            operator_every_ms=every(100_000, 20_000),
            user_every_ms=every(100_000, 25_000),
            commit_fails=chance(0.005, 0.02),
            wrong_at_start=chance(0.3, 0.9),
            refuse=chance(0.1, 0.3),
            start_fails=chance(0.1, 0.2),
            black_holes=rng.choice((0, 0, 1, 1, 2)),
            black_holes_permanent=rng.random() < 0.4,
            engine_gone=chance(0.05, 0.2),
            unclean=chance(0.1, 0.4),
            late=chance(0.1, 0.4),
            tail_lost=chance(0.2, 0.6),
            log_break_every_ms=every(40_000, 10_000),
            readers=rng.choice((0, 2, 8)),
            agent_stop_every_ms=every(100_000, 30_000),
        )
        return knobs.calmed(rng.choices((None, *CALM), weights=(8, 1, 2, 1))[0])

    def calmed(self, kept: tuple[str, ...] | None) -> Knobs:
        """Without any fault but these; None keeps all."""
        if kept is None:
            return self
        off = {name: default for name, default in NO_FAULTS.items() if name not in kept}
        return replace(self, **off)

    @property
    def is_calm(self) -> bool:
        """Nothing goes wrong at all."""
        return self == self.calmed(())

    @property
    def sets_clocks(self) -> bool:
        return bool(self.clock_step_every_ms or self.wrong_at_start)

    def settings(self, start: int) -> Settings:
        """Those of one start of the coordinator: operators change them, and start it again."""
        is_other = start % 2 == 0
        lease, grace = self.other_lease_seconds, self.other_grace_seconds
        lost_after_ms = self.other_lost_after_ms
        return replace(
            SETTINGS,
            lease_seconds=lease if is_other and lease else SETTINGS.lease_seconds,
            stop_grace_seconds=grace if is_other and grace else SETTINGS.stop_grace_seconds,
            lost_after_ms=lost_after_ms if is_other and lost_after_ms else SETTINGS.lost_after_ms,
            last_attempt_lease_seconds=self.last_lease_seconds,
            verdict_after_seconds=self.verdict_seconds,
        )

    def __str__(self) -> str:
        shown = {name: value for name, value in asdict(self).items() if value not in (None, 0.0)}
        return ", ".join(f"{name}={value}" for name, value in shown.items())


_COORDINATORS_OWN = (
    *("pause_every_ms", "slow_commit_every_ms", "commit_fails", "coordinator_crash_every_ms"),
    *("clock_step_every_ms", "wrong_at_start", "other_lease_seconds", "tail_lost"),
    *("other_grace_seconds", "other_lost_after_ms", "older_journal_every_ms"),
)
FULL_DISK = ("full_disk_every_ms",)
CALM: tuple[tuple[str, ...], ...] = ((), _COORDINATORS_OWN, FULL_DISK)
"""Nothing goes wrong; nothing but at the coordinator; nothing but its disk."""
_FAULTS = {field.name for field in fields(Knobs) if field.name.endswith("_every_ms")} | {
    *("other_lease_seconds", "other_grace_seconds", "other_lost_after_ms"),
    *("commit_fails", "wrong_at_start", "refuse", "start_fails"),
    *("black_holes", "engine_gone", "unclean", "late", "tail_lost"),
}
NO_FAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(Knobs) if field.name in _FAULTS
}
