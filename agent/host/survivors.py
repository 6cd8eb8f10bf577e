"""What may be left of a node on this host: its processes, and the ports that they listened on.

An engine says that a container is gone; this looks for itself, and can end what an engine leaves.
Which processes are the node's is for `origin.py` to say; this holds, signals and outwaits them.
Must not import an engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from agent.core.assignment import NodeKey
from agent.host import containers, ports, processes
from agent.host.ids import ContainerId
from agent.host.origin import Origin, Shim
from agent.host.pidfd import ended
from agent.host.ports import Port
from agent.host.processes import Process, described

logger = logging.getLogger(__name__)

DEATH_SECONDS = 10.0
"""How long a process that was sent SIGKILL may take to be gone."""

_FREEZER = Path("/sys/fs/cgroup/freezer")
"""Of control groups version 1, where what is frozen does not even die. Version 2 lets it."""

WITHOUT_SIGHT = (
    "/proc hides other users' processes from this agent (hidepid, ProtectProc=), so that nothing "
    "can be proven gone; run the agent as root, or mount /proc with gid= of a group of its own"
)
_HALF_BLIND = (
    "this agent cannot read the variables of other users' processes: where a node's shim is "
    "killed, those that neither age nor parents nor control group rule out count as left of it"
)
_WHY_DOUBTFUL = (
    "not proven gone, since the node's shim was killed, and of these it cannot be seen whose they "
    "are: no variable, parent, age or control group tells"
)


Look = Callable[[Sequence[int]], Awaitable[Iterable[int] | None]]
"""Looks into processes whose descriptors this agent may not read, by an engine's own means: the
inodes of their sockets, or None where that fails."""


class StillThere(Exception):
    """The evidence that something of a node is left, or may be: pids, names, users, states, ports,
    and why what cannot be judged cannot."""


class Survivors:
    """Looks for what is left of an engine's nodes.

    `host_id` is the host whose nodes they are: a machine may have agents of several. Remembers of
    each node where its processes come from and its ports: once it is gone nobody else knows. Both
    are lost with this process. All methods may be cancelled and repeated.
    """

    def __init__(self, look: Look | None = None, host_id: str = "") -> None:
        self._look = look
        self._host_id = host_id
        self._origins: dict[NodeKey, Origin] = {}
        self._ports: dict[NodeKey, frozenset[Port]] = {}

    def remember(self, key: NodeKey, container: ContainerId) -> None:
        """Of an engine that answers, for when it does not."""
        self._origins[key] = replace(self._origin(key), container=container)

    def remember_shim(self, key: NodeKey, shim: Shim) -> None:
        """While it lives if possible: who would inherit its orphans shows only then."""
        self._origins[key] = replace(self._origin(key), shim=shim).seen()

    def knows(self, key: NodeKey) -> bool:
        """Whether its container was remembered."""
        return self._origin(key).container is not None

    async def pids(self, key: NodeKey) -> list[int]:
        """The node's living processes, by now."""
        return await asyncio.to_thread(pids_of, self._origin(key))

    async def note_ports(self, key: NodeKey) -> frozenset[Port]:
        """Before the end: all that the node was ever seen to listen on."""
        pids = await self.pids(key)
        unseen = await asyncio.to_thread(ports.unseen, pids)
        more = await self._look(unseen) if unseen and self._look is not None else None
        if unseen and more is None:
            logger.warning("what these listen on cannot be seen: %s", described(unseen))
        now = await asyncio.to_thread(ports.listened_on_by, pids, more or ())
        noted = self._ports[key] = self._ports.get(key, frozenset()) | now
        return noted

    async def gone(self, key: NodeKey) -> bool:
        """Wait, for ever if need be, until the node has no process. Whether it had any."""
        had_any = False
        while True:
            with _Opened() as opened:
                if not await opened.add(self._origin(key)):
                    return had_any
                had_any = True
                await opened.gone(math.inf)

    async def terminate(self, key: NodeKey, grace_seconds: float) -> None:
        """SIGTERM to every process, and up to `grace_seconds` for all to end."""
        with _Opened() as opened:
            await opened.add(self._origin(key))
            opened.send(signal.SIGTERM)
            _thaw(opened.pids, self._origin(key).container)
            await opened.gone(time.monotonic() + grace_seconds)

    async def kill(self, key: NodeKey) -> int:
        """SIGKILL every process until there is none; how many there were. StillThere when one
        survives for DEATH_SECONDS, as one that this agent may not signal. What cannot be judged is
        left alone."""
        killed = 0
        origin = self._origin(key)
        deadline = time.monotonic() + DEATH_SECONDS
        while True:
            with _Opened() as opened:
                # All stand still before the first dies, so that none sees a death and forks anew.
                while await opened.add(origin):
                    opened.send(signal.SIGSTOP)
                    if time.monotonic() > deadline:
                        break
                if not opened.pids:
                    return killed
                opened.send(signal.SIGKILL)
                _thaw(opened.pids, origin.container)
                if left := await opened.gone(deadline):
                    raise StillThere(
                        f"still there {DEATH_SECONDS:.0f} s after SIGKILL: {described(left)}"
                        f"{opened.refusal(left)}"
                    )
                killed += len(opened.pids)

    async def prove_gone(self, key: NodeKey) -> None:
        """Kill what is left, and see that no process and no port is, and nothing that may be the
        node's. StillThere otherwise. Takes one look through /proc when it is so, and two where a
        shim was killed."""
        await self.kill(key)
        await self._end_doubts(self._origin(key))
        if noted := self._ports.get(key):
            evidence = await asyncio.to_thread(_open_ports, noted)
            if evidence:
                raise StillThere(evidence)
        self._ports.pop(key, None)
        self._origins.pop(key, None)

    async def _end_doubts(self, origin: Origin) -> None:
        """Wait for what cannot be judged to end by itself, for as long as a killed one may take."""
        if not origin.needs_sight:
            return
        if processes.hides_some():
            raise StillThere(WITHOUT_SIGHT)
        if not origin.leaves_doubts:
            return
        deadline = time.monotonic() + DEATH_SECONDS
        while doubtful := await _doubts(origin, deadline):
            with _Opened() as opened:
                opened.hold(doubtful)
                left = await opened.gone(deadline)
            if left or time.monotonic() > deadline:
                pids = left or [each.pid for each in doubtful]
                raise StillThere(f"{_WHY_DOUBTFUL}: {described(pids)}")

    def _origin(self, key: NodeKey) -> Origin:
        return self._origins.get(key) or Origin(key=key, host_id=self._host_id)


