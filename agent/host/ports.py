"""Which ports of this host processes listen on, and whether those sockets are open still.

A socket is known by its inode, whoever holds it, so that a port which somebody else opens later is
never taken for it. Sees the agent's own network namespace: what listens in another is gone with it.
Every function reads files of /proc, for milliseconds. Malformed when a table of the kernel has
a number that is no port. Must not import an engine.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.host import ids, processes

_TABLES = ("tcp", "tcp6", "udp", "udp6")
_LISTENING = ("0A", "07")
"""States of a listening TCP socket and of a UDP socket without a peer, in /proc/net."""


@dataclass(frozen=True, slots=True)
class Port:
    """A socket that takes what comes."""

    protocol: str
    number: int
    inode: int

    def __str__(self) -> str:
        return f"{self.protocol} port {self.number}"


def listened_on_by(pids: Sequence[int], more: Iterable[int] = ()) -> frozenset[Port]:
    """What these processes listen on, but for those that are `unseen`; and what of the sockets with
    the inodes `more` is listened on."""
    inodes = {*sockets(pids), *more}
    return (
        frozenset(port for port in _listening() if port.inode in inodes) if inodes else frozenset()
    )


def sockets(pids: Sequence[int]) -> set[int]:
    """The inodes of the sockets that these processes have open."""
    return {inode for pid in pids for inode in _sockets(pid)}


def unseen(pids: Sequence[int]) -> list[int]:
    """Those whose descriptors this agent may not read: what they listen on is not known."""
    found = []
    for pid in pids:
        try:
            os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - to be allowed to is all that matters
        except PermissionError:
            found.append(pid)
        except processes.ENDED:
            continue
    return found


def still_open(ports: Iterable[Port]) -> list[Port]:
    """Those of `ports` that are listened on still, by whomever."""
    open_now = set(_listening())
    return sorted((port for port in ports if port in open_now), key=lambda port: port.number)


def holder(port: Port) -> int | None:
    """A process that has the socket open; None when it is nobody's whom this agent can see."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return next((pid for pid in pids if port.inode in _sockets(pid)), None)


def _listening() -> Iterator[Port]:
    for protocol in _TABLES:
        try:
            lines = Path("/proc/net", protocol).read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for line in lines[1:]:
            fields = line.split()
            if fields[3] in _LISTENING:
                yield Port(
                    protocol, ids.port(int(fields[1].rpartition(":")[2], 16)), int(fields[9])
                )


def _sockets(pid: int) -> Iterator[int]:
    """Inodes of a process' sockets; none of one that is gone or not ours to look into."""
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except (*processes.ENDED, PermissionError):
        return
    for descriptor in descriptors:
        with contextlib.suppress(*processes.ENDED, PermissionError):
            target = os.readlink(descriptor)  # noqa: PTH115 - it is no path
            if target.startswith("socket:["):
                yield int(target[len("socket:[") : -1])
