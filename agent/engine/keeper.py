"""The keeper: holds the lease of one container, and ends the container when it is over.

A container belongs to its engine and not to its agent, so without a keeper nobody would end it when
the agent hangs, was killed, or cannot start. A keeper needs neither agent, ledger nor
configuration. Who lists processes sees what it is for:

    muster-keeper LEASE-FILE STOP-GRACE-SECONDS CONTAINER -- ENGINE [ENGINE-ARGUMENT...]

It is started before its container, as a launcher that returns once the lease is held; the keeper
proper stays behind in a session of its own. It begins with the first byte that it reads on its
standard input, since it may be made long before the lease is, and ends when there is none. It locks
the lease file, and leaves at once when another keeper has. On its standard input the agent then
tells it `PID CONTAINER-ID` of the container that has come up; while that stays open, a container
may still come.

    the container ends          the keeper stays: who has the engine may start it again
    `gone` in the lease file    the keeper leaves
    the lease is over           `stop` with what is left of the grace, then `kill`; what survives
                                these, or an engine that does not answer, gets SIGKILL directly

One of these runs for each container, so it must start fast and stay small. What ends a container
past its engine is imported only then.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time

from agent.lease_file import HeldLease, now_ms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_CALL_SECONDS = 5.0
"""How long an engine may take for a call, on top of the grace that it was asked for."""
_DEATH_MS = 1000
"""How long after the engine's word a container may take to be gone."""
_TELL_BYTES = 4096
_RETRY_SECONDS = 1.0


