"""The ledger without a disk: for tests and simulated agents. Same contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.core.assignment import NodeKey
from agent.core.state import Slot
from agent.ledger.codec import decode, encode
from agent.ledger.port import LedgerContents


@dataclass(frozen=True, slots=True)
class _Memory:
    """Of another cluster."""

    slots: dict[str, str]
    boot_id: str
    contact: int | None
    token: bytes


class MemoryLedger:
    """Outlives the agent that uses it, so a test can restart one."""

    def __init__(self) -> None:
        self._slots: dict[str, str] = {}
        self._incarnation = 0
        self._boot_id = ""
        self._contact: int | None = None
        self._token = b""
        self._owner = self._cluster_id = ""
        self._others: dict[str, _Memory] = {}

    def copied(self) -> MemoryLedger:
        """Another one that says the same, as a copied data directory has it."""
        copy = MemoryLedger()
        vars(copy).update(vars(self), _slots=dict(self._slots), _others=dict(self._others))
        return copy

    def open(self, boot_id: str, owner: str) -> LedgerContents:
        self._incarnation += 1
        if self._owner not in ("", owner):
            self._slots.clear()
            self._others.clear()
        self._owner = owner
        last_boot, self._boot_id = self._boot_id, boot_id
        return LedgerContents(
            slots=tuple(decode(body) for body in self._slots.values()),
            incarnation=self._incarnation,
            boot_id=last_boot,
            last_contact_ms=self._contact if last_boot == boot_id else None,
            journal_token=self._token,
            cluster_id=self._cluster_id,
            elsewhere=tuple(
                decode(body).key for other in self._others.values() for body in other.slots.values()
            ),
        )

    def keep_cluster(self, cluster_id: str) -> None:
        if self._cluster_id not in ("", cluster_id):
            self._others[self._cluster_id] = _Memory(
                self._slots, self._boot_id, self._contact, self._token
            )
            memory = self._others.pop(cluster_id, _Memory({}, self._boot_id, 0, b""))
            self._slots, self._boot_id = memory.slots, memory.boot_id
            self._contact, self._token = memory.contact, memory.token
        self._cluster_id = cluster_id

    def save(self, keep: Sequence[Slot], forget: Sequence[NodeKey]) -> None:
        self._slots |= {slot.key.name: encode(slot) for slot in keep}
        for key in forget:
            self._slots.pop(key.name, None)

    def keep_contact(self, last_contact_ms: int | None) -> None:
        self._contact = last_contact_ms

    def keep_token(self, token: bytes) -> None:
        self._token = token

    def close(self) -> None:
        pass
