"""`python -m bench.probed_coordinator FLAGS...`: a coordinator that measures its own event loop.

Every callback of the loop is timed in CPU seconds of its thread, so that what other programs of
the machine do is not counted. A line on standard input asks for the longest one since the line
before; the answer is `MILLISECONDS RSS_MEGABYTES NAME`. Ends when standard input does.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from typing import Any

import psutil

from coordinator.main import main


class Probe:
    """The longest callback since it was last asked."""

    def __init__(self) -> None:
        self._longest_ns = 0
        self._name = "-"
        handle: Any = asyncio.events.Handle
        self._handle = handle

    def install(self) -> None:
        run, clock = self._handle._run, time.thread_time_ns

        collecting = [0, 0]

        def collected(phase: str, _: object) -> None:
            if phase == "start":
                collecting[0] = clock()
            else:
                collecting[1] += clock() - collecting[0]

        def timed(handle: Any) -> None:  # noqa: ANN401
            collecting[1] = 0
            begun = clock()
            run(handle)
            took = clock() - begun
            if took > self._longest_ns:
                self._longest_ns, self._name = took, _name(handle)
                if 2 * collecting[1] > took:
                    self._name += "(garbage)"

        gc.callbacks.append(collected)
        self._handle._run = timed

    def answer(self) -> str:
        longest_ns, name = self._longest_ns, self._name
        self._longest_ns, self._name = 0, "-"
        resident = psutil.Process().memory_info().rss / 1e6
        return f"{longest_ns / 1e6:.2f} {resident:.1f} {name}"


def _name(handle: Any) -> str:  # noqa: ANN401 - what is timed is private to asyncio
    callback = handle._callback
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return str(getattr(owner.get_coro(), "__qualname__", owner)).replace(" ", "")
    callback = getattr(callback, "func", callback)
    return str(getattr(callback, "__qualname__", callback)).replace(" ", "")


def _serve(probe: Probe) -> None:
    for _ in sys.stdin:
        print(probe.answer(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    made = Probe()
    made.install()
    threading.Thread(target=_serve, args=(made,), daemon=True).start()
    sys.exit(main(sys.argv[1:]))
