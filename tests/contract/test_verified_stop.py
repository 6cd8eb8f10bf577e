"""After a stop nothing of a node is left; where that cannot be proven it is said, with evidence."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.engine.container import ContainerEngine
from agent.engine.parse import ORPHAN, STARTED_AGAIN
from agent.engine.port import EngineError, ErrorClass
from agent.host import ports as host_ports
from tests.contract.engine_bench import (
    CONTAINERS,
    PODMAN,
    REAL,
    Bench,
    Programs,
    bench,
    bench_of,
    engines,
    host,
    pids_of,
    shell,
)
from tests.engines import DockerDaemon, RealEngine, own_docker_engine

__all__ = ["bench", "host"]

pytestmark = pytest.mark.limit(120)

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


@REAL
async def test_a_tree_that_ignores_everything(bench: Bench) -> None:
    key = await bench.started(shell(TREE))
    await bench.ready(key)
    await bench.engine.stop(key, 1)
    assert (await bench.ended(key)).exit_code == 137
    await bench.engine.remove(key)
    assert pids_of(key) == []


@CONTAINERS
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


@REAL
async def test_frozen_processes(bench: Bench) -> None:
    key = await bench.started(shell("echo ready; sleep 1000 & sleep 1000"))
    await bench.ready(key)
    for pid in pids_of(key):
        os.kill(pid, signal.SIGSTOP)
    await bench.engine.stop(key, 1)
    await bench.engine.remove(key)
    assert pids_of(key) == []


@CONTAINERS
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


@CONTAINERS
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
    ports = host_ports.listened_on_by([holder.pid])
    assert [each.number for each in ports] == [port]
    assert isinstance(bench.engine, ContainerEngine)
    key = await bench.started(bench.programs.run)
    await bench.ready(key)
    bench.engine._survivors._ports[key] = ports
    evidence = rf"tcp port {port} is still listened on by pid {holder.pid} \(python.*state S\)"
    with pytest.raises(EngineError, match=evidence):
        await bench.engine.remove(key)
    await holder.communicate(b"\n")
    # Somebody else's socket on the same port is nobody's evidence.
    with socket.create_server(("127.0.0.1", port)):
        await bench.engine.remove(key)


@CONTAINERS
async def test_ports_of_a_node_are_seen(bench: Bench) -> None:
    assert isinstance(bench.engine, ContainerEngine)
    key = await bench.started(shell("nc -l -p 42424 & echo ready; sleep 1000"))
    await bench.ready(key)
    await bench.engine.stop(key, 0)
    seen = {
        (port.protocol.rstrip("6"), port.number) for port in bench.engine._survivors._ports[key]
    }
    assert ("tcp", 42424) in seen
    await bench.engine.remove(key)
    assert key not in bench.engine._survivors._ports


@CONTAINERS
async def test_who_has_another_environment_is_ended_without_the_engine(
    bench: Bench, tmp_path: Path
) -> None:
    """`env -i` takes a node's variables from it; its container is known all the same."""
    engine = Hanging(bench, tmp_path)
    key = await bench.started(
        ("env", "-i", "/bin/sh", "-c", "trap '' TERM; echo ready; sleep 1000")
    )
    await bench.ready(key)
    first = await bench.pid(key)
    engine.hang()
    with pytest.raises(EngineError, match=r"did not end within .*; its one process was killed"):
        await bench.engine.stop(key, 0)
    assert not Path(f"/proc/{first}").exists()
    engine.answer()
    assert (await bench.ended(key)).exit_code == 137
    await bench.engine.remove(key)


@CONTAINERS
async def test_a_paused_container_ends(bench: Bench) -> None:
    key = await bench.started(bench.programs.ignore_term)
    await bench.ready(key)
    await bench.cli("pause", key.name)
    await bench.engine.stop(key, 0)
    assert (await bench.ended(key)).exit_code == 137
    await bench.engine.remove(key)


@CONTAINERS
async def test_a_paused_container_ends_without_the_engine(bench: Bench, tmp_path: Path) -> None:
    engine = Hanging(bench, tmp_path)
    key = await bench.started(bench.programs.ignore_term)
    await bench.ready(key)
    await bench.cli("pause", key.name)
    engine.hang()
    with pytest.raises(EngineError, match="its one process was killed directly"):
        await bench.engine.stop(key, 0)
    assert pids_of(key) == []
    engine.answer()
    assert (await bench.ended(key)).exit_code == 137
    await bench.engine.remove(key)


