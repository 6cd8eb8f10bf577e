"""The podman engine: the podman command line, 4.3 and later.

Podman has no daemon: its `wait` and `logs --follow` look four times a second. So the end is seen
through a pidfd of conmon, the container's own supervisor, and output is read through inotify from
the file that conmon writes. Between calls no process of ours runs.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent.core.assignment import NodeKey
from agent.engine import parse
from agent.engine.argv import Dialect
from agent.engine.container import ContainerEngine
from agent.engine.port import EngineError, ErrorClass
from agent.host.pidfd import ended


class PodmanEngine(ContainerEngine):
    """See `container.ContainerEngine`."""

    _dialect = Dialect(
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
            await self._survivors.gone(key)
            return
        try:
            # Asked after opening: an old pid may be another process' by now.
            if _supervises(container):
                await ended(pidfd)
            else:
                await self._survivors.gone(key)
        finally:
            os.close(pidfd)

    def _is_orphan(self, container: parse.Container) -> bool:
        """Podman itself does not look: to it a container without conmon runs for ever."""
        return not _supervises(container)


def _supervises(container: parse.Container) -> bool:
    """Whether the container's conmon is there."""
    try:
        arguments = Path(f"/proc/{container.supervisor_pid}/cmdline").read_bytes()
    except OSError:
        return False
    return container.container_id.encode() in arguments
