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


async def launched(
    command: Sequence[str],
    *,
    limit_seconds: float,
    stdin: int = asyncio.subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a launcher to its end, in a session of its own: its exit code, and what it says on
    stderr. `environment` takes the place of the agent's own. OSError when it cannot be run;
    TimeoutError, which is an OSError, when it does not end in time. A launcher that does not end,
    or whose caller is cancelled, is killed; what it has left behind goes on."""
    # Not a pipe: what it leaves behind may hold that for longer than a launcher that is killed.
    stderr = os.memfd_create("stderr")
    try:
        launcher = await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stderr,
            env=environment,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(limit_seconds):
                exit_code = await launcher.wait()
        except TimeoutError:
            raise TimeoutError(f"no start within {limit_seconds:.0f} s") from None
        finally:
            if launcher.returncode is None:
                launcher.kill()
                await launcher.wait()
        return exit_code, os.pread(stderr, 4096, 0).decode(errors="replace")
    finally:
        os.close(stderr)
