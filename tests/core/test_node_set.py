"""A set of nodes behaves as the tuple of its indices, and does not grow with them."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.node_set import NodeSet
from coordinator.core.submission import resolve
from tests.core.shapes import SUBMISSION, multinode

indices = st.sets(st.integers(0, 12)).map(sorted)


@given(indices, indices)
def test_it_is_the_tuple_of_its_indices(nodes: list[int], others: list[int]) -> None:
    made = NodeSet.of(nodes)
    assert list(made) == nodes
    assert (len(made), bool(made)) == (len(nodes), bool(nodes))
    assert [node for node in range(-1, 14) if node in made] == nodes
    assert (made == NodeSet.of(others)) == (nodes == others)
    assert NodeSet.from_plain(made.to_plain()) == NodeSet.from_plain(nodes) == made


@pytest.mark.parametrize("wrong", [[1, 0], [1, 1], [-1]])
def test_indices_must_ascend(wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="node indices must ascend from 0"):
        NodeSet.of(wrong)


def test_a_thousand_nodes_cost_what_two_do() -> None:
    def size_bytes(num_nodes: int) -> int:
        definition = multinode("0:", num_nodes=num_nodes)
        resolve(SUBMISSION, definition, 0)
        tracemalloc.start()
        try:
            spec = resolve(SUBMISSION, definition, 0)
            assert len(spec.groups[0].nodes) == num_nodes
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert size_bytes(1000) < size_bytes(2) + 200
