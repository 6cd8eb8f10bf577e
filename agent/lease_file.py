"""The lease of one node as a file: until when it may run, for whoever ends it then.

The agent writes it; a *holder* that needs neither agent, ledger nor configuration obeys it: the
node's shim, or for a container its keeper. A holder opens the file once and keeps the descriptor,
so that a data directory that is wiped, moved or copied changes nothing for it.

    bytes 0-19   20 digits: the millisecond of CLOCK_BOOTTIME at which the lease ends; all zeros:
                 never; `gone`: the node has been removed
    byte 20      `x` once the node has been ended because its lease was over
    bytes 21-    a space and the stop grace in seconds

Each part is written in place with one call, and never renamed.

Shims import this and must start fast: nothing of `agent`, and no module that is slow to load.
"""
# ruff: noqa: PTH100, PTH103, PTH108, PTH110, PTH115, PTH118, PTH208

from __future__ import annotations

import ctypes
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_DIGITS = 20
_NEVER = b"0" * _DIGITS
_GONE = b"gone".ljust(_DIGITS)
_ENDED_AT, _ENDED = _DIGITS, b"x"
_GRACE_AT = _DIGITS + 1
_GRACE_BYTES = 10
_DEFAULT_GRACE_SECONDS = 30

_CLOCK_BOOTTIME = 7
_TFD_TIMER_ABSTIME = 1
_IN_MODIFY, _IN_ATTRIB = 0x2, 0x4
_LOOK_MS = 1000
"""How often a holder without inotify, which others may have used up, looks at a lease that never
ends whether it still never does."""


