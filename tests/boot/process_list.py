"""What runs on a machine by its own list of processes, whatever its daemons believe."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tests.boot.machine import Machine


def nodes_on(machine: Machine) -> dict[str, list[int]]:
    """`JOB#INDEX.ATTEMPT` -> the living processes that have these in their environment, by the
    machine's own numbers. Nothing runs on a machine that is off."""
    found: dict[str, list[int]] = defaultdict(list)
    if machine.is_on:
        for entry in machine.path("/proc").iterdir():
            if entry.name.isdigit() and (name := _node(entry)):
                found[name].append(int(entry.name))
    return {name: sorted(pids) for name, pids in found.items()}


def left_on(machine: Machine) -> list[int]:
    """All processes of nodes, and the shims that own such of the process engine."""
    shims = [
        int(entry.name)
        for entry in machine.path("/proc").iterdir()
        if entry.name.isdigit() and b"agent.engine.shim" in _read(entry / "cmdline")
    ]
    return [*shims, *(pid for pids in nodes_on(machine).values() for pid in pids)]


def _read(file: Path) -> bytes:
    """Nothing of a process that has ended."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _node(process: Path) -> str | None:
    pairs = _read(process / "environ").decode(errors="replace").split("\0")
    environment = dict(pair.partition("=")[::2] for pair in pairs)
    if "AWS_BATCH_JOB_ID" not in environment or "AWS_BATCH_JOB_ATTEMPT" not in environment:
        return None
    return f"{environment['AWS_BATCH_JOB_ID']}.{environment['AWS_BATCH_JOB_ATTEMPT']}"
