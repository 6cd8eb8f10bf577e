"""Runs a script as an agent without root: it may not look into other users' processes, and a
program that a set-uid one has made another user's is not its to signal.

A test that runs as root gives up all capabilities and keeps its uid, so that the script can read
this Python; a set-uid program then belongs to somebody else who is not root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OTHER_UID = 65534

_WITHOUT_RIGHTS = (
    *("setpriv", "--bounding-set=-all", "--inh-caps=-all"),
    *(f"--regid={OTHER_UID}", "--clear-groups", "--"),
)
_HIDDEN = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -t proc -o hidepid=2 proc /proc; exec "$@"',
    "-",
)


class Script:
    """A running script that talks in lines of JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def says(self) -> Any:
        """What it prints next. AssertionError when it has ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"ended with {self._process.wait()}"
        return json.loads(line)

    def go_on(self) -> None:
        """Give it the line that it waits for."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


@contextlib.contextmanager
def unprivileged(source: str, *arguments: str, hidden: bool = False) -> Iterator[Script]:
    """Run Python code in a process of its own; its errors go where the test's go. With `hidden`
    its /proc has no processes but its own."""
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [*(_HIDDEN if hidden else ()), *_WITHOUT_RIGHTS, sys.executable, "-c", source, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        try:
            yield Script(process)
        finally:
            process.kill()


def copied(program: str, to: Path, mode: int, uid: int = 0) -> Path:
    """A copy of a program with this owner and mode, set-uid for example."""
    found = shutil.which(program)
    assert found is not None
    shutil.copyfile(found, to)
    os.chown(to, uid, uid)
    to.chmod(mode)
    return to
