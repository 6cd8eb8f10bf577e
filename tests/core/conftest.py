"""The `cluster` fixture: a coordinator's machine whose every step is checked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.harness import Cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A new cluster; at the end nothing is impossible, and no session was closed unasked."""
    made = Cluster()
    yield made
    made.machine.check()
    assert made.closed == [], "sessions were closed that the test does not claim"
