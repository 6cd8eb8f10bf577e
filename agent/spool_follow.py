"""Following a spool as it grows.

Apart from `spool.py` because the shim imports that one and must not pay for asyncio.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator
from pathlib import Path

from agent import spool
from agent.host.inotify import DirectoryWatch

_CHUNK_BYTES = 64 * 1024


async def follow(directory: Path, offset: int) -> AsyncGenerator[tuple[int, bytes], None]:
    """Yield (offset, bytes) from `offset` on, waiting for more, until the spool is finished and
    read to its end.

    An offset larger than the last one plus its bytes means that what lay between was dropped.
    Raises FileNotFoundError when there is no such spool, or it is removed before its end was read,
    and OSError when it cannot be read. Close it (`aclosing`) to stop early.
    """
    with DirectoryWatch(directory) as watch:
        while True:
            # Finished is asked before reading: asked after it, bytes written in between are lost.
            finished = spool.is_finished(directory)
            actual, data = spool.read(directory, offset, _CHUNK_BYTES)
            if data:
                yield actual, data
                offset = actual + len(data)
            elif finished and spool.is_finished(directory):
                # Still finished after the read: whoever deletes a spool takes its mark away first,
                # so nothing was missing when it was read.
                return
            elif _is_gone(directory):
                raise FileNotFoundError(errno.ENOENT, "the output was deleted", str(directory))
            else:
                await watch.wait()


def _is_gone(directory: Path) -> bool:
    return not directory.is_dir()
