"""GPUs as each engine is told of them, with stand-ins for what a driver brings."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent.host.gpus import gpus
from tests.contract.engine_bench import PODMAN, Bench, bench, bench_of, engines, host, shell
from tests.engines import own_docker_engine

__all__ = ["bench", "host"]

pytestmark = pytest.mark.limit(120)


@engines(PODMAN)
async def test_a_gpu_by_cdi(bench: Bench, tmp_path: Path) -> None:
    """A stand-in device, as the driver's tool would list it."""
    device = f"GPU-{os.getpid()}"
    key = bench.key()
    spec = bench.spec(key, shell("test -c /dev/stand-in && echo $VISIBLE"), gpu_ids=(device,))
    edits = {
        "deviceNodes": [{"path": "/dev/stand-in", "hostPath": "/dev/null"}],
        "env": ["VISIBLE=yes"],
    }
    listed = {
        "cdiVersion": "0.3.0",
        "kind": "nvidia.com/gpu",
        "devices": [{"name": device, "containerEdits": edits}],
    }
    directory = Path("/var/run/cdi")
    is_new = not directory.exists()
    directory.mkdir(exist_ok=True)
    file = directory / f"muster-test-{os.getpid()}.json"
    file.write_text(json.dumps(listed))
    try:
        assert device in gpus("podman")
        await bench.engine.start(key, spec)
        assert (await bench.ended(key)).exit_code == 0
        assert bench.output(key) == "yes\n"
    finally:
        file.unlink()
        if is_new:
            directory.rmdir()


@pytest.mark.real("docker")
async def test_a_gpu_by_the_drivers_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon looks for this program, and has it put the GPUs into a container. A stand-in tells
    nothing about a driver, but what the daemon asks of it is what the flags made it ask."""
    hook = tmp_path / "bin" / "nvidia-container-runtime-hook"
    hook.parent.mkdir()
    hook.write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/called\ncat >/dev/null\n')
    hook.chmod(0o755)
    monkeypatch.setenv("PATH", f"{hook.parent}:{os.environ['PATH']}")
    with own_docker_engine() as (real, _):
        bench = bench_of("docker", real, tmp_path)
        key = bench.key()
        command = shell("echo $NVIDIA_VISIBLE_DEVICES")
        await bench.engine.start(key, bench.spec(key, command, gpu_ids=("GPU-a", "GPU-b")))
        assert (await bench.ended(key)).exit_code == 0
        assert bench.output(key) == "GPU-a,GPU-b\n"
        assert (tmp_path / "called").read_text() == "prestart\n"
        await bench.engine.remove(key)
        await bench.engine.close()
