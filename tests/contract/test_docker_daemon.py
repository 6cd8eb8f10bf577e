"""A docker daemon that is stopped, killed and started again under a running container."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import spool
from agent.core.assignment import NodeKey
from tests.contract.engine_bench import LIMIT_BYTES, Bench, bench_of, shell
from tests.engines import own_docker_engine
from tests.wait import eventually

pytestmark = [pytest.mark.real("docker"), pytest.mark.limit(120)]
COUNTING = "trap 'exit 0' TERM; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done"


def numbers(bench: Bench, key: NodeKey) -> list[int]:
    _, output = spool.read(bench.spool_dir / key.name, 0, LIMIT_BYTES)
    return [int(line.split()[1]) for line in output.decode().splitlines()]


async def more(bench: Bench, key: NodeKey) -> None:
    """Return when twenty more lines have come."""
    enough = len(numbers(bench, key)) + 20

    async def reached() -> bool:
        return len(numbers(bench, key)) >= enough

    await eventually(reached, 30, lambda: f"{numbers(bench, key)[-3:]}")


async def test_a_restart_loses_and_repeats_no_line(tmp_path: Path) -> None:
    """Containers go on with `--live-restore`, and the daemon takes up their output again."""
    with own_docker_engine("--live-restore") as (real, daemon):
        bench = bench_of("docker", real, tmp_path)
        key = await bench.started(shell(COUNTING))
        ends: tuple[Callable[[], None], ...] = (daemon.stop, daemon.kill)
        for end in ends:
            await more(bench, key)
            await asyncio.to_thread(end)
            await asyncio.to_thread(daemon.start)
        await more(bench, key)
        await bench.engine.stop(key, 10)
        assert (await bench.ended(key)).exit_code == 0
        seen = numbers(bench, key)
        assert seen == list(range(len(seen)))
        await bench.engine.remove(key)
        await bench.engine.close()
