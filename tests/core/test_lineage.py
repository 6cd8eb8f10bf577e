"""What a token says, who can make one, and when it proves that there is a newer journal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import events as e
from coordinator.core import lineage
from coordinator.core.evolve import evolve
from coordinator.core.ids import HostId
from coordinator.core.lineage import TOKEN_BYTES_MAX, Seen
from coordinator.core.state import ClusterState

KEY = "c0ffee"
lives = st.text("0123456789abcdef", min_size=1, max_size=64)
positions = st.integers(0, 10**18 - 1)


@given(key=st.text("0123456789abcdef", min_size=1), life_id=lives, position=positions)
def test_a_token_says_what_it_was_made_of(key: str, life_id: str, position: int) -> None:
    seen = Seen(life_id=life_id, position=position)
    made = lineage.token(key, seen)
    assert lineage.read(key, made) == seen
    assert len(made) <= TOKEN_BYTES_MAX
    assert all(33 <= byte <= 126 for byte in made)
    assert lineage.read(key + "0", made) is None
    assert lineage.read("", made) is None


@given(st.binary(max_size=200))
def test_nobody_invents_a_token(said: bytes) -> None:
    assert lineage.read(KEY, said) is None


def test_a_token_cannot_be_changed() -> None:
    made = lineage.token(KEY, Seen(life_id="aa", position=12))
    assert lineage.read(KEY, made.replace(b":12:", b":13:")) is None
    assert lineage.read(KEY, made.replace(b"aa:", b"ab:")) is None
    assert lineage.read(KEY, made[:-1]) is None
    assert lineage.read(KEY, made + b"\n") is None


def started(*starts: e.CoordinatorStarted, position: int) -> ClusterState:
    state = ClusterState(position=position)
    for each in starts:
        evolve(state, each, 0)
    return state


STATE = started(
    e.CoordinatorStarted(epoch=1),
    e.CoordinatorStarted(epoch=2, life_id="aa", position=10),
    e.CoordinatorStarted(epoch=3, life_id="bb", position=20),
    position=35,
)


@pytest.mark.parametrize(
    ("life_id", "position", "is_beyond"),
    [
        ("aa", 10, False),
        ("aa", 20, False),
        ("aa", 21, True),
        ("bb", 35, False),
        ("bb", 36, True),
        ("cc", 1, True),
    ],
)
def test_a_life_ends_where_the_next_begins(life_id: str, position: int, is_beyond: bool) -> None:
    assert lineage.is_beyond(STATE, Seen(life_id=life_id, position=position)) is is_beyond


def test_what_an_operator_has_given_up_proves_nothing() -> None:
    state = started(e.CoordinatorStarted(epoch=1, life_id="aa", position=0), position=5)
    accepted = e.OlderJournalAccepted(life_id="cc", host_id=HostId("h1"), position=9)
    evolve(state, accepted, 0)
    assert not lineage.is_beyond(state, Seen(life_id="cc", position=900))
    assert lineage.is_beyond(state, Seen(life_id="dd", position=1))


def test_starts_of_an_older_release_end_a_life_late_rather_than_early() -> None:
    old = e.CoordinatorStarted(epoch=2)
    first = e.CoordinatorStarted(epoch=1, life_id="aa", position=3)
    state = started(first, old, position=8)
    assert (state.life_id, state.lives) == ("", {"aa": None})
    assert not lineage.is_beyond(state, Seen(life_id="aa", position=8))
    state = started(first, old, e.CoordinatorStarted(epoch=3, life_id="bb", position=9), position=9)
    assert state.lives == {"aa": 9, "bb": None}


def test_the_key_is_in_no_text() -> None:
    made = e.ClusterKeyMade(key=KEY)
    state = ClusterState()
    evolve(state, made, 0)
    assert state.cluster_key == KEY
    assert KEY not in f"{made} {made!r} {state} {state!r}"
