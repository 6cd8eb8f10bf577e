"""Waiting for a condition: the only place in the tests that lets time pass.

Where the thing itself can be awaited (a stream, a process, an event), await it. This is for what
tells nobody, such as another process's files, and for conditions over several things.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

_PAUSE_SECONDS = 0.01


@overload
async def eventually(
    condition: Callable[[], Awaitable[T | None]],
    deadline_seconds: float,
    describe: Callable[[], object],
) -> T: ...
@overload
async def eventually(
    condition: Callable[[], T | None],
    deadline_seconds: float,
    describe: Callable[[], object],
) -> T: ...
async def eventually(
    condition: Callable[[], object],
    deadline_seconds: float,
    describe: Callable[[], object],
) -> object:
    """The first true value of `condition`, which is asked again and again and may be async.

    AssertionError with `describe()`, the state that explains what is missing, when there is none
    within the deadline. An exception of `condition` ends the wait.
    """
    try:
        async with asyncio.timeout(deadline_seconds) as deadline:
            while True:
                value = condition()
                if inspect.isawaitable(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(_PAUSE_SECONDS)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise AssertionError(_expired(deadline_seconds, describe)) from None


def eventually_blocking(
    condition: Callable[[], T | None],
    deadline_seconds: float,
    describe: Callable[[], object],
) -> T:
    """`eventually` for a test without an event loop."""
    end = time.monotonic() + deadline_seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(_expired(deadline_seconds, describe))
        time.sleep(_PAUSE_SECONDS)
    return value


def _expired(deadline_seconds: float, describe: Callable[[], object]) -> str:
    return f"not true within {deadline_seconds:g} s; now:\n{describe()}"
