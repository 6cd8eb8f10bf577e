"""The process engine: runs a node's command on the host itself, without a container.

For hosts without a container engine, for the demo and for tests. Each node has a shim process
(`shim.py`) that owns the command; this file starts shims, waits for them and cleans up, and keeps
nothing in memory, so a new agent takes over where a killed one was. `image`, `vcpus` and
`memory_mib` are ignored. What cannot be told apart from outside is told by two variables that
every process of a node inherits: AWS_BATCH_JOB_ID and AWS_BATCH_JOB_ATTEMPT.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from agent import spool
from agent.core.assignment import ContainerSpec, NodeKey
from agent.core.marks import Marks
from agent.engine import own_program, shim, shim_record
from agent.engine.argv import waiting
from agent.engine.port import EngineError, ErrorClass, Exit, Managed, Started
from agent.engine.shim_record import ShimRecord
from agent.engine.user import CannotStart, user_ids
from agent.host import nodes
from agent.host.inotify import DirectoryWatch
from agent.host.pidfd import ended
from agent.host.survivors import StillThere, Survivors, blindness
from agent.host.tree import remove_tree
from agent.lease_file import Leases

logger = logging.getLogger(__name__)

_START_SECONDS = 60.0
_DEATH_SECONDS = 10.0
"""How long a shim may take to end its tree."""

_LAUNCH = "from agent.engine.shim import main; main(sys.argv[2])"


class ProcessEngine:
    """Engine that runs commands as processes of the host. See `port.Engine` for the verbs.

    `data_dir` holds one directory per node (specification with its secrets, exit code, scratch
    directory); `spool_dir` one spool per node, which `remove` leaves alone. `leases` are needed
    where specifications name a lease file.
    """

    def __init__(
        self,
        data_dir: Path,
        spool_dir: Path,
        spool_limit_bytes: int,
        leases: Leases | None = None,
        host_id: str = "",
    ) -> None:
        self._host_id = host_id
        self._leases = leases
        self._data_dir = data_dir.absolute()
        self._spool_dir = spool_dir.absolute()
        self._spool_limit_bytes = spool_limit_bytes
        self._survivors = Survivors(host_id=host_id)

    @property
    def name(self) -> str:
        """`process`."""
        return "process"

    async def probe(self) -> str:
        """The kernel's version, and what this agent cannot see: there is nothing else to ask."""
        return f"linux {os.uname().release}{blindness()}"

    async def prepare(self, key: NodeKey, spec: ContainerSpec) -> str:
        """Check command, user and free space."""
        _check(spec)
        try:
            spool.check_room(self._spool_dir, self._spool_limit_bytes)
        except OSError as error:
            raise _transient(f"CannotCreateContainerError: {error}") from error
        return ""

    async def start(self, key: NodeKey, spec: ContainerSpec) -> Started:
        """Run the command; returns when its exec has succeeded."""
        started = self._started(key)
        if started is None:
            _check(spec)
            try:
                self._write_spec(key, spec)
            except OSError as error:
                raise _transient(f"CannotCreateContainerError: {error}") from error
            await self._launch(key, spec.marks)
            started = self._started(key)
        if started is None:
            raise _transient("CannotStartContainerError: the shim left no record of its start")
        return Started(container_id=key.name, started_at_ms=started.started_at_ms)

    async def wait(self, key: NodeKey, began_at_ms: int = 0) -> Exit:
        """Wait for the shim. A shim that was itself killed is exit code 137 with a reason. No shim
        runs twice."""
        started = self._started(key)
        if started is not None:
            async with started.opened() as pidfd:
                await _until_end(self._directory(key) / shim.EXIT, pidfd)
        end = shim_record.read_end(self._directory(key), started)
        if started is not None and end is None:
            # The command went with its shim; what it had started may not have.
            await self._kill_directly(key)
        try:
            spool.finish(self._spool_dir / key.name)
            lease_ended = self._leases is not None and self._leases.is_end_noted(key.name)
        except OSError as error:
            raise _transient(f"CannotInspectContainerError: {error}") from error
        now_ms = time.time_ns() // 1_000_000
        if started is None:
            reason = f"CannotInspectContainerError: no process node {key.name} on this host"
            return Exit(
                exit_code=None, stopped_at_ms=now_ms, reason=reason, lease_ended=lease_ended
            )
        if end is None:
            reason = started.words_on_its_death
            return Exit(exit_code=137, stopped_at_ms=now_ms, reason=reason, lease_ended=lease_ended)
        return Exit(
            exit_code=end["exit_code"],
            stopped_at_ms=end["stopped_at_ms"],
            lease_ended=lease_ended or end.get("lease_ended", False),
        )

    async def stop(self, key: NodeKey, grace_seconds: int) -> None:
        """SIGTERM to every process of the tree, then as `kill`."""
        started = self._started(key)
        if started is None:
            return
        await self._survivors.note_ports(key)
        async with started.opened() as pidfd:
            _send(pidfd, signal.SIGTERM)
            if await _ended(pidfd, grace_seconds):
                return
        await self.kill(key)

    async def end_lease(self, key: NodeKey, grace_seconds: int) -> None:
        """The shim looks at its lease, and says so at the end. One that does not, as a shim of an
        older release, is made to end as by `stop`."""
        started = self._started(key)
        if started is None:
            return
        await self._survivors.note_ports(key)
        async with started.opened() as pidfd:
            if pidfd is None or (self._directory(key) / shim.EXIT).exists():
                return
            if started.holds_lease:
                _send(pidfd, signal.SIGUSR2)
                if await _ended(pidfd, grace_seconds + _DEATH_SECONDS):
                    return
                grace_seconds = 0
        try:
            if self._leases is not None:
                self._leases.note_end(key.name)
        except OSError as error:
            raise _transient(f"CannotStopContainerError: {error}") from error
        await (self.stop(key, grace_seconds) if grace_seconds else self.kill(key))

    async def kill(self, key: NodeKey) -> None:
        """SIGKILL the tree through the shim. One that does not answer goes too, but only when all
        of its descendants have ended: it is what shows whose they are."""
        started = self._started(key)
        if started is None:
            return
        async with started.opened() as pidfd:
            _send(pidfd, signal.SIGUSR1)
            if not await _ended(pidfd, _DEATH_SECONDS):
                await self._kill_directly(key)
                _send(pidfd, signal.SIGKILL)
                await _ended(pidfd, _DEATH_SECONDS)
        if not (self._directory(key) / shim.EXIT).exists():
            await self._kill_directly(key)

    async def remove(self, key: NodeKey) -> None:
        """Kill what is left, prove that it is gone, delete the node's directory."""
        directory = self._directory(key)
        try:
            if directory.exists():
                await self._remove(key, directory)
            elif self._survivors.knows(key):
                # Somebody else deleted it, and with it what says whether anything runs.
                await self._survivors.prove_gone(key)
            if self._leases is not None:
                self._leases.remove(key.name)
        except (OSError, StillThere) as error:
            raise _transient(f"CannotRemoveContainerError: {error}") from error

    async def _remove(self, key: NodeKey, directory: Path) -> None:
        lock = await _locked(directory / shim.LOCK)
        try:
            await self.kill(key)
            # Once more, for what its shim has written at its end.
            self._started(key)
            await self._survivors.prove_gone(key)
            await asyncio.to_thread(remove_tree, directory)
        finally:
            os.close(lock)

    async def list_managed(self) -> list[Managed]:
        """All nodes that have a directory here, and those whose shims live, whatever has become of
        their directories. Other hosts' are left out: a copied data directory has theirs."""
        try:
            for found in await asyncio.to_thread(nodes.shims, self._host_id):
                shim_record.restore(self._directory(found.key), found)
                if self._leases is not None:
                    self._leases.find(found.key.name, found.pid)
        except OSError as error:
            raise _transient(f"CannotListContainersError: {error}") from error
        if not self._data_dir.exists():
            return []
        parsed = [NodeKey.parse(entry.name) for entry in self._data_dir.iterdir()]
        keys = sorted((key.attempt, key) for key in parsed if key is not None)
        managed = [self._managed(key) for _, key in keys]
        return [each for each in managed if each.marks is None or self._is_own(each.marks)]

    def _is_own(self, marks: Marks) -> bool:
        return marks.host_id == self._host_id

    async def close(self) -> None:
        """Nothing to let go of: every verb closes what it opened."""

    def _managed(self, key: NodeKey) -> Managed:
        try:
            record = self._started(key)
        except EngineError as error:
            # Who cannot be judged is not gone.
            logger.error("%s", error.reason)
            return Managed(key=key, started=None, running=True)
        if record is None:
            return Managed(key=key, started=None, running=False)
        started = Started(container_id=key.name, started_at_ms=record.started_at_ms)
        return Managed(key=key, started=started, running=record.is_alive, marks=record.marks)

    def _directory(self, key: NodeKey) -> Path:
        return self._data_dir / key.name

    def _started(self, key: NodeKey) -> ShimRecord | None:
        """What the shim has written down; None before the command runs. EngineError for what no
        shim writes."""
        record = shim_record.read(self._directory(key))
        if record is not None and record.is_of_this_boot:
            self._survivors.remember_shim(key, record.shim)
        return record

    def _write_spec(self, key: NodeKey, spec: ContainerSpec) -> None:
        directory = self._directory(key)
        directory.mkdir(mode=shim_record.MODE, parents=True, exist_ok=True)
        temporary = directory / f"{shim.SPEC}.tmp"
        command = spec.command
        if spec.gate:
            command = ("/bin/sh", *waiting(spec.gate, command))
        content = {
            "command": command,
            "environment": (*spec.environment, *_gpu_variables(spec)),
            "ulimits": [(limit.name, limit.soft, limit.hard) for limit in spec.ulimits],
            "user": spec.user,
            "spool": str(self._spool_dir / key.name),
            "spool_limit_bytes": self._spool_limit_bytes,
            "marks": spec.marks.labels if spec.marks is not None else {},
            "lease": spec.lease_file,
            "grace_seconds": spec.stop_grace_seconds,
        }
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(content, file)
        temporary.rename(directory / shim.SPEC)

    async def _launch(self, key: NodeKey, marks: Marks | None) -> None:
        """Run the launcher to its end. Cancelled or timed out, the node may or may not run: the
        next `start` finds out, since a shim that is left goes on and holds the lock."""
        directory = str(self._directory(key))
        # The command has an environment of its own; the shim keeps this one, by which it is found.
        environment = {
            **os.environ,
            **(marks.labels if marks is not None else {}),
            nodes.NODE: key.name,
            nodes.DIRECTORY: directory,
        }
        try:
            exit_code, reason = await own_program.launched(
                own_program.command_line(_LAUNCH, directory),
                limit_seconds=_START_SECONDS,
                environment=environment,
            )
        except OSError as error:
            raise _transient(f"CannotStartContainerError: {error}") from error
        if exit_code:
            lasting = exit_code == shim.PERMANENT
            raise _permanent(reason) if lasting else _transient(reason)

    async def _kill_directly(self, key: NodeKey) -> None:
        """SIGKILL every process of the node without its shim, until there is none."""
        try:
            await self._survivors.kill(key)
        except StillThere as error:
            raise _transient(f"CannotRemoveContainerError: {error}") from None


