"""The command `muster-coordinator`, also `python -m coordinator`.

A third of a second goes by while everything is imported. A SIGTERM that comes meanwhile ends the
command with status 0, as a later one does, which `main` hears. A SIGABRT, which is how systemd
ends a daemon whose loop hangs, writes down where each thread was.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys


def main() -> int:
    faulthandler.enable()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from coordinator.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
