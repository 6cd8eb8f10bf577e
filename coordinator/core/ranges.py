"""targetNodes: which nodes a range serves (aws-batch-spec section 4).

Ranges may nest, and an inner one replaces the outer one for its nodes. AWS does not say what it
does with ranges that cross or repeat; they are refused here, since no reading of them is safe.
No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from coordinator.core.errors import InvalidArgument
from coordinator.core.names import quote
from coordinator.core.node_set import NodeSet

MAX_NODES = 1000
MAX_GROUPS = 5

# Only ASCII digits: int() would also take signs, spaces, underscores and other scripts' digits.
_GRAMMAR = re.compile(r"(?P<lower>[0-9]{0,4}):(?P<upper>[0-9]{0,4})|(?P<only>[0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class TargetRange:
    """Nodes `lower` to `upper`, both in; `upper` None is open: to the last node of the job.

    May still be backwards or too long; `resolve` judges that, once it knows the number of nodes.
    Equality is by meaning: `parse` gives the same value for `0:` and `:`.
    """

    lower: int
    upper: int | None

    def __str__(self) -> str:
        return f"{self.lower}:{'' if self.upper is None else self.upper}"


def parse(text: str, where: str = "targetNodes") -> TargetRange:
    """Read `a:b`, `:b`, `a:`, `:` or a bare `a`. InvalidArgument for anything else; `where` is
    the member that the message names."""
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise InvalidArgument(
            f"{where} {quote(text)} is malformed; write first:last, first:, :last, : or one index, "
            f"with indices from 0 to {MAX_NODES - 1}"
        )
    lower = int(match["only"] or match["lower"] or 0)
    last = match["only"] or match["upper"]
    upper = int(last) if last else None
    if max(lower, upper or 0) >= MAX_NODES:
        raise InvalidArgument(f"{where} {quote(text)} goes beyond node {MAX_NODES - 1}")
    return TargetRange(lower, upper)


def resolve(ranges: Sequence[TargetRange], num_nodes: int) -> tuple[NodeSet, ...]:
    """For each range the nodes it serves; none if inner ranges shadow it completely.

    A node belongs to the smallest range around it; of equally small ones (`0:` and `0:3` of four
    nodes) to the later. Every node 0..num_nodes-1 is in exactly one of the results.
    """
    spans = _spans(ranges, num_nodes)
    owner: list[int | None] = [None] * num_nodes
    # Large before small, early before late: whoever paints last is the one that counts.
    for position in sorted(range(len(spans)), key=lambda k: (-len(spans[k]), k)):
        for node in spans[position]:
            owner[node] = position
    uncovered = [node for node, position in enumerate(owner) if position is None]
    if uncovered:
        raise InvalidArgument(
            f"targetNodes must account for all nodes 0 to {num_nodes - 1}; "
            f"no range has {NodeSet.of(uncovered)}"
        )
    return tuple(
        NodeSet.of(node for node in span if owner[node] == position)
        for position, span in enumerate(spans)
    )


def _spans(ranges: Sequence[TargetRange], num_nodes: int) -> list[range]:
    """The ranges with open ends closed, once they are fit to be resolved."""
    if not 1 <= num_nodes <= MAX_NODES:
        raise InvalidArgument(f"numNodes is {num_nodes}; it must be 1 to {MAX_NODES}")
    if not 1 <= len(ranges) <= MAX_GROUPS:
        raise InvalidArgument(
            f"nodeRangeProperties has {len(ranges)} node groups; it must have 1 to {MAX_GROUPS}"
        )
    spans = []
    for target in ranges:
        last = num_nodes - 1 if target.upper is None else target.upper
        if max(target.lower, last) >= num_nodes:
            raise InvalidArgument(
                f"targetNodes {target} goes beyond the last node, {num_nodes - 1} "
                f"(numNodes is {num_nodes})"
            )
        if target.lower > last:
            raise InvalidArgument(f"targetNodes {target} begins after it ends")
        spans.append(range(target.lower, last + 1))
    for (one, one_span), (other, other_span) in combinations(zip(ranges, spans, strict=True), 2):
        if one == other:
            raise InvalidArgument(f"targetNodes {one} is there twice")
        overlap = min(one_span.stop, other_span.stop) - max(one_span.start, other_span.start)
        if 0 < overlap < min(len(one_span), len(other_span)):
            raise InvalidArgument(
                f"targetNodes {one} and {other} overlap in part; "
                f"ranges must be apart or one inside the other"
            )
    return spans
