"""Engines to hold to the port's contract, each with programs to run and a check that it is clean.

What a node runs is `Programs`, since the fake engine has a language of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from agent import spool
from agent.core.assignment import ContainerSpec, NodeKey
from agent.core.marks import HOST_ID
from agent.engine.argv import Site
from agent.engine.docker import DockerEngine
from agent.engine.fake import FakeEngine, FakeHost
from agent.engine.podman import PodmanEngine
from agent.engine.port import Engine, Exit
from agent.engine.process import ProcessEngine
from agent.lease_file import Leases, now_ms
from agent.spool_follow import follow
from tests.engines import IMAGE, RealEngine, import_image, remove_image

LIMIT_BYTES = 1 << 20
DEADLINE_SECONDS = 30
_job_numbers = itertools.count(1)

FAKE = pytest.param("fake")
PROCESS = pytest.param("process")
DOCKER = pytest.param("docker", marks=pytest.mark.real("docker"))
PODMAN = pytest.param("podman", marks=pytest.mark.real("podman"))


def engines(*names: ParameterSet) -> pytest.MarkDecorator:
    """Run a test with each of these."""
    return pytest.mark.parametrize("host", names, indirect=True)


ALL = engines(FAKE, PROCESS, DOCKER, PODMAN)
REAL = engines(PROCESS, DOCKER, PODMAN)
CONTAINERS = engines(DOCKER, PODMAN)


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


@dataclass(frozen=True)
class Programs:
    """Commands, in an engine's language. Those that run on say `ready` first."""

    run: tuple[str, ...] = shell("trap 'exit 143' TERM; echo ready; sleep 1000 & wait")
    ignore_term: tuple[str, ...] = shell("trap '' TERM; echo ready; sleep 1000")
    once: tuple[str, ...] = ("echo", "once")
    unknown: tuple[str, ...] = ("no-such-program",)

    def exit(self, code: int) -> tuple[str, ...]:
        return shell(f"exit {code}")

    def trap_term(self, code: int, last_words: str) -> tuple[str, ...]:
        """Ends with `code` at SIGTERM, after a last line."""
        trap = f"trap 'echo {last_words}; exit {code}' TERM"
        return shell(f"{trap}; echo ready; sleep 1000 & wait")


class FakePrograms(Programs):
    def __init__(self) -> None:
        super().__init__(
            run=("print", "ready\n", "run"),
            ignore_term=("print", "ready\n", "ignore-term"),
            once=("print", "once\n", "exit", "0"),
        )

    def exit(self, code: int) -> tuple[str, ...]:
        return ("exit", str(code))

    def trap_term(self, code: int, last_words: str) -> tuple[str, ...]:
        # It prints when it starts, and no byte of it has been read before it ends.
        return ("print", f"ready\n{last_words}\n", "trap-term", str(code))


@dataclass
class Bench:
    """One engine, ready to be tested, and the nodes that a test made of it."""

    spool_dir: Path
    make: Callable[[], Engine]
    programs: Programs
    leases: Leases
    keys: list[NodeKey] = field(default_factory=list)
    engines: list[Engine] = field(default_factory=list)
    real: RealEngine | None = None
    host_id: str = "host"
    images: list[str] = field(default_factory=list)

    @property
    def engine(self) -> Engine:
        return self.engines[-1]

    async def restart_agent(self) -> None:
        """What is left after an agent's end: a new engine that knows nothing."""
        await self.engine.close()
        self.engines.append(self.make())

    def key(self, attempt: int = 1) -> NodeKey:
        job_id = f"test-{os.getpid()}-{next(_job_numbers)}"
        key = NodeKey(job_id=job_id, attempt=attempt, node_index=0)
        self.keys.append(key)
        return key

    def spec(
        self,
        key: NodeKey,
        command: tuple[str, ...],
        *,
        user: str | None = None,
        image: str = IMAGE,
        memory_mib: int = 64,
        vcpus: int = 1,
        environment: tuple[tuple[str, str], ...] = (),
        **members: Any,
    ) -> ContainerSpec:
        marks = (
            ("AWS_BATCH_JOB_ID", f"{key.job_id}#{key.node_index}"),
            ("AWS_BATCH_JOB_ATTEMPT", str(key.attempt)),
            (HOST_ID, self.host_id),
        )
        return ContainerSpec(
            image=image,
            command=command,
            environment=(*marks, *environment),
            vcpus=vcpus,
            memory_mib=memory_mib,
            user=user,
            **members,
        )

    async def started(self, command: tuple[str, ...], user: str | None = None) -> NodeKey:
        key = self.key()
        await self.engine.start(key, self.spec(key, command, user=user))
        return key

    def lease(self, key: NodeKey, left_ms: int | None, grace_seconds: int = 10) -> None:
        """Its lease ends after that time, or never."""
        self.leases.set(key.name, None if left_ms is None else now_ms() + left_ms, grace_seconds)

    async def held(self, command: tuple[str, ...], grace_seconds: int = 10) -> NodeKey:
        """A node that runs, and has said so, with a lease that never ends."""
        key = self.key()
        self.lease(key, None, grace_seconds)
        await self.engine.start(key, self.leased(key, command, grace_seconds))
        await self.ready(key)
        return key

    def leased(
        self, key: NodeKey, command: tuple[str, ...], grace_seconds: int = 10
    ) -> ContainerSpec:
        """A specification that names the node's lease."""
        path = self.leases.path(key.name)
        return self.spec(key, command, lease_file=path, stop_grace_seconds=grace_seconds)

    def image_with(self, *changes: str) -> str:
        """IMAGE with other settings, such as an ENTRYPOINT; removed after the test."""
        assert self.real is not None
        name = f"localhost/muster-test-{os.getpid()}-{next(_job_numbers)}:1"
        import_image(self.real, name, changes)
        self.images.append(name)
        return name

    async def volumes(self, key: NodeKey) -> list[str]:
        """Names of the engine's volumes that are this node's."""
        return [n for n in (await self.cli("volume", "ls", "--quiet")).split() if key.name in n]

    async def inspected(self, key: NodeKey) -> str:
        """What the engine itself says of the container."""
        return await self.cli("container", "inspect", key.name)

    async def pid(self, key: NodeKey) -> int:
        """Of the container's first process."""
        pid: int = json.loads(await self.inspected(key))[0]["State"]["Pid"]
        return pid

    async def cli(self, *arguments: str) -> str:
        """What the engine's command prints."""
        assert self.real is not None
        process = await asyncio.create_subprocess_exec(
            *self.real.argv, *arguments, stdout=asyncio.subprocess.PIPE
        )
        stdout, _ = await process.communicate()
        return stdout.decode()

    async def ready(self, key: NodeKey) -> None:
        """Return when the node has said `ready`."""
        said = b""
        async with (
            asyncio.timeout(DEADLINE_SECONDS),
            aclosing(follow(self.spool_dir / key.name, 0)) as chunks,
        ):
            async for _, data in chunks:
                said += data
                if said.startswith(b"ready\n"):
                    return
        raise AssertionError(f"{key.name} ended and said {said!r}")

    async def ended(self, key: NodeKey) -> Exit:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.engine.wait(key)

    def output(self, key: NodeKey) -> str:
        """All output; the spool must be complete, as it is after `wait`."""
        assert spool.is_finished(self.spool_dir / key.name)
        offset, data = spool.read(self.spool_dir / key.name, 0, LIMIT_BYTES)
        assert offset == 0
        return data.decode()


