"""Waiting for the end of a process that is not a child, without polling, through Linux' pidfd.

Must not import anything of `agent`.
"""

from __future__ import annotations

import asyncio


async def ended(pidfd: int, timeout_seconds: float | None = None) -> bool:
    """Wait for the process of `pidfd` to end; False when it has not after `timeout_seconds`."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(pidfd, readable.set)
    try:
        async with asyncio.timeout(timeout_seconds):
            await readable.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
