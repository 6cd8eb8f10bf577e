"""The ledger port: what this agent was given and how far it came, across its own restarts.

Must not import an engine, the link or protobuf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.core.assignment import NodeKey
from agent.core.state import Slot

TOKEN_BYTES_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerContents:
    """`incarnation` is this start's number: 1 for the first. `boot_id` is that of the start before,
    and empty at the first; of the last start that served this cluster, when another one came
    between. `cluster_id` is empty when no coordinator has told one."""

    slots: tuple[Slot, ...]
    incarnation: int
    boot_id: str
    last_contact_ms: int | None
    journal_token: bytes = b""
    """Empty when no coordinator has told one."""
    cluster_id: str = ""
    elsewhere: tuple[NodeKey, ...] = ()
    """Nodes of other clusters, of which the ledger keeps what it knows."""


class LedgerError(Exception):
    """The ledger cannot be used; the message names the file and the cause. Always fatal: an agent
    that cannot write down what it starts might start it twice."""


class Ledger(Protocol):
    """One writer, this agent. Calls block for a disk write; the shell calls them from a thread."""

    def open(self, boot_id: str, owner: str) -> LedgerContents:
        """Read everything, count this start and remember the boot. First call. Slots that another
        owner has written are forgotten: the ledger is a copy, or the host has a new name, and what
        they name is left to its lease. Content that is damaged is set aside with a word in the log,
        and a new ledger is begun: then the host itself has to say what runs here."""
        ...

    def keep_cluster(self, cluster_id: str) -> None:
        """Remember which cluster this agent belongs to. What is known of another one (slots, boot,
        contact, token) is put away, and what its slots name is left to its lease, until the agent
        belongs to that cluster again. It counts from the next `open` on. As durable as `save`."""
        ...

    def save(self, keep: Sequence[Slot], forget: Sequence[NodeKey]) -> None:
        """Make slots durable, all or nothing; returns when they would survive a power cut."""
        ...

    def keep_contact(self, last_contact_ms: int | None) -> None:
        """Remember a contact; None forgets the one before, so that leases run anew from the next
        start. Survives the agent's death, need not survive the machine's: after a reboot nothing
        runs whose lease it could be."""
        ...

    def keep_token(self, token: bytes) -> None:
        """Remember what was seen of the coordinator's journal: text without white space, at most
        `TOKEN_BYTES_MAX`. Survives the agent's death; a power cut may take the last half minute
        of it, as nobody waits for the disk."""
        ...

    def close(self) -> None: ...
