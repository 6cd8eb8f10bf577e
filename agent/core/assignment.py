"""What a host should run, and what it says it does: the agent's half of the contract.

Everything here is a value. Nothing here may import asyncio, grpc, protobuf, or a file API.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class NodeKey:
    """One node of one attempt of one job: the name of everything the agent makes for it.

    `attempt` is in the key, so a container of an older attempt is never taken for a newer one.
    """

    job_id: str
    attempt: int
    node_index: int

    @property
    def name(self) -> str:
        """A file and container name; unique for ever, because job ids are."""
        return f"muster-{self.job_id}-{self.attempt}-{self.node_index}"

    @classmethod
    def parse(cls, name: str) -> NodeKey | None:
        """The key that `name` was made of, or None for a name that is not ours."""
        prefix, _, rest = name.partition("-")
        job_id, _, numbers = rest.rpartition("-")
        job_id, _, attempt = job_id.rpartition("-")
        if prefix != "muster" or not (job_id and attempt.isdigit() and numbers.isdigit()):
            return None
        return cls(job_id=job_id, attempt=int(attempt), node_index=int(numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """What to run, whatever engine runs it (aws-batch-spec section 5).

    `command` replaces the image's CMD only; empty means the image's own. `environment` is
    literal and complete: job's variables and AWS's. `memory_mib` and `vcpus` are at least 1
    by the time they are here. `user` is None for the image's own.
    """

    image: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    vcpus: int
    memory_mib: int
    user: str | None = None


class Desired(StrEnum):
    """What the coordinator wants of an assignment. It only moves forward: see DESIRED_RANK."""

    PREPARE = "PREPARE"
    RUN = "RUN"
    STOP = "STOP"


class Progress(IntEnum):
    """How far a node has come on its host; the number is its rank and only grows."""

    ASSIGNED = 0
    PREPARED = 10
    REFUSED = 20
    STARTING = 30
    RUNNING = 40
    EXITED = 50
    """The container ended, or never started; `exit_code` and `reason` say which."""
    RELEASED = 60
    """Verified: the container, its processes and its files are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One entry of the full list that the coordinator sends.

    `spec` is None with STOP. `lease_seconds` 0 means that the container never stops by itself
    when contact is lost.
    """

    key: NodeKey
    desired: Desired
    spec: ContainerSpec | None
    stop_grace_seconds: int
    lease_seconds: int
