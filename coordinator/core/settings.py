"""The cluster-wide numbers the policy works with. Times in the units of their names. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_QUEUE = "default"
COMPUTE_ENVIRONMENT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    heartbeat_ms: int = 5_000
    lost_after_ms: int = 30_000
    verdict_after_seconds: int | None = None
    """How long a host may be silent before what runs there counts as failed. None: 300 s, or half
    of the lease if that is less. `lease.py` keeps it between lost and the lease of each attempt."""
    lease_seconds: int = 600
    """0: a container never stops by itself, so only proof or an operator frees a lost one."""
    last_attempt_lease_seconds: int = 86_400
    """Nothing is started beside the last attempt that a job may have, so it may run on for longer;
    the larger of the two leases counts. 0: it never stops by itself."""
    stop_grace_seconds: int = 30
    fence_margin_seconds: int = 30
    vote_timeout_ms: int = 1_800_000
    refusal_backoff_ms: int = 30_000
    refusal_backoff_max_ms: int = 300_000
    permanent_refusals_to_fail: int = 3
    """So many hosts must say that the job is wrong wherever it runs before it is believed; all that
    could be asked are enough when there are fewer."""
    failed_starts_to_drain: int = 3
    """Jobs of so many definitions must have failed to start on a host, and then run elsewhere,
    before the host is drained."""
    definition_retention_ms: int = 180 * 86_400_000
    """INACTIVE definitions stay describable for so long (aws-batch-spec section 3)."""
    clock_tolerance_ms: int = 300_000
    """How far the coordinator's wall clock and those of its agents may differ and still agree."""

    @property
    def pulse_ms(self) -> int:
        """How often the shell must mark that it listens. Two stretches of two pulses are the most
        that is held against a host which beats in time, so that it is never lost by them."""
        return max(min(1_000, (self.lost_after_ms - self.heartbeat_ms) // 5), 50)
