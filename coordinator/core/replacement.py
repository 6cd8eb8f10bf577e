"""Which entries of the journal an event stands for, so that what waits does not fill it. No I/O."""

from __future__ import annotations

from coordinator.core.events import (
    AttemptStarted,
    Event,
    GangAbandoned,
    GangReserved,
    MainNotStarted,
    NodePrepared,
    NodeRefused,
    NodeReplaced,
    PlacementBlocked,
)

_OF_A_VOTE = (
    *(PlacementBlocked, GangReserved, NodePrepared, NodeRefused, NodeReplaced),
    *(AttemptStarted, MainNotStarted, GangAbandoned),
)
_BEGINS_A_VOTE = (GangReserved, GangAbandoned)


def replaced_by(event: Event) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The kinds of entries at the end of its stream that an event stands for, and of these the
    ones that the first of them may be of. A vote that was given up leaves nothing but its
    refusals, also when a main was to start in it and could not, and a large job that waits for
    long would fill the journal with votes. They go as a whole or not at all: half a vote would
    hold hosts that others have got since. No attempt whose main ran ends with these kinds."""
    if isinstance(event, GangAbandoned) and event.votes:
        return _names(_OF_A_VOTE), _names(_BEGINS_A_VOTE)
    if isinstance(event, PlacementBlocked):
        # Only the newest reason counts, and hosts that come and go change it again and again.
        return _names((PlacementBlocked,)), _names((PlacementBlocked,))
    return (), ()


def _names(kinds: tuple[type, ...]) -> tuple[str, ...]:
    return tuple(kind.__name__ for kind in kinds)
