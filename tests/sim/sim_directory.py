"""An agent's data directory: what comes back when it is restored, goes when it is wiped, and is on
another machine when a disk is copied."""

from __future__ import annotations

from agent.ledger.memory import MemoryLedger
from tests.sim.sim_leases import SimLeases


class SimDirectory:
    def __init__(self, agent_uuid: str) -> None:
        self.agent_uuid = agent_uuid
        self.ledger = MemoryLedger()
        self.leases = SimLeases()

    def copied(self) -> SimDirectory:
        """All that it says now, in files of its own."""
        copy = SimDirectory(self.agent_uuid)
        copy.ledger = self.ledger.copied()
        copy.leases = self.leases.copied()
        return copy
