"""What /proc says of the processes of this machine, and of what it does not let us see.

Parentage, start, session, name, control group, arguments and user can be read by everybody. The
environment and the descriptors cannot: where reading them is refused, that is told apart from
their being empty. Where the look itself fails, as for want of a descriptor, everything here raises
OSError: what was not seen is no absence. Must not import an engine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

_PF_KTHREAD = 0x0020_0000
_CAP_SYS_PTRACE = 1 << 19
_DEAD = ("Z", "X", "x")
_READ_BYTES = 4 * 1024
ENDED = (FileNotFoundError, ProcessLookupError)
"""What a look at a process raises when it is not there any more."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process at one moment. `pid` and `start_ticks`, which are clock ticks since boot, name it
    for as long as the machine runs; `state` is the letter of ps."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    flags: int
    start_ticks: int

    @property
    def is_alive(self) -> bool:
        """Whether it can still do something: it is neither dead nor a part of the kernel."""
        return self.state not in _DEAD and not self.flags & _PF_KTHREAD


def pids() -> list[int]:
    """Of all processes, the dead and the kernel's too."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def everybody() -> dict[int, Process]:
    """All processes by pid. Reads all of /proc, for milliseconds."""
    found = map(process, pids())
    return {each.pid: each for each in found if each is not None}


def process(pid: int) -> Process | None:
    """The process that has this pid now; None when there is none."""
    try:
        stat = _content(pid, "stat")
    except (*ENDED, PermissionError):
        return None
    # The name is in parentheses and may hold any character, so the last one ends it.
    head, _, tail = stat.rpartition(b")")
    fields = tail.split(None, 20)
    return Process(
        pid=pid,
        name=head.partition(b"(")[2].decode(errors="backslashreplace"),
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
        flags=int(fields[6]),
        start_ticks=int(fields[19]),
    )


def started_at_ms(of: Process) -> int:
    """When it began, in milliseconds since 1970, as the wall clock has it now."""
    since_boot_ms = 1000 * of.start_ticks // os.sysconf("SC_CLK_TCK")
    boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return boot_ns // 1_000_000 + since_boot_ms


def hides_some() -> bool:
    """Whether processes are kept from us (`hidepid`, ProtectProc=): then nothing can be proven."""
    return process(1) is None


def may_look_into_all() -> bool:
    """Whether every process' environment and descriptors may be read by this one."""
    [effective] = _status(os.getpid(), b"CapEff:")
    return bool(int(effective, 16) & _CAP_SYS_PTRACE)


def environment(pid: int) -> bytes | None:
    """The environment that it was started with, as NAME=VALUE with NUL after each; empty when it
    has ended, None when reading it is refused."""
    try:
        return _content(pid, "environ")
    except PermissionError:
        return None
    except ENDED:
        return b""


def control_group(pid: int) -> bytes:
    """Its lines of `hierarchy:controllers:path`; empty when it has ended."""
    return _read(pid, "cgroup")


def arguments(pid: int) -> list[bytes]:
    """Its command line as it is now, which it may have changed; empty when it has ended."""
    return _read(pid, "cmdline").split(b"\0")[:-1]


def namespace_depth(pid: int) -> int:
    """In how many process namespaces it has a pid, from ours inwards; 0 when it has ended."""
    return len(_status(pid, b"NSpid:"))


def may_be_an_engines(pid: int) -> bool:
    """Whether it can belong to an engine of this agent: it is root's or this agent's user's in
    every respect, and in no process namespace below ours. Its name and its arguments prove nothing:
    a job, or any user of the host, can give itself those of an engine."""
    users = set(_status(pid, b"Uid:"))
    own = {b"0", str(os.geteuid()).encode()}
    return bool(users) and users <= own and _is_in_our_namespace(pid)


def may_be_an_agents(pid: int) -> bool:
    """Whether an agent of this user can have started it: what a job runs in a container, or as
    another user, may call itself anything. Unlike an engine's it is not root's where this agent is
    not: of such a process this agent could neither read the lease nor end it."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116
    except FileNotFoundError:
        return False
    return owner == os.geteuid() and _is_in_our_namespace(pid)


def _is_in_our_namespace(pid: int) -> bool:
    return namespace_depth(pid) == namespace_depth(os.getpid())


def children(table: dict[int, Process]) -> dict[int, list[int]]:
    """The pids of the children of each parent of `table`."""
    found: dict[int, list[int]] = {}
    for each in table.values():
        found.setdefault(each.parent, []).append(each.pid)
    return found


def descendants(pids: Iterable[int], by_parent: dict[int, list[int]]) -> Iterator[int]:
    """All below `pids`, parents first, without `pids` themselves."""
    waiting = list(pids)
    seen = set(waiting)
    for pid in waiting:
        for child in by_parent.get(pid, ()):
            if child not in seen:
                seen.add(child)
                waiting.append(child)
                yield child


def ancestors(pid: int, look: Callable[[int], Process | None]) -> Iterator[Process]:
    """Its parent, the parent's parent and so on, as far as `look` finds them."""
    seen = {pid}
    here = look(pid)
    while here is not None and here.parent not in seen:
        seen.add(here.parent)
        here = look(here.parent)
        if here is not None:
            yield here


def described(pids: Iterable[int]) -> str:
    """For people: `pid 812 (python, uid 1000, state D)`."""
    return ", ".join(f"pid {pid} ({_described(pid)})" for pid in pids)


def _described(pid: int) -> str:
    now = process(pid)
    if now is None:
        return "ended"
    user = _status(pid, b"Uid:")[1:2]
    return f"{now.name}, uid {user[0].decode() if user else '?'}, state {now.state}"


def _status(pid: int, name: bytes) -> list[bytes]:
    for line in _read(pid, "status").splitlines():
        if line.startswith(name):
            return line.split()[1:]
    return []


def _read(pid: int, file: str) -> bytes:
    try:
        return _content(pid, file)
    except (*ENDED, PermissionError):
        return b""


def _content(pid: int, file: str) -> bytes:
    """Read with as few calls as there can be: a look at a host reads thousands of these."""
    opened = os.open(f"/proc/{pid}/{file}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = part = os.read(opened, _READ_BYTES)
        while part:
            part = os.read(opened, _READ_BYTES)
            content += part
        return content
    finally:
        os.close(opened)
