"""Runs a daemon with a wall clock that is wrong until a file says otherwise. Run, not imported.

wrong_clock.py SECONDS RIGHT MODULE [ARG...]    the wall clock is SECONDS ahead until RIGHT exists
"""

import os
import runpy
import sys
import time


def main() -> None:
    ahead_seconds, right, module, *args = sys.argv[1:]
    ahead_ns = int(ahead_seconds) * 1_000_000_000
    real = time.time_ns
    time.time_ns = lambda: real() + (0 if os.path.exists(right) else ahead_ns)
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
