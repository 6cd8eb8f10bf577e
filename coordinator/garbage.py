"""Full garbage collections of a large process.

One looks at everything that lives, which holds up the loop for a tenth of a second with a thousand
hosts, and a caller who submits much brings it on. So what survived one is set aside, and looked at
again when there is several times as much, and not twice in an hour: what became garbage in circles
meanwhile, which is little, is freed then.
"""

from __future__ import annotations

import gc
import time

_FEW = 200_000
"""So many objects are looked at within 10 ms, so there is no need to be sparing."""
_GROWTH = 4
_PERIOD_SECONDS = 3_600


class Collections:
    """The full ones of this process."""

    def __init__(self) -> None:
        self._survived = 0
        """What was left when all were looked at last."""
        self._all = True
        """The next full collection looks at all."""
        self._not_before = 0.0

    def install(self) -> None:
        gc.callbacks.append(self._ended)

    def _ended(self, phase: str, info: dict[str, int]) -> None:
        if phase != "stop" or info["generation"] < 2:
            return
        gc.freeze()
        aside = gc.get_freeze_count()
        if self._all:
            self._survived, self._all = aside, False
            self._not_before = time.monotonic() + _PERIOD_SECONDS
        elif aside > _GROWTH * max(self._survived, _FEW) and time.monotonic() >= self._not_before:
            gc.unfreeze()
            self._all = True
