"""Commands for nodes in the tests, and what they said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

NODE = str(Path(__file__).with_name("node.py"))


def node(*actions: str) -> list[str]:
    """The command of a node that does these things (see node.py)."""
    return [sys.executable, "-I", "-S", NODE, *actions]


def python(program: str) -> list[str]:
    """The command of a node that runs a program text."""
    return [sys.executable, "-I", "-S", "-c", program]


def who(log: str) -> dict[str, Any]:
    """What a node said of itself in its first line."""
    said: dict[str, Any] = json.loads(log.splitlines()[0])
    return said


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def pids_of(job_id: str) -> list[int]:
    """Every process on this machine that carries a job's id in its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if f"AWS_BATCH_JOB_ID={job_id}".encode() in environ:
                found.append(int(entry.name))
    return found
