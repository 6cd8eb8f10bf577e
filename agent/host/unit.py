"""How this agent's own systemd unit fares. Must not import anything of `agent`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

_ASK_SECONDS = 2.0


def automatic_restarts(control_group: Path = Path("/proc/self/cgroup")) -> int:
    """How often systemd has started this agent again by itself since a person last started it. 0
    where systemd did not start it, or does not answer."""
    unit = re.search(r"/([^/\n]+\.service)$", control_group.read_text(), re.MULTILINE)
    if unit is None:
        return 0
    try:
        asked = subprocess.run(
            ["systemctl", "show", "--property=MainPID,NRestarts", unit[1]],
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    shown = dict(re.findall(r"(?m)^(\w+)=(\d+)$", asked.stdout))
    # Who starts an agent by hand in a terminal is in the unit of the session.
    return int(shown.get("NRestarts", 0)) if shown.get("MainPID") == str(os.getpid()) else 0
