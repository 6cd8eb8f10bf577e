"""Whether the machine itself goes down. Must not import anything of `agent`."""

from __future__ import annotations

import subprocess
from pathlib import Path

_ASK_SECONDS = 2.0


def is_going_down() -> bool:
    """Whether this machine is being switched off or rebooted, as far as its systemd says. False
    where there is none, or where it does not answer: then an operator has to say so."""
    if not Path("/run/systemd/system").is_dir():
        return False
    try:
        asked = subprocess.run(
            ["systemctl", "is-system-running"],
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.stdout.strip() == "stopping"
