"""Tells systemd how the daemon is (sd_notify); does nothing under anything else.

The coordinator has the same file, since the daemons share no package. Imports nothing of this
project.
"""

from __future__ import annotations

import functools
import logging
import os
import socket

logger = logging.getLogger(__name__)


def ready() -> None:
    """Start-up is over. Call it once the daemon does its work, not before."""
    _send("READY=1")


def stopping() -> None:
    _send("STOPPING=1")


def status(text: str) -> None:
    """One line for `systemctl status`."""
    _send("STATUS=" + text.replace("\n", " "))


@functools.cache
def _socket_path() -> str:
    # Taken out of the environment, as a child must not have it: podman and runc hand it on to the
    # container and wait for that to be READY. So call one of the above before any child starts.
    return os.environ.pop("NOTIFY_SOCKET", "")


def _send(message: str) -> None:
    path = _socket_path()
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            # A leading @ stands for the zero byte of an abstract address.
            sender.connect("\0" + path[1:] if path.startswith("@") else path)
            sender.send(message.encode())
        except OSError as error:
            logger.warning("cannot notify systemd: socket=%s error=%s", path, error)
