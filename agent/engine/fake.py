"""An engine without processes: for unit tests and simulated agents.

The container's command says what happens, as in nomad's mock driver:

    exit N                    ends at once with code N
    run                       runs until it is stopped (143) or killed (137)
    trap-term N               runs until it is stopped, and then ends with code N
    ignore-term               runs until it is killed
    oom                       ends at once, out of memory
    print TEXT, then another  writes TEXT to the spool first
    fail-prepare CLASS TEXT   `prepare` raises EngineError(CLASS, TEXT)
    fail-start CLASS TEXT     `start` does
    fail-remove CLASS TEXT    runs; `remove` does, always

CLASS is a member of ErrorClass. Anything else fails at `start` as an unknown program would. Must
not touch a file but the spool, nor the clock: time is what `now_ms` says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent import spool
from agent.core.assignment import ContainerSpec, NodeKey
from agent.engine.port import EngineError, ErrorClass, Exit, Managed, Started


@dataclass(slots=True)
class FakeContainer:
    """One container; a test may read it, and end it with `FakeHost.end`."""

    spec: ContainerSpec
    started: Started
    exit: Exit | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class FakeHost:
    """What outlives an engine instance: the containers. Give it to two engines in turn to
    rehearse an agent's restart. `spool_dir` None writes no output anywhere."""

    def __init__(
        self,
        spool_dir: Path | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.containers: dict[NodeKey, FakeContainer] = {}
        self.spool_dir = spool_dir
        self.now_ms = now_ms
        self.sleep = sleep

    def end(
        self, key: NodeKey, exit_code: int, reason: str = "", *, lease_ended: bool = False
    ) -> None:
        """The container of `key` ends by itself; nothing when it has ended already."""
        container = self.containers[key]
        if container.exit is None:
            container.exit = Exit(
                exit_code=exit_code,
                stopped_at_ms=self.now_ms(),
                reason=reason,
                lease_ended=lease_ended,
            )
            if self.spool_dir is not None:
                spool.finish(self.spool_dir / key.name)
            container.ended.set()


class FakeEngine:
    """See `port.Engine` for the verbs, and the module for what a command does."""

    def __init__(self, host: FakeHost | None = None) -> None:
        self.host = host or FakeHost()

    @property
    def name(self) -> str:
        """`fake`."""
        return "fake"

    async def probe(self) -> str:
        """A fixed word."""
        return "fake"

    async def prepare(self, key: NodeKey, spec: ContainerSpec) -> str:
        """Fail if the command says so."""
        _fail_if(spec, "fail-prepare")
        return ""

    async def start(self, key: NodeKey, spec: ContainerSpec) -> Started:
        """Make the container, and end it at once if the command says so."""
        if key in self.host.containers:
            return self.host.containers[key].started
        _fail_if(spec, "fail-start")
        command = self._print(key, spec.command)
        if not command or command[0] not in _PROGRAMS:
            program = command[0] if command else ""
            raise EngineError(
                ErrorClass.PERMANENT,
                f'CannotStartContainerError: exec: "{program}": executable file not found in $PATH',
            )
        started = Started(container_id=key.name, started_at_ms=self.host.now_ms())
        self.host.containers[key] = FakeContainer(spec, started)
        if command[0] == "exit":
            self.host.end(key, int(command[1]))
        elif command[0] == "oom":
            self.host.end(key, 137, "OutOfMemoryError: Container killed due to memory usage")
        return started

    async def wait(self, key: NodeKey, began_at_ms: int = 0) -> Exit:
        """The end of the container, or an Exit without a code when there is none."""
        container = self.host.containers.get(key)
        if container is not None:
            await container.ended.wait()
            if container.exit is not None:
                return container.exit
        reason = f"CannotInspectContainerError: no container {key.name}"
        return Exit(exit_code=None, stopped_at_ms=self.host.now_ms(), reason=reason)

    async def stop(self, key: NodeKey, grace_seconds: int) -> None:
        """As the command says: 143, its own code, or 137 after `sleep(grace_seconds)`."""
        await self._stop(key, grace_seconds, lease_ended=False)

    async def end_lease(self, key: NodeKey, grace_seconds: int) -> None:
        """As `stop`. No holder watches a lease file: `FakeHost.end` can do what it would."""
        await self._stop(key, grace_seconds, lease_ended=True)

    async def _stop(self, key: NodeKey, grace_seconds: int, *, lease_ended: bool) -> None:
        container = self.host.containers.get(key)
        if container is None or container.exit is not None:
            return
        command = container.spec.command
        code = int(command[-1]) if "trap-term" in command else 143
        if "ignore-term" in command:
            await self.host.sleep(grace_seconds)
            code = 137
        self.host.end(key, code, lease_ended=lease_ended)

    async def kill(self, key: NodeKey) -> None:
        """137."""
        if key in self.host.containers:
            self.host.end(key, 137)

    async def remove(self, key: NodeKey) -> None:
        """Forget the container; EngineError as often as the command says so."""
        container = self.host.containers.get(key)
        if container is None:
            return
        _fail_if(container.spec, "fail-remove")
        await self.kill(key)
        del self.host.containers[key]

    async def list_managed(self) -> list[Managed]:
        """Oldest attempt first."""
        return [
            Managed(key=key, started=container.started, running=container.exit is None)
            for key, container in sorted(
                self.host.containers.items(), key=lambda item: (item[0].attempt, item[0])
            )
        ]

    async def close(self) -> None:
        """Nothing to let go of."""

    def _print(self, key: NodeKey, command: tuple[str, ...]) -> tuple[str, ...]:
        """Do all `print`s; return the rest of the command."""
        writer = None
        if self.host.spool_dir is not None:
            writer = spool.SpoolWriter(self.host.spool_dir / key.name)
        while command[:1] == ("print",):
            if writer is not None:
                writer.write(command[1].encode())
            command = command[2:]
        if writer is not None:
            writer.close()
        return command


_PROGRAMS = ("exit", "run", "trap-term", "ignore-term", "oom", "fail-remove")


def _fail_if(spec: ContainerSpec, program: str) -> None:
    if spec.command[:1] == (program,):
        raise EngineError(ErrorClass(spec.command[1]), spec.command[2])
