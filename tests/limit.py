"""How long a test may take: past it, the test fails with the stack of every thread and task.

The alarm interrupts whatever the main thread does, so a test that hangs costs its limit and not
the run. `faulthandler_timeout` is behind it for code that never comes back to Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType

import pytest

DEFAULT_SECONDS = 60.0

_FRAMES = 12


def seconds_for(item: pytest.Item) -> float:
    marker = item.get_closest_marker("limit")
    return float(marker.args[0]) if marker else DEFAULT_SECONDS


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Fail when the body takes longer."""

    def expire(_signal: int, frame: FrameType | None) -> None:
        pytest.fail(f"took longer than {seconds:g} s\n{_stacks(frame)}", pytrace=False)

    previous = signal.signal(signal.SIGALRM, expire)
    # Repeated, as a task that is not the test's own may catch the first one and keep it.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _stacks(frame: FrameType | None) -> str:
    out = io.StringIO()
    frames = sys._current_frames()
    for thread in threading.enumerate():
        out.write(f"--- thread {thread.name}\n")
        stack = frame if thread is threading.main_thread() else frames.get(thread.ident or 0)
        out.writelines(traceback.format_stack(stack)[-_FRAMES:] if stack else [])
    with contextlib.suppress(RuntimeError):  # no loop runs
        for task in asyncio.all_tasks():
            out.write(f"--- task {task.get_name()}\n")
            task.print_stack(limit=_FRAMES, file=out)
    return out.getvalue()
