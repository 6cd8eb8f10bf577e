"""The shim: owns one command of the process engine, its output and its exit code.

It outlives the agent, so that an agent can be killed or upgraded under a running job, and it is
what PID 1 is to a container: it adopts every descendant, and when the command ends it ends them
all. It is started as a launcher that returns once the command runs; the shim proper stays behind
in a session of its own.

    launcher  takes `lock`, forks the shim, waits for its word: exits 0 when the command runs,
              PERMANENT or another code, with the reason on stderr, when it does not
    shim      writes started.json, then lets the command exec: from here on it is never run again
    command   own session; its output goes through a pipe to the spool
    shim      command ends: kill the rest, drain the pipe to the spool, write exit.json

It is also the holder of the node's lease: when that is over it ends the tree, whatever has become
of the agent, and says so in exit.json.

Signals to the shim: SIGTERM goes on to the whole tree; SIGUSR1 kills the whole tree; SIGUSR2 asks
it to look at its lease now.

One of these runs per node, so it must start fast and stay small: standard library only, and
neither asyncio, pathlib nor subprocess. Must not import anything of `agent` but
`engine.command`, `engine.user`, `lease_file` and `spool`.
"""
# ruff: noqa: PTH103, PTH104, PTH108, PTH110, PTH116, PTH118, PTH208

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import sys
import time

from agent.engine import command
from agent.engine.user import CannotStart, user_ids
from agent.lease_file import HeldLease, now_ms
from agent.spool import SpoolWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

SPEC, LOCK, STARTED, EXIT, SCRATCH = "spec.json", "lock", "started.json", "exit.json", "scratch"

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_READ_BYTES = 64 * 1024
_RESERVED_BYTES = 512
_OBEYED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


PERMANENT = 65
"""The launcher's exit code for a command that can never run. Any other failure may pass."""


def main(directory: str) -> NoReturn:
    """Run as launcher for the key directory `directory`; see the module's docstring."""
    # Held by launcher and shim alike: whichever survives keeps a second launcher out until
    # started.json is there or the command is known not to run.
    path = os.path.join(directory, LOCK)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not os.path.exists(path) or not os.path.samestat(os.fstat(lock), os.stat(path)):
        sys.exit(f"CannotStartContainerError: {directory} was removed meanwhile")
    if os.path.exists(os.path.join(directory, STARTED)):
        sys.exit(0)
    with open(os.path.join(directory, SPEC), encoding="utf-8") as file:
        spec = json.load(file)
    word_read, word_write = os.pipe()
    if os.fork() == 0:
        os.close(word_read)
        _Shim(directory, spec, word_write, lock).run()
    os.close(word_write)
    word = _read_all(word_read).decode(errors="replace")
    code, _, reason = (word or "1 the shim died before the command ran").partition(" ")
    if reason:
        sys.stderr.write(f"CannotStartContainerError: {reason}")
    sys.exit(int(code))


