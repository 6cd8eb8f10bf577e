"""Two hosts whose agents share one engine, as those of a demo do: each leaves the other's be.

In one attempt both may have a node of the same name: when a vote is given up after the first host
has prepared the node, the second gets it with the number of the same attempt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.engine.port import EngineError
from tests.contract.engine_bench import CONTAINERS, Bench, bench, bench_of, host, pids_of
from tests.engines import RealEngine

__all__ = ["bench", "host"]

pytestmark = CONTAINERS


@pytest.fixture
async def other(
    bench: Bench, host: tuple[str, RealEngine | None], tmp_path: Path
) -> AsyncIterator[Bench]:
    """The bench of another host, over the same engine."""
    made = bench_of(*host, tmp_path / "other")
    yield made
    await made.engine.close()
    made.leases.close()


async def test_what_another_host_runs_is_not_removed(bench: Bench, other: Bench) -> None:
    key = await bench.held(bench.programs.run)
    await other.engine.remove(key)
    await other.engine.stop(key, 0)
    await other.engine.kill(key)
    assert pids_of(key)
    await bench.engine.stop(key, 5)
    assert (await bench.ended(key)).exit_code == 143


async def test_what_another_host_runs_is_not_taken_over(bench: Bench, other: Bench) -> None:
    key = await bench.held(bench.programs.run)
    other.lease(key, None)
    with pytest.raises(EngineError, match="CannotCreateContainerError"):
        await other.engine.start(key, other.leased(key, other.programs.run))
    await other.engine.remove(key)
    assert pids_of(key)
    await bench.engine.kill(key)
    assert (await bench.ended(key)).exit_code == 137