def _gpu_variables(spec: ContainerSpec) -> list[tuple[str, str]]:
    """Without containers all that keeps a program to its GPUs is that it is told."""
    if not spec.gpu_ids:
        return []
    ids = ",".join(spec.gpu_ids)
    return [("NVIDIA_VISIBLE_DEVICES", ids), ("CUDA_VISIBLE_DEVICES", ids)]


_REFUSED: tuple[tuple[str, Callable[[ContainerSpec], object]], ...] = (
    ("privileged", lambda spec: spec.privileged),
    ("readonlyRootFilesystem", lambda spec: spec.read_only_root),
    ("mountPoints", lambda spec: spec.mounts),
    ("linuxParameters.devices", lambda spec: spec.devices),
    ("linuxParameters.tmpfs", lambda spec: spec.tmpfs),
    ("linuxParameters.sharedMemorySize", lambda spec: spec.shared_memory_mib is not None),
    ("linuxParameters.maxSwap", lambda spec: spec.max_swap_mib is not None),
)
"""What only a container can have. An init is what the shim is; swappiness means something only
beside maxSwap."""


def _check(spec: ContainerSpec) -> None:
    """EngineError(PERMANENT) for what this engine can never run."""
    refused = [name for name, asks in _REFUSED if asks(spec)]
    if refused:
        # Another host may have an engine with containers.
        raise _transient(
            "CannotCreateContainerError: this host runs commands without containers (engine "
            f"process), and so without {', '.join(refused)}"
        )
    if not spec.command:
        raise _permanent(
            "CannotCreateContainerError: the process engine needs a command; "
            "there is no image whose own could be run"
        )
    if spec.user is None:
        return
    try:
        uid, _, _ = user_ids(spec.user)
    except CannotStart as error:
        raise _permanent(f"CannotCreateContainerError: {error}") from error
    if os.geteuid() != 0:
        raise _permanent(
            f"CannotCreateContainerError: user {spec.user} ({uid}): only an agent that runs as "
            "root can switch the user"
        )