def now_ms() -> int:
    """The clock of leases: milliseconds since boot, counting suspend."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Leases:
    """The lease files of one host, in `directory`; of its agent, which alone makes and deletes
    them. Nodes go by their names. Every method raises OSError."""

    def __init__(self, directory: Path | str) -> None:
        self._directory = os.path.abspath(directory)
        self._open: dict[str, int] = {}
        """Kept, as holders keep theirs: the directory may be moved under a running agent."""

    def path(self, name: str) -> str:
        """Where the node's file is, or would be."""
        return os.path.join(self._directory, name)

    def set(self, name: str, ends_at_ms: int | None, grace_seconds: int) -> None:
        """The lease ends then, or never; its holder has seen it when it ends."""
        fd = self._open.get(name, -1)
        if fd < 0:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            fd = os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._open[name] = fd
        # The grace first: a holder that sees the end of the lease must know it.
        os.pwrite(fd, b" %-9d" % grace_seconds, _GRACE_AT)
        os.pwrite(fd, _NEVER if ends_at_ms is None else b"%020d" % max(ends_at_ms, 1), 0)

    def find(self, name: str, holder_pid: int) -> bool:
        """Write from now on to the file that this holder has open: this directory may have been
        wiped, or be a copy, since it opened it. Whether it has one of the node."""
        descriptors = f"/proc/{holder_pid}/fd"
        try:
            numbers = os.listdir(descriptors)
        except FileNotFoundError:
            return False  # the holder has ended
        for number in numbers:
            link = os.path.join(descriptors, number)
            try:
                file = os.readlink(link).removesuffix(" (deleted)")
                if not file.endswith(f"/leases/{name}"):
                    continue
                # The link opens the file itself, also one that has no name any more.
                fd = os.open(link, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            if name in self._open:
                os.close(self._open[name])
            self._open[name] = fd
            return True
        return False

    def ends_ms(self, name: str) -> int | None:
        """When the lease ends, as its holder has it; None is never. Without a file nobody holds it,
        and it ended long ago."""
        content = self._content(name)
        return _deadline(content) if content is not None else 1

    def grace_seconds(self, name: str) -> int | None:
        """The node's stop grace; None without a file."""
        content = self._content(name)
        if content is None:
            return None
        grace = content[_GRACE_AT:].strip()
        return int(grace) if grace.isdigit() else _DEFAULT_GRACE_SECONDS

    def note_end(self, name: str) -> None:
        """Write down that the node is being ended because its lease is over, if it has a file."""
        if name in self._open:
            os.pwrite(self._open[name], _ENDED, _ENDED_AT)
            return
        try:
            fd = os.open(self.path(name), os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.pwrite(fd, _ENDED, _ENDED_AT)
        finally:
            os.close(fd)

    def is_end_noted(self, name: str) -> bool:
        """Whether the node was ended because its lease was over."""
        content = self._content(name)
        return content is not None and content[_ENDED_AT:_GRACE_AT] == _ENDED

    def is_over(self, name: str) -> bool:
        """Whether nothing of the node may be started any more."""
        content = self._content(name)
        ends_ms = _deadline(content) if content is not None else None
        return ends_ms is not None and now_ms() >= ends_ms

    def remove(self, name: str) -> None:
        """The node is gone: its keeper leaves, and so does the file. Idempotent."""
        fd = self._open.pop(name, -1)
        try:
            if fd < 0:
                fd = os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC)
            os.pwrite(fd, _GONE, 0)
            # A holder whose file has lost its name is not told by the deletion.
            os.fchmod(fd, 0o600)
            os.unlink(self.path(name))
        except FileNotFoundError:
            return
        finally:
            if fd >= 0:
                os.close(fd)

    def keep_only(self, names: Collection[str]) -> None:
        """Remove the files of all other nodes."""
        if os.path.exists(self._directory):
            for name in os.listdir(self._directory):
                if name not in names:
                    self.remove(name)

    def close(self) -> None:
        """Leave all leases as they are."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _content(self, name: str) -> bytes | None:
        if name in self._open:
            return os.pread(self._open[name], _GRACE_AT + _GRACE_BYTES, 0)
        try:
            fd = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return os.pread(fd, _GRACE_AT + _GRACE_BYTES, 0)
        finally:
            os.close(fd)


class HeldLease:
    """A lease as its holder sees it. Poll `fds`, and ask `look` whenever one of them is readable:
    nothing else has to be done, and nothing polls in intervals."""

    def __init__(self, path: str) -> None:
        """OSError when there is no such file, or nothing in it that can be read."""
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.ends_ms: int | None = None
        """As read last; None for never."""
        self.is_gone = False
        if not self._read():
            os.close(self._fd)
            raise OSError(f"{path} holds no lease")
        self._timer = _checked(
            _libc().timerfd_create(_CLOCK_BOOTTIME, os.O_NONBLOCK | os.O_CLOEXEC)
        )
        self._inotify = _inotify()
        self.look()

    @property
    def fd(self) -> int:
        """The file's own descriptor, to lock it."""
        return self._fd

    @property
    def fds(self) -> list[int]:
        """What is readable when there is something to look at."""
        return [fd for fd in (self._timer, self._inotify) if fd >= 0]

    def look(self) -> bool:
        """Read the file again. Whether the lease is over; else the next look is arranged for."""
        for fd in self.fds:
            try:
                os.read(fd, 4096)
            except BlockingIOError:
                continue
        self._read()
        # Watched first and read again after that, so that no change falls between.
        never = self.ends_ms is None
        is_watched = self._watch(_IN_ATTRIB | (_IN_MODIFY if never else 0))
        self._read()
        if self.is_gone:
            return False
        if self.ends_ms is None:
            self.wake_at(0 if is_watched else now_ms() + _LOOK_MS)
            return False
        if now_ms() >= self.ends_ms:
            return True
        self.wake_at(self.ends_ms)
        return False

    def kill_at_ms(self, grace_seconds: int) -> int:
        """When the grace is over too. It counts from the end of the lease, whenever the holder gets
        to it, since the coordinator counts from there."""
        return (self.ends_ms or 0) + 1000 * grace_seconds

    def wake_at(self, at_ms: int) -> None:
        """Be readable then; 0 for not at all."""
        seconds, milliseconds = divmod(at_ms, 1000)
        setting = (ctypes.c_long * 4)(0, 0, seconds, milliseconds * 1_000_000)
        _checked(_libc().timerfd_settime(self._timer, _TFD_TIMER_ABSTIME, setting, None))

    def note_end(self) -> None:
        """Write down that the node is being ended because its lease is over; unless the disk does
        not take it, as one that has become read-only: the node has to end all the same."""
        try:
            os.pwrite(self._fd, _ENDED, _ENDED_AT)
        except OSError:
            return

    def _read(self) -> bool:
        """Whether there was something to read. What is damaged changes nothing: the deadline that
        was read last stays in force."""
        try:
            content = os.pread(self._fd, _DIGITS, 0)
            # Twice the same: nobody was in the middle of writing it.
            while (again := os.pread(self._fd, _DIGITS, 0)) != content:
                content = again
        except OSError:
            return False
        if content == _GONE:
            self.is_gone = True
        elif len(content) == _DIGITS and content.isdigit():
            self.ends_ms = _deadline(content)
        else:
            return False
        return True

    def _watch(self, mask: int) -> bool:
        """By the descriptor, which is the file itself, whatever became of its name."""
        if self._inotify < 0:
            return False
        path = b"/proc/self/fd/%d" % self._fd
        return bool(_libc().inotify_add_watch(self._inotify, path, mask) >= 0)


def _deadline(content: bytes) -> int | None:
    digits = content[:_DIGITS]
    return int(digits) or None if len(digits) == _DIGITS and digits.isdigit() else None


def _inotify() -> int:
    """-1 when others have used it up."""
    return int(_libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
