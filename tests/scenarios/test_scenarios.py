"""The recorded lives of jobs still happen as they are written down."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scenarios.script import play

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_story_is_as_recorded(path: Path, pytestconfig: pytest.Config) -> None:
    recorded = path.read_text()
    happens = play(recorded)
    if pytestconfig.getoption("--bless", False) or os.environ.get("MUSTER_BLESS") == "1":
        path.write_text(happens)
        return
    assert happens.splitlines() == recorded.splitlines(), f"if this is right, bless {path.name}"


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 12
