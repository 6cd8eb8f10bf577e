"""The podman engine: the podman command line, 4.3 and later.

Podman has no daemon: its `wait` and `logs --follow` look four times a second. So the end is seen
through a pidfd of conmon, the container's own supervisor, and output is read through inotify from
the file that conmon writes. Between calls no process of ours runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.core.assignment import NodeKey
from agent.engine import own_program, parse
from agent.engine.argv import Dialect
from agent.engine.container import ContainerEngine
from agent.engine.port import EngineError
from agent.host import containers, processes
from agent.host.ids import ContainerId
from agent.host.pidfd import ended

logger = logging.getLogger(__name__)

_SOCKETS = "from agent.host.ports import sockets; print(*sockets(map(int, sys.argv[2:])))"


class PodmanEngine(ContainerEngine):
    """See `container.ContainerEngine`."""

    _dialect = Dialect(
        version="{{.Client.Version}}",
        # Podman would hand the agent's proxy variables to the job, whose environment is complete.
        run=("--log-driver=k8s-file", "--http-proxy=false"),
        # Podman alone would put writable tmpfs on /tmp, /run and /var/tmp.
        read_only=("--read-only", "--read-only-tmpfs=false"),
        # Without it `rm --force` grants a running container ten seconds more.
        remove=("--time=0",),
        gpus=lambda ids: [f"--device=nvidia.com/gpu={each}" for each in ids],
        decode_log=parse.k8s_file_output,
    )

    def _login_flags(self, directory: Path) -> tuple[list[str], list[str]]:
        return [], ["--authfile", str(directory / "config.json")]

    @property
    def name(self) -> str:
        """`podman`."""
        return "podman"

    async def _wait_for_end(self, key: NodeKey, container: parse.Container) -> None:
        # Conmon ends when it has recorded the end of its container and all its output.
        supervisor = await asyncio.to_thread(_supervisor_of, container)
        if supervisor is not None:
            await _outlived(supervisor, container)
        if supervisor is None or container.is_lost:
            await self._survivors.gone(key)

    def _is_orphan(self, container: parse.Container) -> bool:
        """Podman itself does not look: to it a container without conmon runs for ever."""
        return _supervisor_of(container) is None

    def _supervised(self, key: NodeKey) -> ContainerId | None:
        for pid in processes.pids():
            found = containers.supervised(processes.arguments(pid), key.name)
            if found is not None and processes.may_be_an_engines(pid):
                return found
        return None

    async def _look(self, pids: Sequence[int]) -> Iterable[int] | None:
        """From within the user namespace of a rootless podman, in which they are its own."""
        if os.geteuid() == 0:
            return None
        try:
            output = await self._cli.call(
                ["unshare", *own_program.command_line(_SOCKETS, *map(str, pids))]
            )
            return [int(word) for word in output.stdout.split()] if not output.exit_code else None
        except (EngineError, ValueError) as error:
            logger.warning("podman unshare: %s", error)
            return None


def _supervisor_of(container: parse.Container) -> int | None:
    """The pid of the container's conmon, which a lost record no longer has; None without one."""
    known = [container.supervisor_pid] if container.supervisor_pid else processes.pids()
    return next((pid for pid in known if _supervises(pid, container)), None)


def _supervises(pid: int, container: parse.Container) -> bool:
    return containers.supervises(
        processes.arguments(pid), container.container_id
    ) and processes.may_be_an_engines(pid)


async def _outlived(supervisor: int, container: parse.Container) -> None:
    """Return when the container's conmon has ended."""
    try:
        pidfd = os.pidfd_open(supervisor)
    except ProcessLookupError:
        return
    try:
        # Asked after opening: the pid may be another process' by now.
        if _supervises(supervisor, container):
            await ended(pidfd)
    finally:
        os.close(pidfd)
