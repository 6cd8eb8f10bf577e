"""What is written on a node, read again."""

from __future__ import annotations

import pytest

from agent.core.marks import Marks

MARKS = Marks(cluster_id="c", host_id="h1", machine="m", lease_seconds=600, grace_seconds=0)


def test_they_are_read_as_they_were_written() -> None:
    assert Marks.read({"PATH": "/bin", **MARKS.labels}) == MARKS


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"muster.host": "h1", "muster.job": "of an older release"},
        {**MARKS.labels, "muster.lease-seconds": "-1"},
        {**MARKS.labels, "muster.grace-seconds": "soon"},
    ],
)
def test_what_was_not_written_here_is_none(labels: dict[str, str]) -> None:
    assert Marks.read(labels) is None
