"""Runs a daemon whose wall clock is as wrong as a file says. Run, not imported.

wrong_clock.py AHEAD MODULE [ARG...]    the wall clock is ahead by the seconds that are in the file
                                        AHEAD, and right while there is no such file
"""

import runpy
import sys
import time


def main() -> None:
    file, module, *args = sys.argv[1:]
    real = time.time_ns

    def wrong() -> int:
        try:
            with open(file) as ahead:
                return real() + int(ahead.read()) * 1_000_000_000
        except FileNotFoundError:
            return real()

    time.time_ns = wrong
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
