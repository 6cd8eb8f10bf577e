"""What may be left of a node on this host: its processes, and the ports that they listened on.

An engine says that a container is gone; this looks for itself, and can end what an engine leaves.
A process is a node's when its control group is that of the node's container, or below, or when it
has the node's variables, which every descendant inherits. Must not import an engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from agent.core.assignment import NodeKey
from agent.host import ports
from agent.host.pidfd import ended
from agent.host.ports import Port

DEATH_SECONDS = 10.0
"""How long a process that was sent SIGKILL may take to be gone."""

_FREEZER = Path("/sys/fs/cgroup/freezer")
"""Of control groups version 1, where what is frozen does not even die. Version 2 lets it."""


class StillThere(Exception):
    """The evidence that something of a node is left: pids, names, states, ports."""


class Survivors:
    """Looks for what is left of an engine's nodes.

    Remembers the container and the ports of each that was seen alive: once it is gone nobody else
    knows. Both are lost with this process. All methods may be cancelled and repeated.
    """

    def __init__(self) -> None:
        self._containers: dict[NodeKey, str] = {}
        self._ports: dict[NodeKey, frozenset[Port]] = {}

    def remember(self, key: NodeKey, container_id: str) -> None:
        """Of an engine that answers, for when it does not."""
        self._containers[key] = container_id

    def knows(self, key: NodeKey) -> bool:
        """Whether its container was remembered."""
        return key in self._containers

    async def pids(self, key: NodeKey) -> list[int]:
        """The node's living processes, by now."""
        return await asyncio.to_thread(pids_of, key, self._containers.get(key))

    async def note_ports(self, key: NodeKey) -> frozenset[Port]:
        """Before the end: all that the node was ever seen to listen on."""
        pids = await self.pids(key)
        now = await asyncio.to_thread(ports.listened_on_by, pids)
        noted = self._ports[key] = self._ports.get(key, frozenset()) | now
        return noted

    async def gone(self, key: NodeKey) -> None:
        """Wait, for ever if need be, until the node has no process."""
        while True:
            with _Opened() as opened:
                if not await opened.add(key, self._containers.get(key)):
                    return
                await opened.gone(math.inf)

    async def terminate(self, key: NodeKey, grace_seconds: float) -> None:
        """SIGTERM to every process, and up to `grace_seconds` for all to end."""
        with _Opened() as opened:
            await opened.add(key, self._containers.get(key))
            opened.send(signal.SIGTERM)
            _thaw(opened.pids, self._containers.get(key))
            await opened.gone(time.monotonic() + grace_seconds)

    async def kill(self, key: NodeKey) -> int:
        """SIGKILL every process until there is none; how many there were. StillThere when one
        survives for DEATH_SECONDS."""
        killed = 0
        deadline = time.monotonic() + DEATH_SECONDS
        while True:
            with _Opened() as opened:
                # All stand still before the first dies, so that none sees a death and forks anew.
                while await opened.add(key, self._containers.get(key)):
                    opened.send(signal.SIGSTOP)
                    if time.monotonic() > deadline:
                        break
                if not opened.pids:
                    return killed
                opened.send(signal.SIGKILL)
                _thaw(opened.pids, self._containers.get(key))
                if left := await opened.gone(deadline):
                    raise StillThere(
                        f"still there {DEATH_SECONDS:.0f} s after SIGKILL: {described(left)}"
                    )
                killed += len(opened.pids)

    async def prove_gone(self, key: NodeKey) -> None:
        """Kill what is left, and see that no process and no port is. StillThere otherwise. Takes
        one look through /proc when it is so."""
        await self.kill(key)
        if noted := self._ports.get(key):
            evidence = await asyncio.to_thread(_open_ports, noted)
            if evidence:
                raise StillThere(evidence)
        self._ports.pop(key, None)
        self._containers.pop(key, None)


