"""The cluster-wide numbers the policy works with. Times in the units of their names. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_QUEUE = "default"
COMPUTE_ENVIRONMENT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    heartbeat_ms: int = 5_000
    lost_after_ms: int = 30_000
    lease_seconds: int = 600
    """0: a container never stops by itself, so only proof or an operator frees a lost one."""
    stop_grace_seconds: int = 30
    fence_margin_seconds: int = 30
    vote_timeout_ms: int = 1_800_000
    refusal_backoff_ms: int = 30_000
    refusal_backoff_max_ms: int = 300_000
    permanent_refusals_to_fail: int = 3
    """So often must hosts, or one host that is asked again, say that the job is wrong wherever it
    runs before it is believed; once is enough when there is nobody else to ask."""
    definition_retention_ms: int = 180 * 86_400_000
    """INACTIVE definitions stay describable for so long (aws-batch-spec section 3)."""

    @property
    def fence_after_ms(self) -> int | None:
        """How long after the last contact a lost host's container has stopped by itself."""
        if self.lease_seconds == 0:
            return None
        return 1000 * (self.lease_seconds + self.stop_grace_seconds + self.fence_margin_seconds)
