"""After a stop nothing of a node is left; where that cannot be proven it is said, with evidence."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent.engine.container import ContainerEngine
from agent.engine.port import EngineError
from agent.host import survivors
from tests.contract.engine_bench import CONTAINERS, Bench, bench, host, pids_of, shell
from tests.e2e.cluster import free_port
from tests.wait import eventually

__all__ = ["bench", "host"]

pytestmark = [CONTAINERS, pytest.mark.limit(120)]

# Children that leave the session, ignore every polite signal and replace one another.
TREE = (
    "trap '' TERM HUP INT; echo ready; i=0; while [ $i -lt 20 ]; do "
    "setsid sh -c \"trap '' TERM HUP INT; while :; do sleep 1; done\" & i=$((i+1)); done; wait"
)


class Hanging:
    """The engine's command, which stops answering when a test says so."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        assert bench.real is not None
        self.file = directory / "hangs"
        self.binary = directory / "engine"
        self.binary.write_text(
            f"#!/bin/sh\nif [ -e {self.file} ]; then exec sleep 1000; fi\n"
            f'exec {bench.real.binary} "$@"\n'
        )
        self.binary.chmod(0o755)
        assert isinstance(bench.engine, ContainerEngine)
        bench.engine._cli.binary = str(self.binary)
        bench.engine._cli.call_seconds = 1

    def hang(self) -> None:
        self.file.touch()

    def answer(self) -> None:
        self.file.unlink()


async def test_a_tree_that_ignores_everything(bench: Bench) -> None:
    key = await bench.started(shell(TREE))
    await bench.ready(key)
    await bench.engine.stop(key, 1)
    assert (await bench.ended(key)).exit_code == 137
    await bench.engine.remove(key)
    assert pids_of(key) == []


async def test_a_tree_in_the_hosts_process_namespace(bench: Bench) -> None:
    """Where the end of the first process ends nobody else."""
    assert isinstance(bench.engine, ContainerEngine)
    extra = (*bench.engine._site.extra, "--pid=host")
    bench.engine._site = replace(bench.engine._site, extra=extra)
    key = await bench.started(shell(TREE))
    await bench.ready(key)
    await bench.engine.stop(key, 1)
    await bench.engine.remove(key)
    assert pids_of(key) == []


async def test_frozen_processes(bench: Bench) -> None:
    key = await bench.started(shell("echo ready; sleep 1000 & sleep 1000"))
    await bench.ready(key)
    for pid in pids_of(key):
        os.kill(pid, signal.SIGSTOP)
    await bench.engine.stop(key, 1)
    await bench.engine.remove(key)
    assert pids_of(key) == []


async def test_an_engine_that_hangs_does_not_keep_a_job_alive(bench: Bench, tmp_path: Path) -> None:
    engine = Hanging(bench, tmp_path)
    key = await bench.started(shell(TREE))
    await bench.ready(key)
    engine.hang()
    with pytest.raises(EngineError, match=r"did not end within .*killed directly") as at:
        await bench.engine.stop(key, 0)
    assert pids_of(key) == [], at.value.reason
    with pytest.raises(EngineError, match="did not end within"):
        await bench.engine.remove(key)
    engine.answer()
    await bench.engine.remove(key)
    assert await bench.engine.list_managed() == []


async def test_a_port_that_somebody_still_holds_is_named(bench: Bench) -> None:
    """A socket that was handed to a process outside: nothing else knows that it was the job's."""
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c",
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); input()",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    port = int(await holder.stdout.readline())
    ports = survivors.ports_of([holder.pid])
    assert [each.port for each in ports] == [port]
    assert isinstance(bench.engine, ContainerEngine)
    key = await bench.started(bench.programs.run)
    await bench.ready(key)
    bench.engine._ports[key] = ports
    evidence = rf"tcp port {port} is still listened on by {holder.pid} \(python.*state S\)"
    with pytest.raises(EngineError, match=evidence):
        await bench.engine.remove(key)
    await holder.communicate(b"\n")
    # Somebody else's socket on the same port is nobody's evidence.
    with socket.create_server(("127.0.0.1", port)):
        await bench.engine.remove(key)


async def test_ports_of_a_node_are_seen(bench: Bench) -> None:
    assert isinstance(bench.engine, ContainerEngine)
    wanted = free_port()
    key = await bench.started(shell(f"nc -l -p {wanted} & echo ready; sleep 1000"))
    await bench.ready(key)

    async def listens() -> bool:
        return bool(survivors.ports_of(pids_of(key)))

    await eventually(listens, 20, lambda: f"nobody listens: {pids_of(key)}")
    await bench.engine.stop(key, 0)
    seen = {(port.protocol.rstrip("6"), port.port) for port in bench.engine._ports[key]}
    assert ("tcp", wanted) in seen
    await bench.engine.remove(key)
    assert key not in bench.engine._ports


@pytest.mark.real("podman")
async def test_a_killed_supervisor(bench: Bench) -> None:
    """Podman's conmon; docker's has its daemon."""
    assert bench.real is not None
    if bench.real.binary != "podman":
        return
    key = await bench.started(shell("echo ready; sleep 1000"))
    await bench.ready(key)
    found = await bench.inspected(key)
    supervisor = int(found.partition('"ConmonPid": ')[2].partition(",")[0])
    os.kill(supervisor, signal.SIGKILL)
    await bench.engine.stop(key, 1)
    await bench.engine.remove(key)
    assert pids_of(key) == []
