"""How long the coordinator has really listened: the only time in which silence means something.

A host's heartbeats wait in sockets and in the inbox while the coordinator is paused, suspended,
moved to another machine, short of memory, or busy with a slow commit. Whoever compares two
readings of a clock then blames the host. So the shell marks, at least once a pulse, up to which
moment it has taken in all that had arrived. A stretch between two marks that is longer than two
pulses counts as two pulses, since nobody can know what came in during the rest.

A step is late when it comes more than two pulses after the step before it. No answer went out in
between, so a host that waited for its welcome could not beat, although other messages came in all
the time. So all that had come before a late step is one stretch: no mark is set within it, and it
ends when the inbox has been taken up to the moment of that step. Steps that are late until then
belong to the next stretch, so that also where every step is late a host that is gone is found
silent in the end. A host that beats in time bears two stretches: one commit may lie in both. No
I/O.
"""

from __future__ import annotations

from bisect import bisect_right

_GAPS_MAX = 1_000
"""Gaps that are remembered one by one; older gaps are taken together."""


class Listening:
    """Counts milliseconds of listening. Times are on the coordinator's clock and never decrease."""

    def __init__(self, start_ms: int, pulse_ms: int) -> None:
        self.start_ms = start_ms
        self.pulse_ms = pulse_ms
        self._heard_until_ms = start_ms
        self._stepped_at_ms = self._late_step_ms = start_ms
        self._stretch_ends_ms = start_ms
        """No mark is set before that moment."""
        self._ends = [start_ms]
        self._missed = [0]
        """`_missed[k]` is all that was missed up to `_ends[k]`."""

    @property
    def missed_ms(self) -> int:
        """All that was missed since the start."""
        return self._missed[-1]

    @property
    def awake_since_ms(self) -> int:
        """The end of the newest gap."""
        return self._ends[-1]

    @property
    def next_mark_ms(self) -> int:
        """When to mark again at the latest."""
        return self._heard_until_ms + self.pulse_ms

    def mark(self, heard_until_ms: int, *, now_ms: int) -> None:
        """A step begins at `now_ms`, and all that had arrived until `heard_until_ms` has been taken
        in. A mark that is older than the last one, or lies within a stretch, changes no count."""
        if now_ms - self._stepped_at_ms > 2 * self.pulse_ms:
            self._late_step_ms = now_ms
            if self._heard_until_ms >= self._stretch_ends_ms:
                self._stretch_ends_ms = now_ms
        self._stepped_at_ms = now_ms
        stretch_ms = heard_until_ms - self._heard_until_ms
        if stretch_ms <= 0 or heard_until_ms < self._stretch_ends_ms:
            return
        self._heard_until_ms = heard_until_ms
        if heard_until_ms < self._late_step_ms:
            self._stretch_ends_ms = self._late_step_ms
        missed_ms = stretch_ms - 2 * self.pulse_ms
        if missed_ms <= 0:
            return
        self._ends.append(heard_until_ms)
        self._missed.append(self._missed[-1] + missed_ms)
        if len(self._ends) > _GAPS_MAX:
            # The oldest gaps become a part of the next: what began between them is held against
            # its host for a shorter time than it could be, never for a longer one.
            del self._ends[1], self._missed[1]

    def since(self, at_ms: int) -> int:
        """Milliseconds of listening from `at_ms` to the newest mark. Time before the start of this
        process counts as none: nobody listened."""
        at_ms = max(at_ms, self.start_ms)
        gap = bisect_right(self._ends, at_ms)
        heard_ms = self._counted(at_ms, gap - 1)
        if gap < len(self._ends):
            # Within a gap: all that came after it counts.
            heard_ms = max(heard_ms, self._counted(self._ends[gap], gap))
        return max(heard_ms, 0)

    def _counted(self, at_ms: int, gap: int) -> int:
        return self._heard_until_ms - at_ms - (self._missed[-1] - self._missed[gap])
