"""Tells systemd how the daemon is (sd_notify); does nothing under anything else.

The coordinator has the same file, since the daemons share no package. Imports nothing of this
project.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import time

logger = logging.getLogger(__name__)

SEND_SECONDS = 0.5
"""A systemd that does not read must not stop the daemon for longer."""


def ready() -> None:
    """Start-up is over. Call it once the daemon does its work, not before."""
    _send("READY=1")


def stopping() -> None:
    _send("STOPPING=1")


def status(text: str) -> None:
    """One line for `systemctl status`, which also shows it after the daemon's end."""
    _send("STATUS=" + text.replace("\n", " "))


class Watchdog:
    """What `WatchdogSec=` of the unit asks for: a word at least that often, else systemd ends the
    daemon and starts it again. Does nothing where systemd asks for none.

    Only the task that owns the machine may give the word, after a turn: a thread or a timer of its
    own would go on although the daemon does nothing any more. So that task makes a turn now and
    then although nothing has come in; that is all that wakes for this.
    """

    def __init__(self) -> None:
        _, self._pause_seconds = _asked()
        self._next = time.monotonic()

    def wait_seconds(self, seconds: float | None) -> float | None:
        """How long the task may wait for an input when it would wait for `seconds`; None is for
        ever. At most half of what systemd waits, so that a turn may take the other half."""
        if self._pause_seconds is None:
            return seconds
        left = max(self._next - time.monotonic(), 0.0)
        return left if seconds is None else min(seconds, left)

    def turned(self) -> None:
        """A turn has been made. Cheap: systemd hears of it only when that is due."""
        # This clock and systemd's stand still together while the machine sleeps.
        if self._pause_seconds is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._pause_seconds
            _send("WATCHDOG=1")


@functools.cache
def _asked() -> tuple[str, float | None]:
    """Where systemd listens, empty for nowhere, and how many seconds after one turn of the daemon
    the next has to be made."""
    # Taken out of the environment, as a child must not have it: podman and runc hand it on to the
    # container and wait for that to be READY. So call one of the above before any child starts.
    path = os.environ.pop("NOTIFY_SOCKET", "")
    limit_us = os.environ.pop("WATCHDOG_USEC", "")
    is_ours = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return path, int(limit_us) / 2_000_000 if path and limit_us and is_ours else None


def _send(message: str) -> None:
    path, _ = _asked()
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(SEND_SECONDS)
        try:
            # A leading @ stands for the zero byte of an abstract address.
            sender.connect("\0" + path[1:] if path.startswith("@") else path)
            sender.send(message.encode())
        except OSError as error:
            logger.warning("cannot notify systemd: socket=%s error=%s", path, error)
