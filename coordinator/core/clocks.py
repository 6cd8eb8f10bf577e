"""May the wall clock be believed?

A machine can start with a clock that is wrong by days, and have it put right a moment later. So
what cannot be undone, such as the end of retention, waits until the coordinator's clock agrees with
the clocks of its agents. No I/O.
"""

from __future__ import annotations

from statistics import median_low

from coordinator.core.settings import Settings
from coordinator.core.state import ClusterState


def agree(state: ClusterState, settings: Settings) -> bool:
    """True when at least half of the connected agents that say their time are as near to ours as
    the tolerance. False when there are none: nobody has confirmed our clock."""
    found_ms = distance_ms(state)
    return found_ms is not None and found_ms <= settings.clock_tolerance_ms


def distance_ms(state: ClusterState) -> int | None:
    """How far at least half of the connected agents' clocks are from ours at most; None when no
    connected agent says its time."""
    distances = [
        abs(state.now_ms + presence.wall_less_clock_ms - state.wall_ms)
        for presence in state.presence.values()
        if presence.session_id is not None and presence.wall_less_clock_ms is not None
    ]
    return median_low(distances) if distances else None
