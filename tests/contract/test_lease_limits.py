"""What a lease cannot do: end a process in uninterruptible sleep before it wakes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.assignment import NodeKey
from agent.engine.port import EngineError
from tests.contract.engine_bench import PROCESS, Bench, bench, engines, host, pids_of, shell
from tests.wait import eventually

__all__ = ["bench", "host"]

pytestmark = [
    pytest.mark.limit(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can freeze a file system"),
]
DEADLINE_SECONDS = 30


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    image, mounted = tmp_path / "image", tmp_path / "disk"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(16 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop,noatime", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


@contextmanager
def frozen(disk: Path) -> Iterator[None]:
    """Who writes to it sleeps, as on a disk or a server that does not answer any more."""
    subprocess.run(["fsfreeze", "--freeze", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", disk], check=True)


def status(key: NodeKey) -> dict[str, str]:
    """What the kernel says of the node's only process."""
    (pid,) = pids_of(key)
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def sleeps(key: NodeKey) -> bool:
    return status(key)["State"].startswith("D")


def is_killed(key: NodeKey) -> bool:
    pending = int(status(key)["ShdPnd"], 16) | int(status(key)["SigPnd"], 16)
    return bool(pending >> (signal.SIGKILL - 1) & 1)


@engines(PROCESS)
async def test_a_node_in_uninterruptible_sleep_ends_when_it_wakes(
    bench: Bench, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host is not let go meanwhile, and it does nothing but what it slept in."""
    monkeypatch.setattr("agent.engine.process._DEATH_SECONDS", 0.5)
    monkeypatch.setattr("agent.host.survivors.DEATH_SECONDS", 0.5)
    writes = disk / "writes"
    key = await bench.held(shell(f"echo ready; while :; do echo x >>{writes}; done"), 0)
    await eventually(lambda: writes.exists(), DEADLINE_SECONDS, lambda: pids_of(key))
    with frozen(disk):
        await eventually(lambda: sleeps(key), DEADLINE_SECONDS, lambda: status(key))
        written = writes.stat().st_size
        bench.lease(key, 0, grace_seconds=0)
        await eventually(lambda: is_killed(key), DEADLINE_SECONDS, lambda: status(key))
        with pytest.raises(EngineError, match=r"still there .* after SIGKILL: .*state D"):
            await bench.engine.remove(key)
        assert sleeps(key)
    await eventually(lambda: not pids_of(key), DEADLINE_SECONDS, lambda: pids_of(key))
    assert writes.stat().st_size <= written + len("x\n")
    assert (await bench.ended(key)).lease_ended
