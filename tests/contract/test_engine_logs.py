"""Output of real containers whose engine's log goes round, under an agent that is restarted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent import spool
from agent.core.assignment import Mount
from agent.engine import container
from tests.contract.engine_bench import CONTAINERS, LIMIT_BYTES, Bench, bench, host, shell

__all__ = ["bench", "host"]

COUNT = 20_000
SCRIPT = f"i=0; while [ $i -lt {COUNT} ]; do echo line $i; i=$((i+1)); done"


@CONTAINERS
@pytest.mark.limit(120)
async def test_every_line_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The log of an engine is then a fifth of what the container writes.
    monkeypatch.setattr(container, "LEAST_LOG_BYTES", 0)
    monkeypatch.setattr(bench.engine, "_spool_limit_bytes", 200_000)
    key = bench.key()
    wait = "while [ ! -e /go/go ]; do sleep 0.1; done"
    (tmp_path / "go").mkdir()
    mounts = (Mount(target="/go", source=str(tmp_path / "go")),)
    spec = bench.spec(key, shell(f"echo ready; {wait}; {SCRIPT}"), mounts=mounts)
    await bench.engine.start(key, spec)
    monkeypatch.setattr(bench.engine, "_spool_limit_bytes", LIMIT_BYTES)
    await bench.ready(key)
    (tmp_path / "go" / "go").touch()
    for _ in range(3):
        await bench.restart_agent()
        end = asyncio.ensure_future(bench.ended(key))
        await asyncio.wait([end], timeout=0.2)
        end.cancel()
        await asyncio.wait([end])
    await bench.ended(key)
    _, output = spool.read(bench.spool_dir / key.name, 0, LIMIT_BYTES)
    lines = [line for line in output.decode().splitlines() if line.startswith("line ")]
    numbers = [int(line.split()[1]) for line in lines]
    assert len(numbers) == len(set(numbers)), "a line is there twice"
    assert numbers == sorted(numbers)
    if b"muster: output may be missing here" not in output:
        assert numbers == list(range(COUNT))
