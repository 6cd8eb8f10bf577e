"""An asyncio loop on the world's heap, for the coroutines that a simulated process runs.

So streams with readers are served by the daemons' own code. The loop lives as long as its process
does, and stands still while that is paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVarTuple

Ts = TypeVarTuple("Ts")
Later = Callable[[int, Callable[[], None]], None]
"""Calls back after so many milliseconds, unless the process is dead by then."""


class SimLoop(asyncio.BaseEventLoop):
    def __init__(self, clock_ms: Callable[[], int], later: Later) -> None:
        super().__init__()
        self._clock_ms = clock_ms
        self._later = later
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._soon: dict[asyncio.Handle, None] = {}
        """What runs next; timers are not among them."""

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Nobody awaits it, so what it raises breaks the seed off."""

        def ended(task: asyncio.Task[None]) -> None:
            del self._tasks[task]
            if not task.cancelled():
                task.result()

        task = self.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(ended)
        return task

    def close(self) -> None:
        """The process is gone. Its coroutines are unwound, since nothing else ever ends them; what
        they still send goes nowhere."""
        # In their order: what they send while they are unwound draws numbers.
        for task in self._tasks:
            task.cancel()
        while self._soon:
            self._run_soon(next(iter(self._soon)))
        super().close()

    # what asyncio asks of a loop

    def time(self) -> float:
        return self._clock_ms() / 1000

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._soon[handle] = None
        self._later(0, lambda: self._run_soon(handle))
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        delay_ms = max(int((when - self.time()) * 1000) + 1, 0)
        self._later(delay_ms, lambda: self._run(handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is looked at when it is due."""

    def call_exception_handler(self, context: Any) -> None:
        """What a callback raises breaks the seed off."""
        if (error := context.get("exception")) is not None:
            raise error

    def _run_soon(self, handle: asyncio.Handle) -> None:
        if handle in self._soon:
            del self._soon[handle]
            self._run(handle)

    def _run(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(None)
