"""Names of things. A host id is configured and stable; an address is never an id, because
addresses are reused."""

from __future__ import annotations

from typing import NamedTuple, NewType

JobId = NewType("JobId", str)
HostId = NewType("HostId", str)
SessionId = NewType("SessionId", str)


class NodeKey(NamedTuple):
    """One node of one attempt of one job. `attempt` fences everything older."""

    job_id: JobId
    attempt: int
    node_index: int

    def __str__(self) -> str:
        return f"{self.job_id}#{self.node_index} attempt {self.attempt}"
