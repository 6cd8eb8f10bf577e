"""What a daemon believes to be the systemd that has started it."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path


class ServiceManager:
    """Hears what daemons say to it. It reads all the time, as systemd does: one that has too much
    to read would make them wait."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def environment(self, watchdog_seconds: float | None = None) -> dict[str, str]:
        """What it gives to a daemon, with a unit's `WatchdogSec=` or without."""
        given = {"NOTIFY_SOCKET": str(self._path)}
        if watchdog_seconds is not None:
            given["WATCHDOG_USEC"] = str(int(watchdog_seconds * 1_000_000))
        return given

    def heard(self) -> list[str]:
        """All that it has read since it was asked last."""
        return [self._said.get_nowait() for _ in range(self._said.qsize())]

    def close(self) -> list[str]:
        """What nobody has asked for yet, once all is read that was sent before. Idempotent."""
        if not self._reader.is_alive():
            return self.heard()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self._path))
        self._reader.join()
        self._socket.close()
        return self.heard()

    def _read(self) -> None:
        while message := self._socket.recv(4096):
            self._said.put(message.decode())


@contextlib.contextmanager
def service_manager(directory: Path) -> Iterator[ServiceManager]:
    """One that listens in a directory."""
    made = ServiceManager(directory / "notify")
    try:
        yield made
    finally:
        made.close()
