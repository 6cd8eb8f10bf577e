"""docs/containers.md names a test for each property, and each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_each_row_names_tests_that_are_there() -> None:
    page = (ROOT / "docs" / "containers.md").read_text("utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)\(", sources))
    for cells in rows:
        if set(cells[0].strip()) <= {"-"}:
            continue
        assert len(cells) == 4, cells
        named = re.findall(r"`(test_\w+)`", cells[3])
        assert named, f"no test for {cells[0]}"
        assert set(named) <= there, set(named) - there
