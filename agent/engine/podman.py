"""The podman engine: the podman command line, 4.3 and later.

Podman has no daemon: its `wait` and `logs --follow` look four times a second. So the end is seen
through a pidfd of conmon, the container's own supervisor, and output is read through inotify from
the file that conmon writes. Between calls no process of ours runs.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable
from pathlib import Path

from agent.core.assignment import NodeKey
from agent.engine import argv, parse
from agent.engine.argv import Dialect
from agent.engine.container import ContainerEngine
from agent.engine.port import EngineError, ErrorClass
from agent.host.inotify import DirectoryWatch
from agent.host.pidfd import ended

_READ_BYTES = 256 * 1024


class PodmanEngine(ContainerEngine):
    """See `container.ContainerEngine`."""

    _dialect = Dialect(
        # Podman would hand the agent's proxy variables to the job, whose environment is complete.
        create=("--log-driver=k8s-file", "--http-proxy=false"),
        # Podman alone would put writable tmpfs on /tmp, /run and /var/tmp.
        read_only=("--read-only", "--read-only-tmpfs=false"),
        # Without it `rm --force` grants a running container ten seconds more.
        remove=("--time=0",),
        gpus=lambda ids: [f"--device=nvidia.com/gpu={each}" for each in ids],
    )

    def _login_flags(self, directory: Path) -> tuple[list[str], list[str]]:
        return [], ["--authfile", str(directory / "config.json")]

    @property
    def name(self) -> str:
        """`podman`."""
        return "podman"

    async def probe(self) -> str:
        """Podman's version."""
        output = await self._cli.call(["version", "--format", "{{.Client.Version}}"])
        if output.exit_code:
            raise EngineError(
                ErrorClass.ENGINE_GONE, output.error("EngineNotReachableError").reason
            )
        return output.stdout.strip()

    async def _wait_for_end(self, key: NodeKey, container: parse.Container) -> None:
        # Conmon ends when it has recorded the end of its container and all its output.
        try:
            pidfd = os.pidfd_open(container.supervisor_pid)
        except OSError:
            await self._look_for_end(key)
            return
        try:
            # Asked again after opening: an old pid may be another process' by now.
            now = await self._inspect(key)
            if now is not None and now.is_running:
                await ended(pidfd)
        finally:
            os.close(pidfd)

    async def _look_for_end(self, key: NodeKey) -> None:
        """By podman's own means: for a container whose conmon was killed, or is not to be seen."""
        output = await self._cli.call(argv.wait(key), limit_seconds=math.inf)
        if output.exit_code and not parse.says_absent(output.stderr):
            raise output.error("CannotInspectContainerError")

    async def _copy_output(
        self,
        key: NodeKey,
        container: parse.Container,
        write: Callable[[bytes], None],
        end: asyncio.Event,
    ) -> None:
        try:
            with DirectoryWatch(Path(container.log_path).parent) as watch:
                log = os.open(container.log_path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    await _copy_log(log, write, watch, end)
                finally:
                    os.close(log)
        except OSError as error:
            raise EngineError(ErrorClass.TRANSIENT, f"podman's log: {error}") from error


async def _copy_log(
    fd: int, write: Callable[[bytes], None], watch: DirectoryWatch, end: asyncio.Event
) -> None:
    at_end = asyncio.ensure_future(end.wait())
    position = 0
    try:
        while True:
            # Asked before reading: conmon has written all it will once the end is known.
            has_ended = end.is_set()
            output, length = parse.k8s_file_output(os.pread(fd, _READ_BYTES, position))
            position += length
            if length:
                write(output)
                # A long log of an earlier agent's container must not hold up the loop.
                await asyncio.sleep(0)
                continue
            if has_ended:
                return
            change = asyncio.ensure_future(watch.wait())
            try:
                await asyncio.wait([change, at_end], return_when=asyncio.FIRST_COMPLETED)
            finally:
                change.cancel()
    finally:
        at_end.cancel()
