"""The lease files of one simulated data directory, and the holders that end what outlives its
lease, whatever has become of the agent and of the directory. As `agent.lease_file` and the real
holders do, by the host's own clock.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.sim_engine import Container
    from tests.sim.sim_host import SimHost

LEASE_IS_OVER = "its lease is over"
"""Why a start is refused that its agent, having hung, comes too late with."""


@dataclass(slots=True, eq=False)
class LeaseFile:
    """What is in it, and who has it open."""

    ends_at_ms: int | None
    """None for never."""
    grace_seconds: int
    is_gone: bool = False
    """The node was removed."""
    holder: Holder | None = None

    def is_over(self, now_ms: int) -> bool:
        return self.ends_at_ms is not None and now_ms >= self.ends_at_ms


class SimLeases:
    """The files of a directory by the names of nodes. A holder has the file that was there when it
    was born, and keeps it."""

    def __init__(self) -> None:
        self._files: dict[str, LeaseFile] = {}

    def copied(self) -> SimLeases:
        """Files of the same content that nobody has open."""
        copy = SimLeases()
        copy._files = {name: replace(file, holder=None) for name, file in self._files.items()}
        return copy

    def set(self, name: str, ends_at_ms: int | None, grace_seconds: int) -> None:
        file = self._files.setdefault(name, LeaseFile(ends_at_ms, grace_seconds))
        file.ends_at_ms, file.grace_seconds = ends_at_ms, grace_seconds
        if file.holder is not None:
            file.holder.look()

    def find(self, name: str, holder: Holder) -> None:
        """From now on the file of this holder is meant."""
        self._files[name] = holder.file

    def file(self, name: str) -> LeaseFile:
        """One that nobody has written is for ever."""
        return self._files.setdefault(name, LeaseFile(None, 0))

    def ends_ms(self, name: str) -> int | None:
        """Without a file nobody holds it, and it ended long ago."""
        file = self._files.get(name)
        return file.ends_at_ms if file is not None else 1

    def is_over(self, name: str, now_ms: int) -> bool:
        file = self._files.get(name)
        return file is not None and file.is_over(now_ms)

    def remove(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            file.is_gone = True

    def keep_only(self, names: Collection[str]) -> None:
        for name in [name for name in self._files if name not in names]:
            self.remove(name)


class Holder:
    """Of one container, from before its start until its end."""

    def __init__(self, host: SimHost, container: Container, file: LeaseFile) -> None:
        self.host = host
        self.container = container
        self.file = file
        self._is_armed = False
        file.holder = self
        self.look()

    def look(self) -> None:
        """Whether there is a deadline to wait for. One that waits looks again when its own comes,
        though the lease may be shorter by now."""
        ends_at_ms = self.file.ends_at_ms
        if ends_at_ms is None or self._is_armed or self.file.is_gone or not self.container.running:
            return
        self._is_armed = True
        due_ms = self.host.world_time(ends_at_ms) - self.host.world.now
        self.host.in_this_boot(due_ms, self._wake)

    def _wake(self) -> None:
        self._is_armed = False
        ends_at_ms = self.file.ends_at_ms
        if ends_at_ms is not None and self.file.is_over(self.host.clock()):
            if not self.file.is_gone:
                self._end(ends_at_ms + 1000 * self.file.grace_seconds)
        else:
            self.look()

    def _end(self, kill_at_ms: int) -> None:
        """The holder's work."""
        grace_ms = max(kill_at_ms - self.host.clock(), 0)
        self.host.engine.end_by_lease(self.container, grace_ms)
