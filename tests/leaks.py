"""What a test left behind: processes, files, sockets, threads, asyncio tasks.

A snapshot before, a snapshot after; what is new must go away by itself within SETTLE_SECONDS, as
gRPC closes its sockets and a killed process ends a moment later. Processes are found as
descendants and, once orphaned, by a variable that the test run puts into its environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.wait import eventually, eventually_blocking

SETTLE_SECONDS = 3.0

RUN_VARIABLE = "MUSTER_TEST_RUN"

# gRPC keeps these for its own threads, more or fewer as it likes. A leaked event loop is seen
# all the same, by its socket pair.
_GRPC_OWN = {"anon_inode:[eventpoll]", "anon_inode:[eventfd]"}


@dataclass(frozen=True)
class Snapshot:
    """All that this machine runs and this process holds at one moment."""

    pids: frozenset[int]
    files: frozenset[tuple[int, str]]
    threads: frozenset[threading.Thread]

    def __or__(self, other: Snapshot) -> Snapshot:
        return Snapshot(
            pids=self.pids | other.pids,
            files=self.files | other.files,
            threads=self.threads | other.threads,
        )

    def __sub__(self, other: Snapshot) -> Snapshot:
        return Snapshot(
            pids=self.pids - other.pids,
            files=self.files - other.files,
            threads=self.threads - other.threads,
        )

    def new_since(self, before: Snapshot) -> list[str]:
        """One line for each thing of ours that was not there before."""
        lines = [describe(process) for process in self.new_processes(before)]
        lines += [f"file {fd}: {target}" for fd, target in sorted(self.files - before.files)]
        return lines + [f"thread {thread.name}" for thread in self.threads - before.threads]

    def new_processes(self, before: Snapshot) -> list[psutil.Process]:
        found = []
        for pid in sorted(self.pids - before.pids):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if _is_ours(process):
                    found.append(process)
        return found


NOTHING = Snapshot(pids=frozenset(), files=frozenset(), threads=frozenset())


def snapshot() -> Snapshot:
    return Snapshot(
        pids=frozenset(psutil.pids()),
        files=frozenset(_open_files()),
        threads=frozenset(threading.enumerate()),
    )


def left_behind(before: Snapshot) -> list[str]:
    """What is new and stays. Its processes are killed, so that only one test pays for them.

    Garbage is collected here, so that what its finalizers complain of hits the test that made it.
    """
    gc.collect()
    if not snapshot().new_since(before):
        return []

    def all_gone() -> bool:
        gc.collect()
        return not snapshot().new_since(before)

    with contextlib.suppress(AssertionError):
        eventually_blocking(all_gone, SETTLE_SECONDS, lambda: "")
    after = snapshot()
    lines = after.new_since(before)
    for process in after.new_processes(before):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return lines


async def tasks_left_behind(before: set[asyncio.Task[object]]) -> list[str]:
    """Tasks of this loop that are new and do not end by themselves."""

    def new() -> set[asyncio.Task[object]]:
        return asyncio.all_tasks() - before - {asyncio.current_task()}

    with contextlib.suppress(AssertionError):
        await eventually(lambda: not new(), SETTLE_SECONDS, lambda: "")
    return sorted(f"task {task.get_name()}: {task.get_coro()}" for task in new())


def describe(process: psutil.Process) -> str:
    try:
        status = process.status()
        with contextlib.suppress(psutil.ZombieProcess):
            return f"process {process.pid} ({status}): {process.cmdline()}"
        return f"process {process.pid} ({status}): {process.name()}"
    except psutil.NoSuchProcess:
        return f"process {process.pid} (gone just now)"


def _open_files() -> list[tuple[int, str]]:
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        # The one that lists the directory is in the list, and gone.
        with contextlib.suppress(FileNotFoundError):
            target = str(descriptor.readlink())
            if target not in _GRPC_OWN:
                found.append((int(descriptor.name), target))
    return found


def _is_ours(process: psutil.Process) -> bool:
    """Whether it descends from us. An orphan does not, but has our environment; a dead one that
    is init's to reap has none any more. What runs in a PID namespace of its own is no more ours
    than what a machine runs is its owner's: it ends with who made the namespace, who is ours."""
    if _is_elsewhere(process):
        return False
    if any(parent.pid == os.getpid() for parent in process.parents()):
        return True
    mark = f"{RUN_VARIABLE}={os.environ[RUN_VARIABLE]}".encode()
    try:
        return mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def _is_elsewhere(process: psutil.Process) -> bool:
    try:
        return (
            Path(f"/proc/{process.pid}/ns/pid").readlink() != Path("/proc/self/ns/pid").readlink()
        )
    except OSError:  # it is dead, or another user's
        return False
