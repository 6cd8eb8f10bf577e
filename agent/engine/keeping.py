"""Starts the keepers of containers, and tells them which processes the containers are.

The keeper itself is `keeper.py`, which outlives the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass

from agent.core.assignment import ContainerSpec, NodeKey
from agent.engine import own_program
from agent.engine.port import EngineError, ErrorClass
from agent.host import nodes
from agent.lease_file import Leases

logger = logging.getLogger(__name__)

_KEEP = "from agent.engine.keeper import main; main(sys.argv[3:])"
_START_SECONDS = 30.0


class Keeping:
    """The agent's end of a keeper that holds a lease. While it is open the container may come;
    closed, the keeper goes on by itself. Without a pipe there is no keeper to tell."""

    def __init__(self, pipe: int = -1) -> None:
        self._pipe = pipe

    def begin(self) -> None:
        """The lease is there. OSError when the keeper is not."""
        os.write(self._pipe, b"!")

    def tell(self, pid: int, container_id: str) -> None:
        """The container has come up as this process; 0 when it has ended already."""
        # Broken where another keeper of before holds the lease.
        with contextlib.suppress(BrokenPipeError):
            if self._pipe >= 0:
                os.write(self._pipe, b"%d %b\n" % (pid, container_id.encode()))

    def close(self) -> None:
        """Say no more."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


@dataclass(frozen=True, slots=True)
class _Spare:
    """A keeper that waits for its lease. `words` say what it is for."""

    words: tuple[str, ...]
    launcher: own_program.Launcher
    keeping: Keeping

    async def begin(self) -> tuple[int, str]:
        """Have it hold the lease; exit code and reason of its launcher. OSError when it cannot be
        told, or does not say so in time."""
        try:
            self.keeping.begin()
            exit_code, reason = await self.launcher.finish(_START_SECONDS)
        except BaseException:
            await self.leave()
            raise
        if exit_code:
            self.keeping.close()
        return exit_code, reason

    async def leave(self) -> None:
        self.keeping.close()
        await self.launcher.abandon()


class Keepers:
    """Starts and dismisses the keepers of one engine's containers. `engine` begins its command
    lines. Without `leases` no container has a keeper."""

    def __init__(self, leases: Leases | None, engine: Sequence[str]) -> None:
        self._leases = leases
        self._engine = engine
        self._found: set[str] = set()
        """Nodes whose keeper holds a lease, whatever file is in the directory now."""
        self._spares: dict[str, _Spare] = {}

    async def begin(
        self, key: NodeKey, spec: ContainerSpec, meanwhile: Coroutine[None, None, None]
    ) -> Keeping:
        """Return when somebody holds the lease, if the specification names one, and `meanwhile` is
        done: a keeper takes its time to come up. One of before holds it by a file that may have no
        name any more. EngineError(TRANSIENT) when nobody holds it."""
        if not spec.lease_file or key.name in self._found:
            await meanwhile
            return Keeping()
        keep = self._keep(key, spec.lease_file, spec.stop_grace_seconds)
        keeping = asyncio.create_task(keep, name=f"keep {key.name}")
        try:
            await meanwhile
            return await keeping
        except BaseException:
            keeping.cancel()
            (begun,) = await asyncio.gather(keeping, return_exceptions=True)
            if isinstance(begun, Keeping):
                begun.close()
            raise

    async def go_on(self, key: NodeKey, pid: int, container_id: str) -> None:
        """See that a container has a keeper which an earlier agent has started: the keeper of that
        time may have been killed."""
        if self._leases is None or key.name in self._found:
            return
        try:
            grace_seconds = self._leases.grace_seconds(key.name)
        except OSError as error:
            raise _transient(f"CannotInspectContainerError: {error}") from error
        if grace_seconds is not None:
            keeping = await self._keep(key, self._leases.path(key.name), grace_seconds)
            with contextlib.closing(keeping):
                keeping.tell(pid, container_id)

    def find_all(self, pids: Mapping[str, int]) -> None:
        """Write from now on to the leases that these keepers hold, whatever has become of the
        directory. EngineError(TRANSIENT) when they cannot be read."""
        try:
            for name, pid in pids.items():
                if self._leases is not None and self._leases.find(name, pid):
                    self._found.add(name)
        except OSError as error:
            raise _transient(f"CannotListContainersError: {error}") from error

    def check(self, key: NodeKey) -> None:
        """Right before anything is started, as this agent may have been stopped for long.
        EngineError when the lease is over."""
        if self._leases is not None and self._leases.is_over(key.name):
            raise _transient(f"CannotStartContainerError: the lease of {key.name} is over")

    def note_end(self, key: NodeKey) -> None:
        """Write down that the container is being ended because its lease is over. It ends all the
        same on a disk that does not take it."""
        try:
            if self._leases is not None:
                self._leases.note_end(key.name)
        except OSError as error:
            logger.error("cannot note the end of a lease: node=%s %s", key.name, error)

    def is_end_noted(self, key: NodeKey) -> bool:
        """Whether the container was ended because its lease was over. Raises OSError."""
        return self._leases is not None and self._leases.is_end_noted(key.name)

    def dismiss(self, key: NodeKey) -> None:
        """The container is gone, and so is its lease. Raises OSError."""
        self._found.discard(key.name)
        if self._leases is not None:
            self._leases.remove(key.name)

    async def expect(self, key: NodeKey, grace_seconds: int) -> None:
        """A keeper takes its time to come up: let the one of this node do so before its start."""
        if self._leases is None or key.name in self._found or key.name in self._spares:
            return
        lease_file = self._leases.path(key.name)
        # What goes wrong is told at the start.
        with contextlib.suppress(OSError):
            self._spares[key.name] = await self._spare(key, lease_file, grace_seconds)

    async def forget(self, key: NodeKey) -> None:
        """The node is not started. Idempotent."""
        if spare := self._spares.pop(key.name, None):
            await spare.leave()

    async def close(self) -> None:
        """Let go of keepers that have nothing to keep yet; the others go on."""
        for name in list(self._spares):
            await self._spares.pop(name).leave()

    async def _spare(self, key: NodeKey, lease_file: str, grace_seconds: int) -> _Spare:
        read, write = os.pipe()
        words = (lease_file, str(grace_seconds), key.name, "--", *self._engine)
        try:
            launcher = await own_program.Launcher.begin(
                own_program.command_line(_KEEP, nodes.KEEPER, *words), stdin=read, environment=None
            )
        except BaseException:
            os.close(write)
            raise
        finally:
            os.close(read)
        return _Spare(words, launcher, Keeping(write))

    async def _keep(self, key: NodeKey, lease_file: str, grace_seconds: int) -> Keeping:
        spare = self._spares.pop(key.name, None)
        if spare is not None and spare.words[:2] != (lease_file, str(grace_seconds)):
            await spare.leave()
            spare = None
        try:
            spare = spare or await self._spare(key, lease_file, grace_seconds)
            exit_code, reason = await spare.begin()
        except OSError as error:
            exit_code, reason = 1, str(error)
        if spare is None or exit_code:
            raise _transient(
                f"CannotStartContainerError: no keeper for {key.name}: {reason.strip()}"
            )
        return spare.keeping


def _transient(reason: str) -> EngineError:
    return EngineError(ErrorClass.TRANSIENT, reason)