@CONTAINERS
async def test_what_an_ended_container_left_dies_while_the_engine_hangs(
    bench: Bench, tmp_path: Path
) -> None:
    """It left its container's process namespace and group, as what the job had started outside."""
    engine = Hanging(bench, tmp_path)
    key = await bench.started(bench.programs.once)
    await bench.ended(key)
    outside = await asyncio.create_subprocess_exec(
        "sleep", "1000", env={**os.environ, **dict(bench.spec(key, ()).environment)}
    )
    engine.hang()
    with pytest.raises(EngineError, match=r"did not end within .*; its one process was killed"):
        await bench.engine.remove(key)
    assert await outside.wait() == -signal.SIGKILL
    engine.answer()
    await bench.engine.remove(key)


@CONTAINERS
async def test_a_container_that_was_started_again_past_its_agent(bench: Bench) -> None:
    """As by `podman restart --all`. Main has run twice in its attempt by then."""
    key = await bench.started(bench.programs.ignore_term)
    await bench.ready(key)
    waiting = asyncio.ensure_future(bench.ended(key))
    await bench.cli("restart", "--time=0", key.name)
    end = await waiting
    # The engine may have been asked between the end and the second start.
    assert (end.exit_code, end.reason) in ((None, STARTED_AGAIN), (137, ""))
    await bench.engine.remove(key)
    assert not pids_of(key)


@CONTAINERS
@pytest.mark.parametrize("still_runs", [True, False])
async def test_a_container_that_was_started_again_while_its_agent_was_away(
    bench: Bench, still_runs: bool
) -> None:
    """How its second run ended is no result of the node."""
    program = shell("echo ready; trap 'exit 0' TERM; sleep 1000 & wait")
    key = bench.key()
    began = (await bench.engine.start(key, bench.spec(key, program))).started_at_ms
    await bench.ready(key)
    await bench.restart_agent()
    await bench.cli("restart", "--time=0", key.name)
    if not still_runs:
        await bench.cli("stop", key.name)
    async with asyncio.timeout(60):
        end = await bench.engine.wait(key, began)
    assert (end.exit_code, end.reason) == (None, STARTED_AGAIN)
    await bench.engine.remove(key)
    assert not pids_of(key)


@engines(PODMAN)
@pytest.mark.parametrize("is_stopped", [True, False])
async def test_a_killed_supervisor(bench: Bench, is_stopped: bool) -> None:
    """To podman a container without conmon runs for ever; it is seen to end all the same."""
    key = await bench.started(shell("echo ready; sleep 1000"))
    await bench.ready(key)
    inspected = json.loads(await bench.inspected(key))[0]["State"]
    os.kill(inspected["ConmonPid"], signal.SIGKILL)
    waiting = asyncio.create_task(bench.ended(key))
    if is_stopped:
        await bench.engine.stop(key, 1)
    else:
        os.kill(inspected["Pid"], signal.SIGKILL)
    end = await waiting
    assert (end.exit_code, end.reason) == (None, ORPHAN)
    assert (await bench.ended(key)).exit_code is None
    if not is_stopped:
        with pytest.raises(EngineError, match=r"is stopping, pid \d+\); nothing of it runs"):
            await bench.engine.remove(key)
    await bench.engine.remove(key)
    assert pids_of(key) == []


@pytest.fixture
def own_docker() -> Iterator[tuple[RealEngine, DockerDaemon]]:
    with own_docker_engine() as engine:
        yield engine


@pytest.mark.real("docker")
@pytest.mark.parametrize(
    ("command", "became"),
    [
        # Its daemon is away, and it still gets to end by itself.
        (Programs().run, "nothing of it runs"),
        (Programs().ignore_term, "its one process was killed directly"),
    ],
)
async def test_an_engine_that_was_killed(
    command: tuple[str, ...],
    became: str,
    tmp_path: Path,
    own_docker: tuple[RealEngine, DockerDaemon],
) -> None:
    real, daemon = own_docker
    bench = bench_of("docker", real, tmp_path)
    key = await bench.started(command)
    await bench.ready(key)
    await asyncio.to_thread(daemon.kill)
    with pytest.raises(EngineError, match=f"docker daemon.*; {became}") as at:
        await bench.engine.stop(key, 2)
    assert at.value.error_class is ErrorClass.ENGINE_GONE
    assert pids_of(key) == []
    with pytest.raises(EngineError, match=r"docker daemon.*; nothing of it runs"):
        await bench.engine.remove(key)
    await asyncio.to_thread(daemon.start)
    await bench.engine.remove(key)
    assert await bench.engine.list_managed() == []
    await bench.engine.close()