async def _doubts(origin: Origin, deadline: float) -> list[Process]:
    """What cannot be judged, nor a second time: a parent that ends under a look does not show.
    Looks until a look finds none, since what forks anew is another process at every look."""
    before: set[tuple[int, int]] = set()
    while found := (await asyncio.to_thread(origin.sort)).doubtful:
        again = [each for each in found if (each.pid, each.start_ticks) in before]
        if again or time.monotonic() > deadline:
            return again or list(found)
        before = {(each.pid, each.start_ticks) for each in found}
    return []


def blindness() -> str:
    """What an agent with these rights cannot prove, for its log; empty for one that sees all."""
    if processes.hides_some():
        return f"; {WITHOUT_SIGHT}"
    return "" if processes.may_look_into_all() else f"; {_HALF_BLIND}"


def pids_of(origin: Origin) -> list[int]:
    """Living processes that are certainly the node's. Reads all of /proc."""
    return [each.pid for each in origin.sort().its]


class _Opened:
    """Processes held by pidfd, so that no signal goes to another that got the pid meanwhile."""

    def __init__(self) -> None:
        self._pidfds: dict[int, int] = {}
        self._signalled: dict[int, int] = {}
        self._refused: set[int] = set()

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        for pidfd in self._pidfds.values():
            os.close(pidfd)

    @property
    def pids(self) -> list[int]:
        return list(self._pidfds)

    async def add(self, origin: Origin) -> bool:
        """Open the node's processes that are not open yet. Whether there were any."""
        found = (await asyncio.to_thread(origin.sort)).its
        new = [each for each in found if each.pid not in self._pidfds]
        self.hold(new)
        return bool(new)

    def hold(self, found: Iterable[Process]) -> None:
        """Open these, but for what has ended."""
        for each in found:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(each.pid)
                # Asked again: from now on the pid is this process' alone.
                now = processes.process(each.pid)
                if now is not None and now.start_ticks == each.start_ticks:
                    self._pidfds[each.pid] = pidfd
                else:
                    os.close(pidfd)

    def send(self, number: int) -> None:
        """One signal to those that have not been sent it."""
        for pid, pidfd in self._pidfds.items():
            if self._signalled.get(pid) != number:
                self._signalled[pid] = number
                try:
                    signal.pidfd_send_signal(pidfd, number)
                except ProcessLookupError:
                    continue
                except PermissionError:
                    # Left, and so is the evidence.
                    self._refused.add(pid)

    def refusal(self, pids: Sequence[int]) -> str:
        """Words on those that are not this agent's to signal."""
        refused = [f"pid {pid}" for pid in pids if pid in self._refused]
        return f"; this agent may not signal {', '.join(refused)}" if refused else ""

    async def gone(self, deadline: float) -> list[int]:
        """Wait for all to end until `deadline` of the monotonic clock; those that have not."""
        left = []
        for pid, pidfd in self._pidfds.items():
            if not await ended(pidfd, max(0.0, deadline - time.monotonic())):
                now = processes.process(pid)
                if now is not None and now.is_alive:
                    left.append(pid)
        return left


def _thaw(pids: Sequence[int], container: ContainerId | None) -> None:
    """Let a paused container get its signals. Of another group than its own it is not ours to."""
    for pid in pids if container is not None else ():
        for line in processes.control_group(pid).splitlines():
            _, controllers, path = os.fsdecode(line).split(":", 2)
            if controllers == "freezer" and container and containers.has_group(line, container):
                # Gone with the last process, which may be now.
                with contextlib.suppress(OSError):
                    Path(f"{_FREEZER}{path}/freezer.state").write_text("THAWED", encoding="ascii")


def _open_ports(noted: frozenset[Port]) -> str:
    words = []
    for port in ports.still_open(noted):
        pid = ports.holder(port)
        by = described([pid]) if pid is not None else "a process that this agent cannot look into"
        words.append(f"{port} is still listened on by {by}")
    return ", ".join(words)
