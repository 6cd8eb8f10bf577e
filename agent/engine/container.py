"""What docker and podman have in common: the port's verbs, over their command lines.

Keeps no state about containers: the engine does. All that is held in memory is one task per
running container that copies its output to the spool; after a restart it goes on where the spool
ends, because an engine's log always begins with the container's first byte.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from agent import spool
from agent.core.assignment import ContainerSpec, NodeKey
from agent.engine import argv, parse
from agent.engine.argv import Dialect, Site
from agent.engine.cli import CALL_SECONDS, Cli, EngineHangs, Output, calls_under_way
from agent.engine.coming import coming
from agent.engine.images import Images
from agent.engine.keeping import Keepers
from agent.engine.network import Network
from agent.engine.output import OutputCopies, OutputCopy
from agent.engine.port import EngineError, ErrorClass, Exit, Managed, Started
from agent.engine.records import Records
from agent.engine.volumes import Volumes
from agent.host import ids, nodes, processes
from agent.host.ids import ContainerId
from agent.host.survivors import WITHOUT_SIGHT, StillThere, Survivors
from agent.lease_file import Leases

logger = logging.getLogger(__name__)

_NO_RECORD = "CannotInspectContainerError: the engine has no record of a container that runs"
LEAST_LOG_BYTES = 16 * 1024 * 1024
"""What an engine's log holds before it goes round: more than can come between two looks at it."""
_OUT_OF_MEMORY_MARK = "oom"
"""Conmon makes this file where it was started when the kernel has killed for memory. Releases of
podman disagree on where to look for it, so a container is started where we do."""


