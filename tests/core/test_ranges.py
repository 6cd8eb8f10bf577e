"""targetNodes: the grammar, and which node belongs to which range."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from coordinator.core.errors import InvalidArgument
from coordinator.core.ranges import TargetRange, parse, resolve


@pytest.mark.parametrize(
    ("text", "lower", "upper"),
    [
        ("0:3", 0, 3),
        (":3", 0, 3),
        ("2:", 2, None),
        (":", 0, None),
        ("0:", 0, None),
        ("7", 7, 7),
        ("0", 0, 0),
        ("007:0010", 7, 10),
        ("999", 999, 999),
        (":999", 0, 999),
    ],
)
def test_the_grammar(text: str, lower: int, upper: int | None) -> None:
    assert parse(text) == TargetRange(lower, upper)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "a", "-1", "+1", "1-3", "0:-1", "0:1:2", "::", "0,1", "1_0", "1.0"),
        *("0: 3", " 0:3", "0:3\n", "٣", "0:٣", "²", "00000", "1000", "1000:", ":1000"),
        *(pytest.param("9" * 5000, id="huge"), pytest.param("0:" + "9" * 5000, id="huge end")),
    ],
)
def test_what_is_no_range_is_refused_with_its_path(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^nodes\[1\]\.targetNodes '") as refusal:
        parse(text, "nodes[1].targetNodes")
    assert len(str(refusal.value)) < 300


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.one_of(st.text(), st.text("0123456789:+- _\n٣", max_size=8)))
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    try:
        target = parse(text)
    except InvalidArgument:
        event("refused")
    else:
        event("read")
        assert parse(str(target)) == target


@pytest.mark.parametrize(
    ("texts", "num_nodes", "served"),
    [
        ("0:", 1, [[0]]),
        (":", 3, [[0, 1, 2]]),
        ("0:0 1:3", 4, [[0], [1, 2, 3]]),
        ("1:3 0", 4, [[1, 2, 3], [0]]),
        # Terraform registers this pair on AWS: the same open end, a later start.
        ("0: 1:", 4, [[0], [1, 2, 3]]),
        ("0:10 4:5", 11, [[0, 1, 2, 3, 6, 7, 8, 9, 10], [4, 5]]),
        ("4:5 0:10", 11, [[4, 5], [0, 1, 2, 3, 6, 7, 8, 9, 10]]),
        ("0:5 1:4 2:3", 6, [[0, 5], [1, 4], [2, 3]]),
        ("0: 0 1:", 3, [[], [0], [1, 2]]),
        # Equally small once the open end is closed: the later counts.
        ("0: 0:3", 4, [[], [0, 1, 2, 3]]),
        ("0:3 0:", 4, [[], [0, 1, 2, 3]]),
    ],
)
def test_a_node_belongs_to_the_smallest_range_around_it(
    texts: str, num_nodes: int, served: list[list[int]]
) -> None:
    resolved = resolve([parse(text) for text in texts.split()], num_nodes)
    assert [list(nodes) for nodes in resolved] == served


@pytest.mark.parametrize(
    ("texts", "num_nodes", "message"),
    [
        ("1:", 4, "all nodes 0 to 3; no range has 0$"),
        ("0:2 5 7:8", 11, "all nodes 0 to 10; no range has 3:4, 6, 9:10$"),
        ("0:4", 4, "0:4 goes beyond the last node, 3"),
        ("0: 4:", 4, "4: goes beyond the last node, 3"),
        ("0: 3:2", 4, "3:2 begins after it ends"),
        ("0:3 2:5", 6, "0:3 and 2:5 overlap in part"),
        ("2: 0:3", 6, "2: and 0:3 overlap in part"),
        ("0: 1 :", 4, "0: is there twice"),
        ("0: 1 1:1", 4, "1:1 is there twice"),
        ("", 4, "has 0 node groups; it must have 1 to 5"),
        ("0: 0 1 2 3 4", 9, "has 6 node groups; it must have 1 to 5"),
        ("0:", 0, "numNodes is 0; it must be 1 to 1000"),
        ("0:", -1, "numNodes is -1; it must be 1 to 1000"),
        ("0:", 1001, "numNodes is 1001; it must be 1 to 1000"),
        ("0:", 10**30, "it must be 1 to 1000"),
    ],
)
def test_ranges_that_cannot_be_resolved(texts: str, num_nodes: int, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        resolve([parse(text) for text in texts.split()], num_nodes)


def _naive(ranges: list[TargetRange], num_nodes: int) -> list[list[int]] | None:
    """The rules as sentences over sets of nodes; None where one of them is broken."""
    if not 1 <= num_nodes <= 1000 or not 1 <= len(ranges) <= 5:
        return None
    sets = []
    for target in ranges:
        last = num_nodes - 1 if target.upper is None else target.upper
        nodes = set(range(target.lower, last + 1))
        if not nodes or not nodes <= set(range(num_nodes)):
            return None
        sets.append(nodes)
    for i, one in enumerate(sets):
        for j, other in enumerate(sets[:i]):
            if ranges[i] == ranges[j] or (one & other and not (one <= other or other <= one)):
                return None
    served: list[list[int]] = [[] for _ in sets]
    for node in range(num_nodes):
        around = [k for k, nodes in enumerate(sets) if node in nodes]
        if not around:
            return None
        served[min(around, key=lambda k: (len(sets[k]), -k))].append(node)
    return served


def _agrees(ranges: list[TargetRange], num_nodes: int) -> bool:
    """Asserts it; True if the ranges are valid."""
    expected = _naive(ranges, num_nodes)
    try:
        resolved = [list(nodes) for nodes in resolve(ranges, num_nodes)]
    except InvalidArgument:
        resolved = None
    assert resolved == expected, (ranges, num_nodes)
    return expected is not None


@pytest.mark.parametrize("num_nodes", [0, 1, 2, 3])
def test_all_sets_of_small_ranges_agree_with_the_naive_rules(num_nodes: int) -> None:
    every = [TargetRange(a, b) for a in range(4) for b in (None, 0, 1, 2, 3)]
    outcomes = [
        _agrees(list(ranges), num_nodes)
        for count in range(4)
        for ranges in product(every, repeat=count)
    ]
    assert False in outcomes
    assert (True in outcomes) is (num_nodes > 0)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=4),
    st.integers(1, 10),
    st.integers(0, 4),
)
def test_ranges_under_a_whole_one_agree_with_the_naive_rules(
    inner: list[tuple[int, int, bool]], num_nodes: int, place: int
) -> None:
    """An outer `0:` and inner ranges within bounds: far more of these are valid."""
    ranges = []
    for a, b, is_open in inner:
        lower, upper = sorted((a % num_nodes, b % num_nodes))
        ranges.append(TargetRange(lower, None if is_open else upper))
    ranges.insert(place, TargetRange(0, None))
    event("resolved" if _agrees(ranges, num_nodes) else "refused")


def test_a_thousand_nodes_in_five_ranges() -> None:
    served = resolve([parse(text) for text in ("0:", "1:998", "2:997", "3:500", "0")], 1000)
    assert [len(nodes) for nodes in served] == [1, 2, 498, 498, 1]
    assert sorted(node for nodes in served for node in nodes) == list(range(1000))
