"""A set of node indices that costs the same for 2 and for 1000 nodes. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeSet(Collection[int]):
    """Ascending node indices, kept as runs that do not touch. Made by `of`; equal when the
    indices are."""

    runs: tuple[range, ...] = ()

    @classmethod
    def of(cls, nodes: Iterable[int]) -> NodeSet:
        """The set of ascending indices. ValueError when they are not."""
        return cls._joined(range(node, node + 1) for node in nodes)

    @classmethod
    def _joined(cls, runs: Iterable[range]) -> NodeSet:
        joined: list[range] = []
        for run in runs:
            last = joined[-1] if joined else range(0)
            if not run or run.start < last.stop:
                raise ValueError(f"node indices must ascend from 0: {run} follows {last}")
            if joined and run.start == last.stop:
                joined[-1] = range(last.start, run.stop)
            else:
                joined.append(run)
        return cls(tuple(joined))

    def __contains__(self, node: object) -> bool:
        return any(node in run for run in self.runs)

    def __iter__(self) -> Iterator[int]:
        for run in self.runs:
            yield from run

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    def __str__(self) -> str:
        """In the grammar of targetNodes: `3:5, 9`."""
        return ", ".join(
            f"{run.start}:{run.stop - 1}" if len(run) > 1 else str(run.start) for run in self.runs
        )

    def to_plain(self) -> list[object]:
        """For the journal: an index, or [first, last] of a run."""
        return [[run.start, run.stop - 1] if len(run) > 1 else run.start for run in self.runs]

    @classmethod
    def from_plain(cls, found: object) -> NodeSet:
        """What `to_plain` gave, or the list of all indices of older journals, which has the same
        grammar. ValueError for anything else."""
        if not isinstance(found, list):
            raise ValueError("not a list of indices and [first, last]")
        return cls._joined(map(_run, found))


def _run(found: object) -> range:
    first, last = found if isinstance(found, list) and len(found) == 2 else (found, found)
    if type(first) is not int or type(last) is not int:
        raise ValueError(f"neither an index nor [first, last]: {found!r:.80}")
    return range(first, last + 1)
