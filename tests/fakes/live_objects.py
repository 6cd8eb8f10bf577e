"""What no reader may keep: the objects that the machine goes on changing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from coordinator.core.state import (
    Attempt,
    ClusterState,
    Host,
    Job,
    NodeRun,
    Presence,
    Queue,
    Revision,
)

LIVE = (Attempt, ClusterState, Host, Job, NodeRun, Presence, Queue, Revision)


def refuse_live(state: ClusterState, value: object) -> None:
    """Fail when an answer of `Cluster.read` holds what the next step may change, or could look at
    it later. A job that has left memory changes no more, and may be handed out."""
    live = {id(each): each for each in _live(state)}
    for part in _parts(value):
        found = live.get(id(part))
        assert found is None, f"a reader was handed a live {type(found).__name__}: {found!r:.300}"
        assert not isinstance(part, Iterator), f"a reader was handed what looks later: {part!r}"


def _live(state: ClusterState) -> Iterator[object]:
    """Every object that `evolve` changes in place."""
    for part in _parts(state):
        if isinstance(part, LIVE):
            yield part
            members = (getattr(part, member.name) for member in dataclasses.fields(part))
            yield from (member for member in members if isinstance(member, dict | list))


def _parts(value: object) -> Iterator[object]:
    """The value and all that it holds, as far as it is made of data."""
    yield value
    if isinstance(value, dict):
        for pair in value.items():
            yield from _parts(pair)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _parts(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for member in dataclasses.fields(value):
            yield from _parts(getattr(value, member.name))
