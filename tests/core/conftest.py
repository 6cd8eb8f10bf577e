"""`cluster` and `bench`: the coordinator's machine and the agent's, each alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.agent_bench import Bench
from tests.core.harness import Cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A new cluster; at the end its journal tells all of it, and no session was closed unasked."""
    made = Cluster()
    yield made
    made.machine.check()
    made.replayed()
    assert made.closed == [], "sessions were closed and no hello explains it"


@pytest.fixture
def bench() -> Bench:
    """An agent that has begun with nothing and is connected."""
    made = Bench()
    made.begin()
    made.connect()
    return made
