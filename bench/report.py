"""Rows of figures: floor, Muster, ratio; each the median of some runs with the extremes beside."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def heading(text: str) -> None:
    print(f"\n{text}", flush=True)


def spread(seconds: Sequence[float]) -> str:
    """`12.3 ms (11.0 to 15.2)`: median, min and max."""
    low, middle, high = (1000 * value for value in (min(seconds), median(seconds), max(seconds)))
    return f"{middle:8.1f} ms ({low:.1f} to {high:.1f})"


def row(what: str, floor: Sequence[float], muster: Sequence[float]) -> None:
    """One line: both spreads, and the ratio of the medians."""
    ratio = median(muster) / median(floor)
    print(
        f"  {what:<34} floor {spread(floor):<30} Muster {spread(muster):<32} {ratio:6.1f} x",
        flush=True,
    )


def fact(what: str, value: str, target: str = "") -> None:
    """One line with a figure that has no floor."""
    print(f"  {what:<34} {value}{f'  (target: {target})' if target else ''}", flush=True)