def _permanent(reason: str) -> EngineError:
    return EngineError(ErrorClass.PERMANENT, reason)


def _transient(reason: str) -> EngineError:
    return EngineError(ErrorClass.TRANSIENT, reason)


async def _until_end(exit_file: Path, pidfd: int | None) -> None:
    """Return when the shim has ended, or has said how the command ended: it may stay for longer."""
    if pidfd is None:
        return
    async with asyncio.TaskGroup() as tasks:
        either = (tasks.create_task(ended(pidfd)), tasks.create_task(_written(exit_file)))
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for each in either:
            each.cancel()


async def _written(path: Path) -> None:
    """Return when the file is there; never when its directory cannot be watched."""
    try:
        with DirectoryWatch(path.parent) as watch:
            while not os.access(path, os.F_OK):
                await watch.wait()
    except OSError as error:
        logger.warning("only the end of the shim will tell: %s", error)
        await asyncio.Event().wait()


async def _ended(pidfd: int | None, timeout_seconds: float | None = None) -> bool:
    return pidfd is None or await ended(pidfd, timeout_seconds)


def _send(pidfd: int | None, number: int) -> None:
    if pidfd is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)


async def _locked(path: Path) -> int:
    """The launcher's lock, so that no start is under way; at most a start's time away."""
    with contextlib.suppress(FileNotFoundError):
        shim_record.open_up(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.to_thread(fcntl.flock, fd, fcntl.LOCK_EX)
    except BaseException:
        os.close(fd)
        raise
    return fd