def main(arguments: list[str]) -> NoReturn:
    """Run as launcher; see the module's docstring. The exit code is 0 when the lease is held, by
    this keeper or by another, and 1 with the reason on stderr when it is not."""
    path, grace_seconds, name, separator, *engine = arguments
    if separator != "--" or not engine:
        sys.exit("usage: LEASE-FILE STOP-GRACE-SECONDS CONTAINER -- ENGINE [ENGINE-ARGUMENT...]")
    if not os.read(0, 1):
        sys.exit(0)  # its agent has ended, or the node does not start
    try:
        lease = HeldLease(path)
        fcntl.flock(lease.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(0)
    except OSError as error:
        sys.exit(f"{error}")
    if os.fork():
        # Not sys.exit: the lock is the keeper's as well, and stays.
        os._exit(0)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (1, 2):
        os.dup2(null, fd)
    os.close(null)
    _Keeper(lease, int(grace_seconds), name, engine).run()
    os._exit(0)


class _Keeper:
    def __init__(
        self, lease: HeldLease, grace_seconds: int, name: str, engine: Sequence[str]
    ) -> None:
        self._lease = lease
        self._grace_seconds = grace_seconds
        self._name = name
        self._engine = engine
        self._pidfd = -1
        """Of the container's first process, whose end is that of the container."""
        self._container_id = ""
        self._said = b""

    def run(self) -> None:
        """Return when there is nothing left to hold."""
        poll = select.poll()
        for fd in (0, *self._lease.fds):
            poll.register(fd, select.POLLIN)
        may_come = True
        is_over = False
        while not self._lease.is_gone:
            if is_over:
                self._end_whatever_fails()
                if self._pidfd < 0 and not may_come:
                    return
                if self._has_ended():
                    return
            if self._pidfd >= 0:
                poll.register(self._pidfd, select.POLLIN)
            ready = [fd for fd, _ in poll.poll()]
            if self._pidfd in ready:
                poll.unregister(self._pidfd)
                os.close(self._pidfd)
                self._pidfd = -1
            if 0 in ready and not self._hear():
                poll.unregister(0)
                may_come = False
            is_over = self._lease.look() or is_over

    def _hear(self) -> bool:
        """Take in what the agent says; False when it will say no more."""
        data = os.read(0, _TELL_BYTES)
        self._said += data
        line, end, rest = self._said.partition(b"\n")
        if end:
            # Heard once: when that container has ended, its pid may be given to another process.
            self._said = rest
            self._hold(line)
        return bool(data)

    def _hold(self, line: bytes) -> bool:
        """Whether these, `PID CONTAINER-ID`, are a container's that runs: both engines have pid 0
        for one that does not."""
        pid, _, container_id = line.decode("ascii", "replace").strip().partition(" ")
        if not pid.isdigit() or int(pid) <= 1:
            return False
        self._container_id = container_id
        try:
            self._pidfd = os.pidfd_open(int(pid))
        except ProcessLookupError:
            return False
        return True

    def _has_ended(self) -> bool:
        return self._pidfd >= 0 and _is_readable(self._pidfd, 0)

    # the end of the lease

    def _end_whatever_fails(self) -> None:
        """Nobody else ends it: without a free descriptor, say, it is tried until there is one."""
        while True:
            try:
                if not self._has_ended():
                    self._end()
                # Not told of one that comes so late: its agent may hang.
                while self._pidfd < 0 and _outwaited_calls(self._name):
                    self._end()
            except OSError:
                time.sleep(_RETRY_SECONDS)
            else:
                return

    def _end(self) -> None:
        """End the container, if there is one that runs. No grace is given that is over by now:
        others count it from the end of the lease."""
        if self._pidfd < 0 and not self._find():
            return
        self._lease.note_end()
        kill_at_ms = self._lease.kill_at_ms(self._grace_seconds)
        left_ms = kill_at_ms - now_ms()
        if left_ms > 0:
            # In whole seconds, as both engines take them.
            left_seconds = -(-left_ms // 1000)
            limit_seconds = left_seconds + _CALL_SECONDS
            answer = self._call(limit_seconds, "stop", "-t", str(left_seconds), self._name)
        else:
            answer = b""
        if answer is not None and not self._has_ended():
            self._call(_CALL_SECONDS, "kill", self._name)
        if self._pidfd < 0 or not _is_readable(self._pidfd, _DEATH_MS):
            _end_directly(self._name, self._container_id, (kill_at_ms - now_ms()) / 1000)

    def _find(self) -> bool:
        """Whether the container may run, as far as its engine knows. Nobody has said that it came
        up: its agent has ended before it could."""
        template = "{{.State.Pid}} {{.Id}}"
        answer = self._call(_CALL_SECONDS, "container", "inspect", "-f", template, self._name)
        return answer is None or self._hold(answer)

    def _call(self, limit_seconds: float, *arguments: str) -> bytes | None:
        """What the engine prints; empty when it refuses, None when it does not answer in time."""
        read, write = os.pipe()
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, write, 1),
        ]
        argv = [*self._engine, *arguments]
        try:
            pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
        except OSError:
            os.close(read)
            return None
        finally:
            os.close(write)
        pidfd = os.pidfd_open(pid)
        try:
            if not _is_readable(pidfd, int(1000 * limit_seconds)):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return None
            os.waitpid(pid, 0)
            os.set_blocking(read, False)
            return os.read(read, _TELL_BYTES)
        except BlockingIOError:
            return b""  # what it started has its output
        finally:
            os.close(pidfd)
            os.close(read)


def _is_readable(fd: int, limit_ms: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(limit_ms))


def _end_directly(name: str, container_id: str, grace_seconds: float) -> None:
    """End all processes of the node past its engine."""
    import asyncio  # only now: these are large, and mostly nobody needs them
    import contextlib

    from agent.core.assignment import NodeKey
    from agent.host.ids import Malformed
    from agent.host.ids import container_id as checked
    from agent.host.survivors import StillThere, Survivors

    key = NodeKey.parse(name)
    if key is None:
        return
    survivors = Survivors()
    with contextlib.suppress(Malformed):  # its variables show it, if nothing else does
        survivors.remember(key, checked(container_id))

    async def end() -> None:
        if grace_seconds > 0:
            await survivors.terminate(key, grace_seconds)
        await survivors.kill(key)

    try:
        asyncio.run(end())
    except StillThere:
        return  # SIGKILL waits for it; nobody can do more


def _outwaited_calls(name: str) -> bool:
    """Wait for the calls of an agent that ended, which may yet make the container come. Whether
    there were any."""
    from agent.engine.cli import calls_under_way

    pids = [pid for pid in calls_under_way(name) if pid != os.getpid()]
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        _is_readable(pidfd, -1)
        os.close(pidfd)
    return bool(pids)
