"""The standard input of a helper program: how it is told things, and that its parent has gone."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator


async def stdin_lines() -> AsyncIterator[str]:
    """Ends when the parent has closed its end or has died, however it died."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async for line in reader:
        yield line.decode().strip()
