"""`python -m bench [SECTION...]`: Muster's speed as ratios to floors measured in the same run.

A floor is the least that the work could cost on this machine with the same tools: the same
processes started by a bare loop, the same messages pushed by a bare grpc.aio server. Ratios can be
compared between machines; seconds cannot.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

from bench import agents, containers, gang, heartbeat, hostile, memory

SECTIONS: dict[str, Callable[[Path], Awaitable[None]]] = {
    "gang": gang.run,
    "agents": agents.run,
    "heartbeat": heartbeat.run,
    "memory": memory.run,
    "containers": containers.run,
    "hostile": hostile.run,
}


def main() -> int:
    """130 when it was interrupted; everything it started has ended either way."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("section", nargs="*", help=f"of {', '.join(SECTIONS)}; default: all")
    chosen = parser.parse_args().section or list(SECTIONS)
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, "
        f"grpcio {version('grpcio')}, Linux {platform.release()}"
    )
    try:
        asyncio.run(_run(chosen))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted", file=sys.stderr)
        return 130
    return 0


async def _run(chosen: list[str]) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="muster-bench-") as directory:
            await SECTIONS[name](Path(directory))


if __name__ == "__main__":
    sys.exit(main())
