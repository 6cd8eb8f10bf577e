"""Options of the simulator."""

from __future__ import annotations

import pytest

from tests.sim.knobs import SEEDS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--sim-seed", type=int, help="play this seed alone, and tell its story")
    group.addoption("--sim-seeds", type=int, default=SEEDS, help="how many seeds to play")
