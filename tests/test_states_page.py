"""docs/states.md is what the transition tables say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

MAKER = Path(__file__).resolve().parents[1] / "docs" / "make_states.py"


def test_page_is_made_from_the_tables() -> None:
    spec = importlib.util.spec_from_file_location("make_states", MAKER)
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.PAGE.read_text("utf-8") == maker.page(), "run: make docs"
