"""The engine port: the verbs that every way of running a container offers.

An engine is an adapter; it decides nothing and retries nothing, so that failures reach the
machine, which does. Must not import `coordinator`, `muster` or `agent.core.machine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from agent.core.assignment import ContainerSpec, NodeKey
from agent.core.marks import Marks


class ErrorClass(StrEnum):
    """What a failure means for the next step."""

    TRANSIENT = "TRANSIENT"
    """This host may well succeed when asked again (time-out, registry away, disk full)."""
    PERMANENT = "PERMANENT"
    """The job is wrong wherever it runs (no such image, invalid user, no such command)."""
    ENGINE_GONE = "ENGINE_GONE"
    """The engine itself does not answer; nothing is known of its containers."""


class EngineError(Exception):
    """A verb failed. `reason` is what a user reads, in the form `<ErrorName>: <text>` where
    AWS has a name for it (CannotPullContainerError, CannotStartContainerError, ...)."""

    def __init__(self, error_class: ErrorClass, reason: str, *, may_have_run: bool = False) -> None:
        """`may_have_run`: of `start`, the container is gone, and may have run before it went."""
        super().__init__(reason)
        self.error_class = error_class
        self.reason = reason
        self.may_have_run = may_have_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A container that runs. `private_ipv4` is None when it uses the host's own address."""

    container_id: str
    started_at_ms: int
    private_ipv4: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a container ended. `exit_code` follows the shell's rule: 128 + n for signal n.

    `reason` is empty after a normal end and `<ErrorName>: <text>` otherwise
    (`OutOfMemoryError: Container killed due to memory usage`). `exit_code` is None only when
    nothing can know it any more. `lease_ended`: it did not end by itself, but was ended by the
    holder of its lease, or by `end_lease`.
    """

    exit_code: int | None
    stopped_at_ms: int
    reason: str = ""
    lease_ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Managed:
    """A container of ours that the engine still has, running or ended."""

    key: NodeKey
    started: Started | None
    running: bool
    marks: Marks | None = None
    """None for a node of an older release."""


class Engine(Protocol):
    """One way to run a node's container.

    Every verb is idempotent, may be cancelled, and raises EngineError and nothing else. At most
    one verb per key runs at a time, but for `wait`, which runs beside `stop`, `end_lease` and
    `kill`.

    A node whose specification names a lease file has a *holder* from before its start until its
    end: a process that ends the node when the lease is over, whatever has become of the agent.
    """

    @property
    def name(self) -> str:
        """`process`, `docker` or `podman`."""
        ...

    async def probe(self) -> str:
        """The engine's version; EngineError(ENGINE_GONE) when it does not answer."""
        ...

    async def prepare(self, key: NodeKey, spec: ContainerSpec) -> str:
        """Do all that can be done before the main's address is known: pull the image (fall back
        to the cached one), check user, free space and leftovers. Starts nothing.

        Returns the address of its own that `start` will give the container (`spec.address` then),
        or nothing when that is the host's.
        """
        ...

    async def start(self, key: NodeKey, spec: ContainerSpec) -> Started:
        """Run the container. A container of this key that exists already is not started again:
        its Started is returned. Nothing is started when the lease is over."""
        ...

    async def wait(self, key: NodeKey, began_at_ms: int = 0) -> Exit:
        """Return when the container has ended and all its output is in the spool. Works for a
        container that an earlier agent process started, and sees that it has a holder. Never
        polls.

        `began_at_ms` is the `Started.started_at_ms` of its start; 0 when nobody knows. What was
        started again since is ended, and has an Exit without a code: a node runs once."""
        ...

    async def stop(self, key: NodeKey, grace_seconds: int) -> None:
        """SIGTERM (or the image's STOPSIGNAL), `grace_seconds`, SIGKILL, for the whole process
        tree. Returns when the container has ended; at once when it is not there."""
        ...

    async def end_lease(self, key: NodeKey, grace_seconds: int) -> None:
        """As `stop`, for a container whose lease is over: its `Exit.lease_ended` says so. One that
        has ended by itself keeps its own end."""
        ...

    async def kill(self, key: NodeKey) -> None:
        """SIGKILL the whole tree. Returns when the container has ended."""
        ...

    async def remove(self, key: NodeKey) -> None:
        """Remove what is left of an ended container and prove that its processes are gone.
        EngineError with the evidence (pids, names) when something survives. Its holder leaves,
        and its lease file goes. Keeps the spool."""
        ...

    async def list_managed(self) -> list[Managed]:
        """All of this host's containers that carry our labels, oldest attempt first."""
        ...

    async def close(self) -> None:
        """Let go of every helper task and file; containers stay as they are."""
        ...