def pids_of(key: NodeKey, container_id: str | None = None) -> list[int]:
    """Living processes of the node, and of the container if its id is given. Reads all of /proc."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return sorted(pid for pid in pids if _belongs(pid, key, container_id) and _is_alive(pid))


def described(pids: Sequence[int]) -> str:
    """For people: `pid 812 (python, state D)`."""
    return ", ".join(f"pid {pid} ({_name(pid)}, state {_state(pid) or 'gone'})" for pid in pids)


class _Opened:
    """Processes held by pidfd, so that no signal goes to another that got the pid meanwhile."""

    def __init__(self) -> None:
        self._pidfds: dict[int, int] = {}
        self._signalled: dict[int, int] = {}

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        for pidfd in self._pidfds.values():
            os.close(pidfd)

    @property
    def pids(self) -> list[int]:
        return list(self._pidfds)

    async def add(self, key: NodeKey, container_id: str | None) -> bool:
        """Open the node's processes that are not open yet. Whether there were any."""
        found = await asyncio.to_thread(pids_of, key, container_id)
        new = [pid for pid in found if pid not in self._pidfds]
        for pid in new:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                # Asked again: from now on the pid is this process' alone.
                if _belongs(pid, key, container_id):
                    self._pidfds[pid] = pidfd
                else:
                    os.close(pidfd)
        return bool(new)

    def send(self, number: int) -> None:
        """One signal to those that have not been sent it."""
        for pid, pidfd in self._pidfds.items():
            if self._signalled.get(pid) != number:
                self._signalled[pid] = number
                # One that is not ours to signal is left, and so is the evidence.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(pidfd, number)

    async def gone(self, deadline: float) -> list[int]:
        """Wait for all to end until `deadline` of the monotonic clock; those that have not."""
        left = []
        for pid, pidfd in self._pidfds.items():
            if not await ended(pidfd, max(0.0, deadline - time.monotonic())) and _is_alive(pid):
                left.append(pid)
        return left


def _thaw(pids: Sequence[int], container_id: str | None) -> None:
    """Let a paused container get its signals. Of another group than its own it is not ours to."""
    for pid in pids if container_id is not None else ():
        for line in _read(Path(f"/proc/{pid}/cgroup")).decode().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "freezer" and str(container_id) in path:
                # Gone with the last process, which may be now.
                with contextlib.suppress(OSError):
                    Path(f"{_FREEZER}{path}/freezer.state").write_text("THAWED", encoding="ascii")


def _open_ports(noted: frozenset[Port]) -> str:
    words = []
    for port in ports.still_open(noted):
        pid = ports.holder(port)
        by = f" by {described([pid])}" if pid is not None else ""
        words.append(f"{port} is still listened on{by}")
    return ", ".join(words)


def _belongs(pid: int, key: NodeKey, container_id: str | None) -> bool:
    if container_id is not None:
        group = _read(Path(f"/proc/{pid}/cgroup"))
        supervisor = f"conmon-{container_id}".encode()
        if container_id.encode() in group and supervisor not in group:
            return True
    return _is_marked(_read(Path(f"/proc/{pid}/environ")), key)


def _is_marked(environ: bytes, key: NodeKey) -> bool:
    variables = environ.split(b"\0")
    job_ids = (f"{key.job_id}#{key.node_index}", key.job_id)
    return f"AWS_BATCH_JOB_ATTEMPT={key.attempt}".encode() in variables and any(
        f"AWS_BATCH_JOB_ID={job_id}".encode() in variables for job_id in job_ids
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        # Gone meanwhile, or of a user whom this agent cannot have started it as.
        return b""


def _is_alive(pid: int) -> bool:
    return _state(pid) not in ("", "Z", "X")


def _state(pid: int) -> str:
    """The letter of ps; empty for one that is gone."""
    return _read(Path(f"/proc/{pid}/stat")).decode(errors="replace").rpartition(")")[2][1:2]


def _name(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/comm")).decode(errors="replace").strip() or "ended"