class ContainerEngine(abc.ABC):
    """An engine behind a command line. See `port.Engine` for the verbs.

    `engine_args` go before every sub-command (`--runtime runc`). `network_address` is the one
    address that the host's containers have on a named network; empty chooses a free one.
    Spools are `spool_dir/<key.name>`. `leases` are needed where specifications name a lease file.
    """

    def __init__(
        self,
        binary: str,
        site: Site,
        spool_dir: Path,
        spool_limit_bytes: int,
        engine_args: tuple[str, ...] = (),
        network_address: str = "",
        call_seconds: float = CALL_SECONDS,
        leases: Leases | None = None,
    ) -> None:
        self._cli = Cli(binary, engine_args, call_seconds)
        self._keepers = Keepers(leases, self._cli.beginning)
        self._images = Images(self._cli, self._login_flags)
        self._volumes = Volumes(self._cli, site.host_id)
        self._site = site
        self._spool_dir = spool_dir
        self._spool_limit_bytes = spool_limit_bytes
        self._copies = OutputCopies(spool_dir, spool_limit_bytes, self._dialect.decode_log)
        self._just_started: dict[NodeKey, parse.Container] = {}
        """As `start` saw them, for the `wait` that follows: to inspect takes 0.1 s."""
        self._survivors = Survivors(self._look, site.host_id)
        self._records = Records(self._cli, site.host_id, self._survivors)
        self._network = Network(self._cli, self._records, network_address)

    @property
    @abc.abstractmethod
    def _dialect(self) -> Dialect:
        """Where this engine's flags are its own."""

    @abc.abstractmethod
    def _login_flags(self, directory: Path) -> tuple[list[str], list[str]]:
        """(flags before `pull`, flags after it) that use the login in `directory`."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """`docker` or `podman`."""

    async def probe(self) -> str:
        """The engine's version. EngineError(ENGINE_GONE) when it does not answer, and when this
        agent could not see what a container leaves."""
        if processes.hides_some():
            raise EngineError(ErrorClass.ENGINE_GONE, f"MusterHostError: {WITHOUT_SIGHT}")
        output = await self._cli.call(["version", "--format", self._dialect.version])
        if output.exit_code:
            reason = output.error("EngineNotReachableError").reason
            raise EngineError(ErrorClass.ENGINE_GONE, reason)
        return output.stdout.strip()

    @abc.abstractmethod
    async def _wait_for_end(self, key: NodeKey, container: parse.Container) -> None:
        """Return when the running container has ended. May return too early, and then fails."""

    def _supervised(self, key: NodeKey) -> ContainerId | None:
        """The node's container, if it shows without the engine that it runs. Reads all of /proc."""
        return None

    async def _look(self, pids: Sequence[int]) -> Iterable[int] | None:
        """The inodes of the sockets of processes that are another user's to this agent; None where
        the engine has no means to look at them."""
        return None

    def _is_orphan(self, container: parse.Container) -> bool:
        """Whether a container that has ended will run for ever by the engine's word, as who would
        have recorded its end is gone."""
        return False

    async def prepare(self, key: NodeKey, spec: ContainerSpec) -> str:
        """Pull the image; the one already here will do when that fails. See that the network is
        there, and choose an address on it."""
        try:
            spool.check_room(self._spool_dir, self._spool_limit_bytes)
        except OSError as error:
            raise _transient(f"CannotCreateContainerError: {error}") from error
        await self._keepers.expect(key, spec.stop_grace_seconds)
        await self._images.pull(spec)
        return await self._network.choose_address(self._site.network)

    async def start(self, key: NodeKey, spec: ContainerSpec) -> Started:
        """The engine's `run`, which fails when an earlier call has made the container: then that
        one is started, unless it was."""
        keeping = await self._keepers.begin(key, spec, self._look_back(key))
        with contextlib.closing(keeping):
            try:
                container = await self._run_or_find(key, spec)
            except EngineError:
                # What goes before the `run` may fail where an earlier one has done its work.
                found = await self._records.of(key)
                if found is None or found.started is None:
                    raise
                container = found
            keeping.tell(container.pid, container.container_id)
        started = container.started
        if started is None:
            raise AssertionError(f"{key.name} is {container.status}")
        self._copy(key, container)
        if container.is_running:
            self._just_started[key] = container
        # One that has ended already has no address any more.
        return replace(started, private_ipv4=started.private_ipv4 or spec.address or None)

    async def _look_back(self, key: NodeKey) -> None:
        """See that nothing of an earlier start is in the way."""
        await self._outwait(key)
        if await self._identify(key) and await self._records.of(key) is None:
            raise EngineError(ErrorClass.TRANSIENT, f"{_NO_RECORD}: {key.name}", may_have_run=True)

    async def _run_or_find(self, key: NodeKey, spec: ContainerSpec) -> parse.Container:
        output = await self._run(key, spec)
        container = await self._records.of(key)
        if container is None and parse.says_taken(output.stderr):
            if await self._records.is_anothers(key):
                raise output.error("CannotCreateContainerError")
            # A podman that was killed while it created leaves a name that only `rm` still sees,
            # and that no `run` can have.
            await self._cli.call_through(argv.remove(key, self._dialect.remove))
            output = await self._run(key, spec)
            container = await self._records.of(key)
        if container is not None and container.started is None and parse.says_taken(output.stderr):
            self._keepers.check(key)
            output = await self._cli.call_through(argv.start(key), directory=self._spool(key))
            container = await self._records.of(key)
        if container is None and output.exit_code:
            raise output.error("CannotCreateContainerError")
        if container is None:
            why = f"CannotStartContainerError: {key.name} vanished while it started"
            raise EngineError(ErrorClass.TRANSIENT, why, may_have_run=True)
        if container.started is None:
            raise output.error("CannotStartContainerError")
        return container

    async def _outwait(self, key: NodeKey) -> bool:
        """Wait for calls that an earlier agent began, which can still make the container come.
        Whether there were any. What the job itself runs under such a name is no such call."""
        pids = await asyncio.to_thread(calls_under_way, key.name)
        if pids:
            own = await self._survivors.pids(key)
            pids = [pid for pid in pids if pid not in own]
            await self._cli.outwait(key.name, pids)
        return bool(pids)

    async def _identify(self, key: NodeKey) -> bool:
        """Remember the container that runs, if its supervisor shows it, whatever the engine knows.
        Whether it does."""
        found = await asyncio.to_thread(self._supervised, key)
        if found is None or await self._records.is_anothers(key):
            return False
        self._survivors.remember(key, found)
        return True

    async def wait(self, key: NodeKey, began_at_ms: int = 0) -> Exit:
        """The engine's own record of the end, once all output is in the spool."""
        container = self._just_started.pop(key, None)
        if (
            container is None
            and (container := await self._records.of(key))
            and container.is_running
        ):
            await self._keepers.go_on(key, container.pid, container.container_id)
        copy, again = None, False
        if container is not None and container.started is not None:
            copy = self._copy(key, container)
            began_at_ms = began_at_ms or container.started_at_ms
            if not container.began_again(began_at_ms) and (
                container.is_running or container.is_lost
            ):
                await self._wait_for_end(key, container)
                container = await self._records.of(key)
            if again := container is not None and container.began_again(began_at_ms):
                # A node runs once in an attempt, and how that went is not known any more.
                await self.kill(key)
                container = await self._records.of(key)
        orphan = container is not None and container.is_running and self._is_orphan(container)
        if container is not None and container.is_running and not orphan:
            raise _transient(f"CannotInspectContainerError: {key.name} still runs")
        lost = container is not None and container.is_lost
        if container is None:
            await self._identify(key)
            lost = await self._survivors.gone(key)
        if copy is not None:
            await copy.drained()
        try:
            spool.finish(self._spool_dir / key.name)
            lease_ended = self._keepers.is_end_noted(key)
        except OSError as error:
            raise _transient(f"CannotInspectContainerError: {error}") from error
        if again or container is None or not container.has_ended:
            what = "no container" if container is None else "never started:"
            reason = parse.STARTED_AGAIN if again else parse.ORPHAN if orphan else parse.LOST
            if not (again or orphan or lost):
                reason = f"CannotInspectContainerError: {what} {key.name}"
            now_ms = time.time_ns() // 1_000_000
            end = Exit(exit_code=None, stopped_at_ms=now_ms, reason=reason)
            return replace(end, lease_ended=lease_ended)
        end = replace(container.end, lease_ended=lease_ended)
        if (self._spool_dir / key.name / _OUT_OF_MEMORY_MARK).exists():
            end = replace(end, reason=parse.OUT_OF_MEMORY)
        return end

    async def stop(self, key: NodeKey, grace_seconds: int) -> None:
        """The engine's `stop`; `kill` if that leaves it running. An engine that does not do it
        is passed over: the job's processes end all the same, and the failure is reported."""
        kill_at = time.monotonic() + grace_seconds
        try:
            if await self._records.is_anothers(key):
                return
            await self._survivors.note_ports(key)
            await self._cli.call(
                argv.stop(key, grace_seconds),
                limit_seconds=grace_seconds + self._cli.call_seconds,
            )
            await self._kill(key)
        except EngineError as failure:
            await self._end_directly(key, failure, kill_at - time.monotonic())

    async def end_lease(self, key: NodeKey, grace_seconds: int) -> None:
        """As `stop`, and the reason is written down. Its keeper may be doing the same."""
        with contextlib.suppress(EngineError):  # `stop` says what it thinks of such an engine
            container = await self._records.of(key)
            if container is None or not (container.is_running or container.is_lost):
                return
        self._keepers.note_end(key)
        await self.stop(key, grace_seconds)

    async def kill(self, key: NodeKey) -> None:
        """The engine's `kill`, unless it has ended, and then its end; as `stop` for the rest."""
        try:
            await self._survivors.note_ports(key)
            await self._kill(key)
        except EngineError as failure:
            await self._end_directly(key, failure, 0)

    async def _kill(self, key: NodeKey) -> None:
        container = await self._records.of(key)
        if container is None or container.is_lost:
            await self._identify(key)
            if await self._survivors.pids(key):
                raise _transient(f"{_NO_RECORD}: {key.name}")
            return
        if not container.is_running:
            return
        output = await self._cli.call(argv.kill(key))
        # It may have ended by itself meanwhile, which is an error to the engine and not to us.
        container = await self._records.of(key)
        if container is not None and container.is_running:
            if output.exit_code:
                raise output.error("CannotStopContainerError")
            await self._see_end(key, container)

    async def _see_end(self, key: NodeKey, container: parse.Container) -> None:
        try:
            async with asyncio.timeout(self._cli.call_seconds):
                await self._wait_for_end(key, container)
        except TimeoutError:
            raise _transient(f"CannotStopContainerError: {key.name} survives SIGKILL") from None

    async def _end_directly(self, key: NodeKey, failure: EngineError, grace_seconds: float) -> None:
        """End a container that its engine did not, as one that is paused or lost its supervisor.
        Raises what the engine said and what became of it, unless the engine now says that the
        container has ended."""
        error = await self._killed_directly(key, failure, grace_seconds)
        if failure.error_class is ErrorClass.ENGINE_GONE or isinstance(failure, EngineHangs):
            raise error from failure
        container = await self._records.of(key)
        if container is not None and container.is_running:
            await self._see_end(key, container)
        logger.warning("%s", error.reason)

    async def _killed_directly(
        self, key: NodeKey, failure: EngineError, grace_seconds: float = 0
    ) -> EngineError:
        """End all processes of the node without the engine; its failure, with what became of
        them."""
        if not self._survivors.knows(key):
            await self._identify(key)
        try:
            if grace_seconds > 0:
                await self._survivors.terminate(key, grace_seconds)
            count = await self._survivors.kill(key)
        except StillThere as error:
            done = str(error)
        else:
            found = "runs" if self._survivors.knows(key) else "was found"
            done = {
                0: f"nothing of it {found}",
                1: "its one process was killed directly",
            }.get(count, f"its {count} processes were killed directly")
        return EngineError(failure.error_class, f"{failure.reason}; {done}")

    async def remove(self, key: NodeKey) -> None:
        """The engine's `rm`, and proof: no container, no process, no port is left."""
        self._just_started.pop(key, None)
        await self._keepers.forget(key)
        try:
            container = None
            if not self._survivors.knows(key):
                await self._identify(key)
                container = await self._records.of(key)
            await self._survivors.note_ports(key)
            if container is not None and container.is_lost:
                await self._survivors.kill(key)
            await self._remove_container(key)
            if await self._outwait(key):
                # It came after all.
                await self._remove_container(key)
            await self._survivors.prove_gone(key)
            self._keepers.dismiss(key)
        except EngineError as failure:
            raise await self._killed_directly(key, failure) from failure
        except (OSError, StillThere) as error:
            raise _transient(f"CannotRemoveContainerError: {error}") from None
        await self._volumes.remove(key)
        await self._copies.end(key.name)

    async def _remove_container(self, key: NodeKey) -> None:
        if await self._records.is_anothers(key):
            return
        output = await self._cli.call_through(argv.remove(key, self._dialect.remove))
        left = await self._records.of(key)
        if left is not None:
            evidence = f"{key.name} is {left.status}, pid {left.pid}"
            error = output.error("CannotRemoveContainerError")
            raise EngineError(error.error_class, f"{error.reason} ({evidence})")

    async def list_managed(self) -> list[Managed]:
        """By label; containers that go meanwhile are left out."""
        begun = await asyncio.to_thread(coming, self._site.host_id)
        found = await self._records.labelled()
        managed = {entry.key: entry for entry in begun}
        managed |= {each.key: each for entry in found if (each := entry.managed) is not None}
        # Of another host's, which may be on this machine too, nothing is opened.
        own = {key.name for key in managed}
        keepers = await asyncio.to_thread(nodes.keepers)
        self._keepers.find_all({name: pid for name, pid in keepers.items() if name in own})
        return sorted(managed.values(), key=lambda entry: (entry.key.attempt, entry.key))

    async def close(self) -> None:
        """End the copying of output; the next engine goes on with it."""
        await self._copies.close()
        await self._keepers.close()

    async def _run(self, key: NodeKey, spec: ContainerSpec) -> Output:
        secrets = dict.fromkeys(secret.name for secret in spec.secrets)
        environment = argv.split_environment(spec.environment, secrets)
        if environment.refused:
            raise EngineError(
                ErrorClass.PERMANENT,
                f"CannotCreateContainerError: {', '.join(environment.refused)}: a secret with "
                "control characters cannot be passed under this name",
            )
        image_command = await self._images.command(spec.image) if spec.gate else None
        await self._volumes.make(key, spec)
        # In memory, so that no secret is left on a disk whatever happens to the agent.
        env_file = os.memfd_create("environment")
        try:
            os.write(env_file, environment.file.encode())
            self._keepers.check(key)
            output = await self._cli.call_through(
                argv.run(
                    key,
                    spec,
                    self._site,
                    self._dialect,
                    max(self._spool_limit_bytes, LEAST_LOG_BYTES),
                    f"/proc/self/fd/{env_file}",
                    environment,
                    image_command,
                ),
                environment=dict(environment.inherited),
                pass_fds=(env_file,),
                directory=self._spool(key),
            )
        finally:
            os.close(env_file)
        if output.exit_code == 0:
            self._remember(key, output.stdout)
        # An engine may quote what it does not understand.
        values = [value for name, value in spec.environment if name in secrets]
        return replace(output, stderr=parse.without(values, output.stderr))

    def _remember(self, key: NodeKey, printed: str) -> None:
        """The id is the last line, as a configuration can make the engine say more. Without one
        nothing is known by its id until the engine is asked by name."""
        try:
            self._survivors.remember(key, ids.container_id(printed.rstrip().rpartition("\n")[2]))
        except ids.Malformed as error:
            logger.warning("%s run: node=%s %s", self.name, key.name, error)

    def _spool(self, key: NodeKey) -> Path:
        """The node's spool, which is made if need be."""
        directory = self._spool_dir / key.name
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _transient(f"CannotStartContainerError: {error}") from error
        return directory

    def _copy(self, key: NodeKey, container: parse.Container) -> OutputCopy:
        """The task that copies the container's output, started if there is none."""
        try:
            return self._copies.begin(key.name, Path(container.log_path))
        except OSError as error:
            raise _transient(f"CannotStartContainerError: {error}") from error


def _transient(reason: str) -> EngineError:
    return EngineError(ErrorClass.TRANSIENT, reason)
