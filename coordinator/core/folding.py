"""How many entries of its own stream a fact of a job stands for.

A vote that was given up leaves nothing but its refusals, also when a main was to start in it and
could not; a large job that waits for long would else fill the journal with votes. `Job.foldable`
counts the newest entries that are of one whole vote, of what is left of the votes before it, and of
reasons to wait. Any other fact ends the count: half a vote would hold hosts that others have got
since, so a vote goes as a whole or not at all. Called by `evolve.py`, so that a replay of what is
left counts the same. No I/O.
"""

from __future__ import annotations

from coordinator.core import events as e
from coordinator.core.state import Job

_OF_A_VOTE = frozenset(
    (
        *(e.PlacementBlocked, e.GangReserved, e.NodePrepared, e.NodeRefused, e.NodeReplaced),
        *(e.AttemptStarted, e.MainNotStarted),
    )
)


def count(job: Job, event: e.Event) -> None:
    """The event is the newest of the job's stream now."""
    is_blocked = isinstance(event, e.PlacementBlocked)
    if isinstance(event, e.GangAbandoned):
        job.foldable = 1 if event.replaces else 0
    elif type(event) not in _OF_A_VOTE:
        job.foldable = None if job.current is not None else 0
    elif job.foldable is not None and not (is_blocked and job.is_blocked_last):
        job.foldable += 1
    job.is_blocked_last = is_blocked


def replaced_by(event: e.Event) -> int:
    """How many entries at the end of its stream go when this fact is appended."""
    return event.replaces if isinstance(event, e.GangAbandoned | e.PlacementBlocked) else 0
