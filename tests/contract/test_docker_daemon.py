"""A docker daemon that is stopped and started again under running containers."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import spool
from agent.core.assignment import ContainerSpec, NodeKey
from agent.engine.argv import Site
from agent.engine.docker import DockerEngine
from agent.engine.port import EngineError
from tests.contract.engine_bench import LIMIT_BYTES, pids_of
from tests.engines import IMAGE, ULIMIT_ARGS, RealEngine, _await_ready, _unmount_below, import_image
from tests.wait import eventually

pytestmark = [pytest.mark.real("docker"), pytest.mark.limit(120)]
COUNTING = "trap 'exit 0' TERM; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done"


class Dockerd:
    """A daemon of our own that leaves containers alone when it ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"unix://{directory}/sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self.directory / "notify"
        path.unlink(missing_ok=True)
        # Of a containerd that died with a killed daemon; the number may be anybody's by now.
        (self.directory / "exec/containerd/containerd.pid").unlink(missing_ok=True)
        notify.bind(str(path))
        log = self.directory / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *("dockerd", "--live-restore", "--host", self.address, "--bridge=none"),
                    *("--iptables=false", "--ip6tables=false"),
                    *("--data-root", str(self.directory / "data")),
                    *("--exec-root", str(self.directory / "exec")),
                    *("--pidfile", str(self.directory / "pid")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"NOTIFY_SOCKET": str(path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                start_new_session=True,
            )
        try:
            _await_ready(self.process, notify, log)
        finally:
            notify.close()

    def stop(self, number: int = signal.SIGTERM) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(60)


@pytest.fixture
def dockerd() -> Iterator[Dockerd]:
    directory = Path(tempfile.mkdtemp(prefix="muster-dockerd-"))
    daemon = Dockerd(directory)
    daemon.start()
    import_image(RealEngine("docker", ("--host", daemon.address), ()), IMAGE, [])
    yield daemon
    if daemon.process is None:
        daemon.start()
    daemon.stop()
    _unmount_below(directory)
    shutil.rmtree(directory)


def engine_of(dockerd: Dockerd, directory: Path) -> DockerEngine:
    site = Site(host_id="h", private_ipv4="127.0.0.1", extra=ULIMIT_ARGS)
    return DockerEngine(
        "docker",
        site,
        directory / "spool",
        LIMIT_BYTES,
        engine_args=("--host", dockerd.address),
        call_seconds=20,
    )


def counting(key: NodeKey) -> ContainerSpec:
    environment = (
        ("AWS_BATCH_JOB_ID", f"{key.job_id}#{key.node_index}"),
        ("AWS_BATCH_JOB_ATTEMPT", str(key.attempt)),
    )
    return ContainerSpec(
        image=IMAGE,
        command=("sh", "-c", COUNTING),
        environment=environment,
        vcpus=1,
        memory_mib=64,
    )


def numbers(directory: Path, key: NodeKey) -> list[int]:
    _, output = spool.read(directory / "spool" / key.name, 0, LIMIT_BYTES)
    return [int(line.split()[1]) for line in output.decode().splitlines()]


async def until(directory: Path, key: NodeKey, count: int) -> None:
    async def reached() -> bool:
        return len(numbers(directory, key)) >= count

    await eventually(reached, 30, lambda: f"{numbers(directory, key)[-3:]}")


async def test_a_restart_loses_and_repeats_no_line(dockerd: Dockerd, tmp_path: Path) -> None:
    engine = engine_of(dockerd, tmp_path)
    key = NodeKey(job_id="restart", attempt=1, node_index=0)
    await engine.start(key, counting(key))
    for number in (signal.SIGTERM, signal.SIGKILL):
        await until(tmp_path, key, len(numbers(tmp_path, key)) + 20)
        await asyncio.to_thread(dockerd.stop, number)
        await asyncio.to_thread(dockerd.start)
    await until(tmp_path, key, len(numbers(tmp_path, key)) + 20)
    await engine.stop(key, 10)
    assert (await engine.wait(key)).exit_code == 0
    seen = numbers(tmp_path, key)
    assert seen == list(range(len(seen)))
    await engine.remove(key)
    await engine.close()


async def test_a_stop_without_a_daemon_ends_the_job(dockerd: Dockerd, tmp_path: Path) -> None:
    engine = engine_of(dockerd, tmp_path)
    key = NodeKey(job_id="gone", attempt=1, node_index=0)
    await engine.start(key, counting(key))
    await until(tmp_path, key, 5)
    await asyncio.to_thread(dockerd.stop)
    assert pids_of(key)
    with pytest.raises(EngineError, match="killed directly"):
        await engine.stop(key, 0)
    assert pids_of(key) == []
    with pytest.raises(EngineError):
        await engine.remove(key)
    await asyncio.to_thread(dockerd.start)
    await engine.remove(key)
    assert await engine.list_managed() == []
    await engine.close()
