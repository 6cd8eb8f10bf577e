"""The docker engine: the docker command line, 20.10 and later.

Waiting is a client process per container (`docker wait`), which the daemon pushes to; output is
read from the daemon's file. The container itself is the daemon's.
"""

from __future__ import annotations

import math
from pathlib import Path

from agent.core.assignment import NodeKey
from agent.engine import argv, parse
from agent.engine.argv import Dialect
from agent.engine.container import ContainerEngine


class DockerEngine(ContainerEngine):
    """See `container.ContainerEngine`."""

    # All that a daemon's own `log-opts` could change about the file that is read.
    _dialect = Dialect(
        version="{{.Server.Version}}",
        run=(
            *("--log-driver=json-file", "--log-opt=max-file=3"),
            *("--log-opt=mode=blocking", "--log-opt=compress=false"),
        ),
        read_only=("--read-only",),
        remove=(),
        # The value is read as CSV, so what has commas stands in quotes.
        gpus=lambda ids: [f'--gpus="device={",".join(ids)}"'],
        decode_log=parse.json_file_output,
    )

    def _login_flags(self, directory: Path) -> tuple[list[str], list[str]]:
        return ["--config", str(directory)], []

    @property
    def name(self) -> str:
        """`docker`."""
        return "docker"

    async def _wait_for_end(self, key: NodeKey, container: parse.Container) -> None:
        output = await self._cli.call(argv.wait(key), limit_seconds=math.inf)
        if output.exit_code and not parse.says_absent(output.stderr):
            raise output.error("CannotInspectContainerError")
