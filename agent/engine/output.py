"""The copying of one container's output from its engine to its spool.

It goes on where the spool ends, so that an agent's restart loses and repeats nothing. Must not
import a certain engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agent import spool

_DRAIN_SECONDS = 30.0
"""How long output may still come after the end of its container."""


class OutputCopy:
    """The copying of one container's output to its spool."""

    def __init__(
        self,
        writer: spool.SpoolWriter,
        copy_output: Callable[[Callable[[bytes], None], asyncio.Event], Awaitable[None]],
    ) -> None:
        self._writer = writer
        self._skip_bytes = writer.end_offset
        self._end = asyncio.Event()
        self._task = asyncio.ensure_future(copy_output(self._write, self._end))

    @property
    def has_failed(self) -> bool:
        """Whether it stopped before the end of the output."""
        return self._task.done() and (self._task.cancelled() or self._task.exception() is not None)

    async def drained(self) -> None:
        """Return when all output of the container, which has ended, is written. What cannot be
        read is said in the spool itself, for whoever misses it."""
        self._end.set()
        done, _ = await asyncio.wait([self._task], timeout=_DRAIN_SECONDS)
        if not done:
            why = f"the engine did not come to its end in {_DRAIN_SECONDS:.0f} s"
        elif self.has_failed:
            why = str(self._task.exception())
        else:
            why = ""
        if why:
            self._writer.write(f"\nmuster: output may be missing: {why}\n".encode())
        await self.close()

    async def close(self) -> None:
        """Stop copying."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._writer.close()

    def _write(self, data: bytes) -> None:
        new = data[self._skip_bytes :]
        self._skip_bytes -= len(data) - len(new)
        self._writer.write(new)