def pids_of(key: NodeKey) -> list[int]:
    """Living processes of the whole host that have the node's environment."""
    mark = f"AWS_BATCH_JOB_ID={key.job_id}#{key.node_index}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def keepers(key: NodeKey) -> list[int]:
    """Keepers of the node's container."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"muster-keeper" in words and key.name.encode() in words:
            found.append(int(process.name))
    return found


def command_lines() -> list[bytes]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> tuple[str, RealEngine | None]:
    """The name of the engine to test, and where it is. Of the session, so that a daemon is there
    before the first test looks at what runs."""
    name: str = request.param
    if name in ("fake", "process"):
        return name, None
    return name, request.getfixturevalue(f"{name}_host")


@pytest.fixture
async def bench(host: tuple[str, RealEngine | None], tmp_path: Path) -> AsyncIterator[Bench]:
    made = bench_of(*host, tmp_path)
    yield made
    engine = made.engine
    for key in made.keys:
        await engine.remove(key)
    assert await engine.list_managed() == []
    await engine.close()
    made.leases.close()
    assert engine.name == "fake" or list((tmp_path / "leases").glob("*")) == []
    for image in made.images:
        remove_image(host[1], image)
    assert [pid for key in made.keys for pid in pids_of(key)] == []
    assert list((tmp_path / "data").glob("*")) == []
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert tasks == [], "tasks are left behind"


def bench_of(engine_name: str, real: RealEngine | None, tmp_path: Path) -> Bench:
    """With its first engine, which whoever asked has to close."""
    programs = FakePrograms() if engine_name == "fake" else Programs()
    leases = Leases(tmp_path / "leases")
    host_id = f"host-{os.getpid()}-{next(_job_numbers)}"
    make = engine_maker(engine_name, real, tmp_path, leases, host_id)
    return Bench(
        tmp_path / "spool", make, programs, leases, engines=[make()], real=real, host_id=host_id
    )


def engine_maker(
    engine_name: str,
    real: RealEngine | None,
    tmp_path: Path,
    leases: Leases | None = None,
    host_id: str = "host",
) -> Callable[[], Engine]:
    """A maker of engines over the same host, as after a restart of the agent."""
    spool_dir = tmp_path / "spool"
    if engine_name == "fake":
        fake_host = FakeHost(spool_dir)
        return lambda: FakeEngine(fake_host)
    if real is None:
        return lambda: ProcessEngine(tmp_path / "data", spool_dir, LIMIT_BYTES, leases, host_id)
    engine_class = {"docker": DockerEngine, "podman": PodmanEngine}[engine_name]
    site = Site(host_id=host_id, private_ipv4="127.0.0.1", extra=real.run_args)
    return lambda: engine_class(
        real.binary, site, spool_dir, LIMIT_BYTES, real.engine_args, leases=leases
    )
