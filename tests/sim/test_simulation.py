"""Thousands of seeds, each a cluster's life with its own mixture of faults.

`pytest tests/sim --sim-seed=N` plays one seed again and tells its story.
"""

from __future__ import annotations

import pytest

from tests.sim.knobs import SEEDS
from tests.sim.world import World

SEEDS_A_TEST = 25


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" not in metafunc.fixturenames:
        return
    one = metafunc.config.getoption("--sim-seed", None)
    count = metafunc.config.getoption("--sim-seeds", SEEDS)
    chunks = [
        range(first, min(first + SEEDS_A_TEST, count)) for first in range(0, count, SEEDS_A_TEST)
    ]
    if one is not None:
        chunks = [range(one, one + 1)]
    metafunc.parametrize("seeds", chunks, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")


def test_promises_hold(seeds: range, pytestconfig: pytest.Config) -> None:
    tell = print if pytestconfig.getoption("--sim-seed", None) is not None else None
    for seed in seeds:
        World(seed, tell=tell).run()
