"""The leases of one simulated host, and their holders: who ends what outlives its lease, whatever
has become of the agent. As `agent.lease_file` and the real holders do, by the host's own clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.assignment import NodeKey

if TYPE_CHECKING:
    from tests.sim.sim_host import SimHost

LEASE_IS_OVER = "its lease is over"
"""Why a start is refused that its agent, having hung, comes too late with."""


class SimLeases:
    def __init__(self, host: SimHost) -> None:
        self.host = host
        self._ends: dict[NodeKey, tuple[int | None, int]] = {}
        """When the lease ends, None for never, and the grace."""
        self._looks_at: dict[NodeKey, int] = {}

    def set(self, name: str, ends_at_ms: int | None, grace_seconds: int) -> None:
        key = NodeKey.parse(name)
        assert key is not None
        self._ends[key] = ends_at_ms, grace_seconds
        if key not in self._looks_at:
            self._arm(key, ends_at_ms)

    def is_over(self, key: NodeKey) -> bool:
        ends_at_ms, _ = self._ends.get(key, (None, 0))
        return ends_at_ms is not None and self.host.clock() >= ends_at_ms

    def remove(self, key: NodeKey) -> None:
        self._ends.pop(key, None)

    def power_off(self) -> None:
        self._ends.clear()
        self._looks_at.clear()

    def _arm(self, key: NodeKey, ends_at_ms: int | None) -> None:
        if ends_at_ms is not None:
            self._looks_at[key] = ends_at_ms
            due_ms = self.host.world_time(ends_at_ms) - self.host.world.now
            self.host.in_this_boot(due_ms, lambda: self._wake(key))

    def _wake(self, key: NodeKey) -> None:
        del self._looks_at[key]
        ends_at_ms, grace_seconds = self._ends.get(key, (None, 0))
        if ends_at_ms is not None and self.is_over(key):
            self._end(key, ends_at_ms + 1000 * grace_seconds)
        else:
            self._arm(key, ends_at_ms)

    def _end(self, key: NodeKey, kill_at_ms: int) -> None:
        """The holder's work."""
        self.host.engine.end_by_lease(key, max(kill_at_ms - self.host.clock(), 0))
