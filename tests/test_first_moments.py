"""A daemon that is stopped while it still starts ends well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUCK = "import os, signal\nos.write(1, b'importing')\nsignal.pause()\n"


@pytest.mark.parametrize("daemon", ["coordinator", "agent"])
def test_sigterm_while_everything_is_imported(daemon: str, tmp_path: Path) -> None:
    # A library of the daemons whose import takes as long as the test wants.
    (tmp_path / "grpc.py").write_text(STUCK)
    path = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "proto")))
    with subprocess.Popen(
        [sys.executable, "-m", daemon],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(9) == b"importing"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
