"""What a host should run, and what it says it does: the agent's half of the contract.

Everything here is a value. Nothing here may import asyncio, grpc, protobuf, or a file API.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from agent.core.marks import Marks


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
class Ulimit:
    """One process limit, in the limit's own unit; -1 is unlimited."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A directory in the container: the host's `source`, or, where that is empty, the scratch
    volume `volume`, which all mounts of one container that name it share and which goes with it."""

    target: str
    source: str = ""
    volume: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device of the host. `permissions` are of `r`, `w` and `m` (mknod)."""

    host_path: str
    container_path: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """A file system in memory; `options` are mount(8)'s."""

    target: str
    size_mib: int
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """The variable `name` gets what the host's secret store has under `key`."""

    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How to log in to a registry. Never printed, stored or put in a command line."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """All nodes of the attempt, by node index: where each is and how many processes it takes
    (its GPUs if it has any, else its vCPUs). Known once every host has voted."""

    main_node: int
    addresses: tuple[str, ...]
    host_ids: tuple[str, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """What to run, whatever engine runs it (aws-batch-spec section 5).

    `command` replaces the image's CMD only; empty means the image's own. `environment` is
    literal and complete but for what the host adds: job's variables and AWS's. `memory_mib` and
    `vcpus` are at least 1 by the time they are here. `user` is None for the image's own. Of
    `shared_memory_mib`, `max_swap_mib` and `swappiness` None means the engine's own.

    What the coordinator asks for by name (`gpus`, `secrets`, `credential`) the host answers in
    `gpu_ids`, `environment` and `login` just before an engine gets the specification; `address` is
    the one that the host's vote promised, empty for the host's own. Those never reach the ledger.
    `gate` is a path as the container sees it: a FIFO on which the command waits for its first line.
    `marks` say to whoever finds the node whose it is.
    `lease_file` is where the node's lease is (`agent/lease_file.py`), for who holds it; without
    one nobody does. Its holder grants `stop_grace_seconds`.
    """

    image: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    vcpus: int
    memory_mib: int
    user: str | None = None
    gpus: int = 0
    privileged: bool = False
    read_only_root: bool = False
    init: bool = False
    ulimits: tuple[Ulimit, ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    shared_memory_mib: int | None = None
    max_swap_mib: int | None = None
    swappiness: int | None = None
    secrets: tuple[SecretRef, ...] = ()
    credential: str | None = None

    gpu_ids: tuple[str, ...] = ()
    login: Login | None = None
    address: str = ""
    gate: str = ""
    marks: Marks | None = None
    lease_file: str = ""
    stop_grace_seconds: int = 30


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
    when contact is lost. `gang` is None until all have voted. `hold`: the container is to run, and
    its command to wait in it until an assignment comes without `hold`.
    """

    key: NodeKey
    desired: Desired
    spec: ContainerSpec | None
    stop_grace_seconds: int
    lease_seconds: int
    gang: Gang | None = None
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLease:
    """What a node itself says of its lease, where no assignment does. `ends_at_ms` is when its
    holder ends it, on the host's clock since boot; None is never.
    """

    seconds: int
    grace_seconds: int
    ends_at_ms: int | None