def start_ticks(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None when it has ended. With the pid, it
    names one process of this boot for ever."""
    stat = _stat(pid)
    return None if stat is None or stat[0] in ("Z", "X") else int(stat[19])


class _Shim:
    def __init__(self, directory: str, spec: dict[str, Any], word: int, lock: int) -> None:
        self._directory = directory
        self._spec = spec
        self._word = word
        self._lock = lock
        self._command = 0
        self._exit_code: int | None = None
        self._lease: HeldLease | None = None
        self._kill_at_ms: int | None = None
        """When the tree is killed, as its lease is over."""

    def run(self) -> NoReturn:
        """Be the shim until the command has ended."""
        os.setsid()
        # Wherever it is moved to, this is where the end is written.
        os.chdir(self._directory)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        wakeup = _signals_to_pipe()
        self._output, output_write = os.pipe()
        os.set_blocking(self._output, False)
        try:
            self._spool = SpoolWriter(self._spec["spool"], self._spec["spool_limit_bytes"])
            self._hold_lease()
            self._start(output_write)
        except (CannotStart, OSError) as error:
            self._remove_started()
            code = PERMANENT if isinstance(error, CannotStart) else 1
            self._say(f"{code} {error}")
            os._exit(code)
        os.close(output_write)
        self._say("0")
        os.close(self._word)
        os.close(self._lock)
        _close_standard_files()
        self._supervise(wakeup)
        self._finish()
        os._exit(0)

    def _hold_lease(self) -> None:
        """Before the command may run. One whose lease is over by then is never run: another attempt
        may be running elsewhere."""
        if self._spec.get("lease"):
            self._lease = HeldLease(self._spec["lease"])
            if self._lease.look():
                raise OSError(errno.ETIME, "the node's lease is over")

    def _start(self, output: int) -> None:
        words = self._spec["command"]
        user = self._spec["user"]
        ids = user_ids(user) if user else None
        scratch = os.path.join(self._directory, SCRATCH)
        os.makedirs(scratch, mode=0o700, exist_ok=True)
        if ids:
            os.chown(scratch, ids[0], ids[1])
        environment = {"PATH": DEFAULT_PATH, "HOME": scratch, **dict(self._spec["environment"])}
        _reserve(self._directory, EXIT)
        go_read, go_write = os.pipe()
        failed_read, failed_write = os.pipe()
        shim = os.getpid()
        self._command = os.fork()
        if self._command == 0:
            os.close(go_write)
            try:
                # While still privileged: only root may raise a hard limit.
                command.set_limits(self._spec["ulimits"])
                _become_command(shim, output, scratch, ids, go_read)
                command.execute(words, environment)
            except Exception as error:
                os.write(failed_write, command.failure(words[0], error).encode())
            finally:
                os._exit(127)
        os.close(failed_write)
        # Started before it may exec: were it the other way round, a shim killed in between would
        # leave no trace of a command that has run, and it would be run again.
        _write_json(self._directory, STARTED, self._started())
        os.write(go_write, b"g")
        os.close(go_write)
        os.close(go_read)
        failed = _read_all(failed_read).decode(errors="replace")
        if failed:
            os.waitpid(self._command, 0)
            raise CannotStart(failed)

    def _started(self) -> dict[str, object]:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot_id = file.read().strip()
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            group = file.read()
        return {
            "boot_id": boot_id,
            "shim_pid": os.getpid(),
            "shim_start_ticks": start_ticks(os.getpid()),
            "command_pid": self._command,
            "cgroup": group,
            "started_at_ms": time.time_ns() // 1_000_000,
            "directory": self._directory,
            "holds_lease": self._lease is not None,
            "marks": self._spec.get("marks", {}),
        }

    def _say(self, word: str) -> None:
        try:
            os.write(self._word, word.encode())
        except BrokenPipeError:
            # The launcher was killed. Whoever starts the node again reads started.json.
            return

    def _remove_started(self) -> None:
        try:
            os.unlink(os.path.join(self._directory, STARTED))
        except FileNotFoundError:
            return

    def _supervise(self, wakeup: int) -> None:
        """Copy output, and obey signals and the lease, until the command has ended."""
        poll = select.poll()
        for each in (wakeup, self._output, *(self._lease.fds if self._lease is not None else ())):
            poll.register(each, select.POLLIN)
        while self._exit_code is None:
            for fd, _ in poll.poll():
                if fd == self._output:
                    if not self._copy():
                        poll.unregister(self._output)
                elif fd == wakeup:
                    self._obey(os.read(wakeup, 512))
                else:
                    self._obey_lease()

    def _obey(self, numbers: bytes) -> None:
        """Do as these signals say."""
        if signal.SIGUSR1 in numbers:
            self._kill_tree()
        elif signal.SIGTERM in numbers:
            _signal_tree(signal.SIGTERM)
        self._reap(os.WNOHANG)
        if signal.SIGUSR2 in numbers:
            self._obey_lease()

    def _obey_lease(self) -> None:
        """End the tree when the lease is over: SIGTERM then, and SIGKILL when the grace is over as
        well, counted from the end of the lease. A shim that could not run meanwhile, as while the
        machine slept, gives no grace: others count from the same moment."""
        self._reap(os.WNOHANG)
        lease = self._lease
        if self._exit_code is not None or lease is None:
            return
        is_over = lease.look()
        if self._kill_at_ms is None:
            if not is_over:
                return
            self._kill_at_ms = lease.kill_at_ms(self._spec["grace_seconds"])
            if now_ms() < self._kill_at_ms:
                _signal_tree(signal.SIGTERM)
        if now_ms() >= self._kill_at_ms:
            self._kill_tree()
        else:
            lease.wake_at(self._kill_at_ms)

    def _copy(self) -> bool:
        """One piece of output to the spool; False when all writers are gone."""
        try:
            data = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return True
        self._spool.write(data)
        return bool(data)

    def _kill_tree(self) -> None:
        """SIGKILL until no descendant is left that can be killed. What a killed process leaves
        becomes a child of the shim, and each turn waits for one to end."""
        while _signal_tree(signal.SIGKILL):
            self._reap(0)

    def _reap(self, options: int) -> None:
        """Collect the children that have ended; with options 0, wait for the first of them."""
        while True:
            try:
                pid, status = os.waitpid(-1, options)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._command:
                code = os.waitstatus_to_exitcode(status)
                self._exit_code = code if code >= 0 else 128 - code
            options = os.WNOHANG

    def _finish(self) -> None:
        stopped_at_ms = time.time_ns() // 1_000_000
        self._kill_tree()
        self._drain()
        self._spool.close()
        # Last, so that whoever sees it knows that all output is in the spool.
        end = {
            "exit_code": self._exit_code,
            "stopped_at_ms": stopped_at_ms,
            "lease_ended": self._kill_at_ms is not None,
        }
        is_alone = not _has_children()
        self._say_end({**end, "is_alone": is_alone})
        if not is_alone:
            self._outlast()
            self._say_end({**end, "is_alone": True})

    def _say_end(self, end: dict[str, object]) -> None:
        """In the node's directory as it is now: the one that the shim began in, or the one that was
        made in its place when that was deleted. Where there is neither, nobody asks."""
        try:
            _write_json("." if os.stat(".").st_nlink else self._directory, EXIT, end)
        except FileNotFoundError:
            return

    def _outlast(self) -> None:
        """Stay for as long as anything is left that could not be killed, as what sudo runs: nothing
        but its parent shows whose it is."""
        os.close(self._output)
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return
            self._kill_tree()

    def _drain(self) -> None:
        """What the pipe still holds. Not until its end: a process that is no descendant may have
        been handed the pipe's other side, and the node must not wait for it."""
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        while poll.poll(0) and self._copy():
            pass


def _become_command(
    shim: int, output: int, scratch: str, ids: tuple[int, int, list[int]] | None, go: int
) -> None:
    """In the forked child: all that stands between the fork and the exec."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (*_OBEYED, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.umask(0o022)
    # Entered while still privileged: the directories above may be the agent's alone.
    os.chdir(scratch)
    if ids:
        uid, gid, groups = ids
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    # After the switch, which clears it.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != shim or os.read(go, 1) != b"g":
        raise OSError(errno.ESRCH, "the shim is gone")


def _signals_to_pipe() -> int:
    """Make signals bytes in a pipe, so that one poll waits for them and for output."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in _OBEYED:
        signal.signal(number, lambda number, frame: None)
    return read


def _close_standard_files() -> None:
    """Let go of what the agent gave the launcher."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _has_children() -> bool:
    """Whether anything is left, since whatever loses its parent becomes a child of the shim."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _signal_tree(number: int) -> bool:
    """Signal every living descendant, parents first. Whether there is a child to wait for: one that
    is dead, or got the signal. One that outranks the agent, as what sudo runs, does not get it."""
    shim = os.getpid()
    ends = False
    for pid, state, parent in _descendants(shim):
        if state not in ("Z", "X"):
            try:
                os.kill(pid, number)
            except PermissionError:
                continue
            except ProcessLookupError:
                pass  # it has ended
        ends = ends or parent == shim
    return ends


def _descendants(root: int) -> list[tuple[int, str, int]]:
    """(pid, state, parent) of all below `root`, parents first."""
    children: dict[int, list[tuple[int, str, int]]] = {}
    for name in os.listdir("/proc"):
        stat = _stat(int(name)) if name.isdigit() else None
        if stat is not None:
            parent = int(stat[1])
            children.setdefault(parent, []).append((int(name), stat[0], parent))
    found = list(children.get(root, []))
    for pid, _, _ in found:
        found.extend(children.get(pid, []))
    return found


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from `state` on; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name is in parentheses and may hold any character, so the last one ends it.
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _reserve(directory: str, name: str) -> None:
    """Take the disk space of a file that `_write_json` will write, while there still is some: a
    job that fills the disk must not lose its exit code by that."""
    with open(os.path.join(directory, f"{name}.tmp"), "wb") as file:
        file.write(b" " * _RESERVED_BYTES)
        os.fsync(file.fileno())


def _write_json(directory: str, name: str, content: dict[str, object]) -> None:
    """Whole or not at all, and still there after a power cut."""
    path = os.path.join(directory, name)
    fd = os.open(f"{path}.tmp", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, json.dumps(content).encode().ljust(_RESERVED_BYTES))
    os.fsync(fd)
    os.close(fd)
    os.rename(f"{path}.tmp", path)
    fd = os.open(directory, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, _READ_BYTES):
        parts.append(part)
    os.close(fd)
    return b"".join(parts)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")
