"""A rule taken away, and the seeds that should notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from coordinator.core.errors import InvariantViolation
from coordinator.shell import UnreadableEntry
from tests.sim.knobs import Knobs
from tests.sim.world import BrokenPromise, World

Patch = pytest.MonkeyPatch
Focus = dict[str, Any]
"""Knobs that make the trouble frequent which the rule is for."""
Mutation = Callable[[Patch], None]
SEEDS = range(300)
FILES_REST: Focus = dict.fromkeys(("directory_every_ms", "clone_every_ms", "second_agent_every_ms"))
"""Unless a focus asks for them: they are in the way of what other rules are for."""


def first_to_notice(focus: Focus) -> tuple[int, str]:
    """The first seed that breaks a promise, and how; fails the test when there is none."""
    for seed in SEEDS:
        knobs = replace(Knobs.draw(Random(seed)), **{**FILES_REST, **focus})
        try:
            World(seed, knobs=knobs).run()
        except BrokenPromise as broken:
            # A journal that cannot be replayed does not give the live state again.
            noticed = AssertionError | InvariantViolation | UnreadableEntry
            if not isinstance(broken.__cause__, noticed):
                raise  # the mutation does not fit the code any more, and proves nothing
            return seed, str(broken).partition("\n")[0]
    pytest.fail(f"{len(SEEDS)} seeds notice nothing")
