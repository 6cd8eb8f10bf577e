"""Runs functions of this package as programs of their own: in a fresh Python that reads neither
the environment nor site-packages, since a shim and a keeper must start fast.

Imports nothing of this project.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def command_line(code: str, *arguments: str) -> tuple[str, ...]:
    """Of a Python that runs `code`, which finds `arguments` in sys.argv[2:]. The code imports a
    module and calls a function of it: a script would be compiled anew at every start."""
    found = f"import sys\nsys.path.append(sys.argv[1])\n{code}"
    return (sys.executable, "-I", "-S", "-c", found, str(_PACKAGE_ROOT), *arguments)


class Launcher:
    """A program that returns once what it leaves behind stands, in a session of its own."""

    def __init__(self, process: asyncio.subprocess.Process, stderr: int) -> None:
        self._process = process
        self._stderr = stderr

    @classmethod
    async def begin(
        cls, command: Sequence[str], *, stdin: int, environment: Mapping[str, str] | None
    ) -> Launcher:
        """Start it; `finish` or `abandon` comes next. OSError when it cannot be run."""
        # Not a pipe: what it leaves behind may hold that for longer than a launcher that is killed.
        stderr = os.memfd_create("stderr")
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=stdin,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            os.close(stderr)
            raise
        return cls(process, stderr)

    async def finish(self, limit_seconds: float) -> tuple[int, str]:
        """Its exit code, and what it says on stderr, once it has ended. TimeoutError, which is an
        OSError, when it does not end in time; then, and when its caller is cancelled, it is
        killed, and what it has left behind goes on."""
        try:
            async with asyncio.timeout(limit_seconds):
                exit_code = await self._process.wait()
            return exit_code, os.pread(self._stderr, 4096, 0).decode(errors="replace")
        except TimeoutError:
            raise TimeoutError(f"no start within {limit_seconds:.0f} s") from None
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Kill it, if it has not ended. Idempotent."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1


async def launched(
    command: Sequence[str],
    *,
    limit_seconds: float,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a launcher to its end, as `Launcher.finish`. `environment` takes the place of the agent's
    own. OSError when it cannot be run."""
    nothing = asyncio.subprocess.DEVNULL
    launcher = await Launcher.begin(command, stdin=nothing, environment=environment)
    return await launcher.finish(limit_seconds)
