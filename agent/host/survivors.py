"""What may be left of a node on this host: its processes, and the ports that they listen on.

An engine says that a container is gone; this looks for itself. A process of a node is one with the
node's variables, which every descendant inherits, or one in the control group of such a process,
or in that of the node's container. Must not import an engine.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.core.assignment import NodeKey
from agent.host.pidfd import ended

DEATH_SECONDS = 10.0
"""How long a process that was sent SIGKILL may take to be gone."""

_CONTAINER_ID = re.compile(rb"[0-9a-f]{64}")
_TABLES = ("tcp", "tcp6", "udp", "udp6")
_LISTENING = ("0A", "07")
"""States of a listening TCP socket and of a UDP socket without a peer, in /proc/net."""


@dataclass(frozen=True, slots=True)
class Port:
    """A socket that takes what comes. `inode` is of this socket alone, whoever holds it, so that
    a port that somebody else opens later is never taken for it."""

    protocol: str
    port: int
    inode: int


def pids_of(key: NodeKey, container_id: str = "") -> list[int]:
    """Living processes of the node, and of the container if its id is given. Reads all of /proc:
    some milliseconds."""
    ids = {container_id.encode()} if container_id else set()
    groups: dict[int, bytes] = {}
    found = []
    for process in _processes():
        pid = int(process.name)
        groups[pid] = _read(process / "cgroup")
        if _is_marked(_read(process / "environ"), key):
            found.append(pid)
            # What cleared its environment is still in the control group.
            ids.update(_CONTAINER_ID.findall(groups[pid]))
    members = [pid for pid, group in groups.items() if any(each in group for each in ids)]
    return sorted({pid for pid in (*found, *members) if _state(pid) not in ("", "Z", "X")})


def _is_marked(environ: bytes, key: NodeKey) -> bool:
    variables = environ.split(b"\0")
    job_ids = (f"{key.job_id}#{key.node_index}", key.job_id)
    return f"AWS_BATCH_JOB_ATTEMPT={key.attempt}".encode() in variables and any(
        f"AWS_BATCH_JOB_ID={job_id}".encode() in variables for job_id in job_ids
    )


async def kill(key: NodeKey, container_id: str = "") -> int:
    """SIGKILL every process of the node until there is none, also those that it makes meanwhile.
    Returns how many there were. TimeoutError with pids, names and states when one survives."""
    killed: dict[int, None] = {}
    deadline = time.monotonic() + DEATH_SECONDS
    while pids := pids_of(key, container_id):
        for pid in pids:
            # All of them first: what is waited for must not be replaced meanwhile.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            killed[pid] = None
            if not await _gone(pid, deadline - time.monotonic()):
                raise TimeoutError(
                    f"still there {DEATH_SECONDS:.0f} s after SIGKILL: {described(pids)}"
                )
    return len(killed)


async def _gone(pid: int, timeout_seconds: float) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return await ended(pidfd, max(0.0, timeout_seconds))
    finally:
        os.close(pidfd)


def described(pids: Sequence[int]) -> str:
    """For people: `812 (python, state D)`."""
    return ", ".join(f"{pid} ({_name(pid)}, state {_state(pid) or 'gone'})" for pid in pids)


def ports_of(pids: Sequence[int]) -> tuple[Port, ...]:
    """What these processes listen on in the agent's network namespace."""
    inodes = {inode for pid in pids for inode in _sockets(pid)}
    return tuple(port for port in _listening() if port.inode in inodes)


def still_open(ports: Sequence[Port]) -> str:
    """Those of `ports` that are listened on still, and by whom; empty when there is none."""
    open_now = {port.inode for port in _listening()}
    left = [port for port in ports if port.inode in open_now]
    if not left:
        return ""
    pids = [int(process.name) for process in _processes()]
    holders = {inode: pid for pid in pids for inode in _sockets(pid)}
    words = []
    for port in left:
        pid = holders.get(port.inode)
        by = f" by {described([pid])}" if pid is not None else ""
        words.append(f"{port.protocol} port {port.port} is still listened on{by}")
    return ", ".join(words)


def _listening() -> Iterator[Port]:
    for protocol in _TABLES:
        for line in _read(Path("/proc/net") / protocol).decode().splitlines()[1:]:
            fields = line.split()
            if fields[3] in _LISTENING:
                port = int(fields[1].rpartition(":")[2], 16)
                yield Port(protocol, port, int(fields[9]))


def _sockets(pid: int) -> Iterator[int]:
    """Inodes of a process' sockets; none of one that is gone or not ours to look into."""
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            target = os.readlink(descriptor)  # noqa: PTH115 - it is no path
            if target.startswith("socket:["):
                yield int(target[len("socket:[") : -1])


def _processes() -> Iterator[Path]:
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        # Gone meanwhile, or of a user whom this agent cannot have started it as.
        return b""


def _state(pid: int) -> str:
    """The letter of ps; empty for one that is gone."""
    return _read(Path(f"/proc/{pid}/stat")).decode(errors="replace").rpartition(")")[2][1:2]


def _name(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/comm")).decode(errors="replace").strip() or "ended"
