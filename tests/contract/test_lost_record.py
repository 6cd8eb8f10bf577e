"""A podman whose runtime directory was cleaned, as at a logout, while a container ran.

To podman the machine has rebooted: the container is one that may be started. It runs all the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.engine.parse import LOST
from agent.engine.port import EngineError
from tests.contract.engine_bench import Bench, bench_of, pids_of, shell
from tests.engines import PODMAN, RealEngine, image_in, unmount_below

pytestmark = [pytest.mark.real("podman"), pytest.mark.limit(120)]


@dataclass
class Forgetful:
    """A podman with directories of its own."""

    bench: Bench
    runtime: Path

    def forget(self) -> None:
        """Clean its runtime directory. The container is left as it is."""
        unmount_below(self.runtime)
        shutil.rmtree(self.runtime)
        self.runtime.mkdir()


@pytest.fixture
async def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Forgetful]:
    # Podman refuses a path of more than 50 characters.
    runtime = Path(tempfile.mkdtemp(prefix="muster-run-"))
    # Locks in files: what podman takes for a reboot would give free those of the whole machine.
    configuration = tmp_path / "containers.conf"
    configuration.write_text('[engine]\nlock_type = "file"\n')
    monkeypatch.setenv("CONTAINERS_CONF", str(configuration))
    own = (
        *(f"--root={tmp_path}/root", f"--runroot={runtime}/storage"),
        f"--tmpdir={runtime}/libpod",
    )
    real = RealEngine("podman", (*PODMAN.engine_args, *own), PODMAN.run_args)
    with image_in(real):
        bench = bench_of("podman", real, tmp_path)
        yield Forgetful(bench, runtime)
        for key in bench.keys:
            await bench.engine.remove(key)
        assert await bench.engine.list_managed() == []
        await bench.engine.close()
        assert [pid for key in bench.keys for pid in pids_of(key)] == []
    unmount_below(tmp_path)
    unmount_below(runtime)
    shutil.rmtree(runtime)


async def test_what_podman_forgot_is_stopped_and_its_end_is_told(podman: Forgetful) -> None:
    bench = podman.bench
    key = await bench.started(bench.programs.run)
    await bench.ready(key)
    waiting = asyncio.create_task(bench.ended(key))
    podman.forget()
    assert len(pids_of(key)) > 0
    await bench.engine.stop(key, 10)
    assert pids_of(key) == []
    end = await waiting
    assert (end.exit_code, end.reason) == (None, LOST)


async def test_what_ignores_the_stop_is_killed(podman: Forgetful) -> None:
    bench = podman.bench
    key = await bench.started(bench.programs.ignore_term)
    await bench.ready(key)
    podman.forget()
    await bench.engine.stop(key, 0)
    assert pids_of(key) == []
    assert (await bench.ended(key)).reason == LOST


async def test_what_podman_forgot_ends_by_itself(podman: Forgetful) -> None:
    """Nobody can tell with which code, so it is not told as one that ended well."""
    bench = podman.bench
    key = await bench.started(shell("echo ready; nc -l -p 42425; exit 3"))
    await bench.ready(key)
    podman.forget()
    await bench.restart_agent()
    [managed] = await bench.engine.list_managed()
    assert managed.started is not None
    assert managed.running
    waiting = asyncio.create_task(bench.ended(key))
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done, "it still runs"
    for pid in pids_of(key):
        os.kill(pid, 15)
    end = await waiting
    assert (end.exit_code, end.reason) == (None, LOST)


@pytest.mark.parametrize("is_known", [True, False])
async def test_what_podman_forgot_is_not_started_a_second_time(
    podman: Forgetful, is_known: bool
) -> None:
    """Nor where podman has lost its data too."""
    bench = podman.bench
    key = await bench.started(bench.programs.run)
    await bench.ready(key)
    before = sorted(pids_of(key))
    podman.forget()
    await bench.restart_agent()
    if is_known:
        await bench.engine.start(key, bench.spec(key, bench.programs.run))
    else:
        engine = bench.engine
        extra = tuple(
            f"--root={podman.runtime}/other" if word.startswith("--root=") else word
            for word in engine._cli._engine_args  # type: ignore[attr-defined]
        )
        engine._cli._engine_args = extra  # type: ignore[attr-defined]
        with pytest.raises(EngineError, match="no record of a container that runs") as at:
            await engine.start(key, bench.spec(key, bench.programs.run))
        assert at.value.may_have_run
        await bench.restart_agent()
    assert sorted(pids_of(key)) == before
    await bench.engine.stop(key, 0)
    assert pids_of(key) == []


async def test_what_podman_forgot_is_removed_by_an_agent_that_never_saw_it(
    podman: Forgetful,
) -> None:
    bench = podman.bench
    key = await bench.started(
        ("env", "-i", "/bin/sh", "-c", "trap '' TERM; echo ready; sleep 1000")
    )
    await bench.ready(key)
    pid = json.loads(await bench.inspected(key))[0]["State"]["Pid"]
    podman.forget()
    await bench.restart_agent()
    await bench.engine.remove(key)
    assert not Path(f"/proc/{pid}").exists()
