"""What is written on all that a node runs as, so that whoever finds it knows whose it is.

Containers have it as labels, the process engine's shims as variables of the same names. It outlives
the agent, its data directory and its settings. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HOST = "muster.host"
HOST_ID, CLUSTER_ID = "MUSTER_HOST_ID", "MUSTER_CLUSTER_ID"
"""Variables of what a node runs, which its descendants inherit."""
_CLUSTER, _MACHINE, _LEASE, _GRACE = (
    *("muster.cluster", "muster.machine"),
    *("muster.lease-seconds", "muster.grace-seconds"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Whose a node is, and how it ends without contact. `machine` is a short name of the machine
    that started it; a copy of its disk carries its marks to another."""

    cluster_id: str
    host_id: str
    machine: str
    lease_seconds: int
    grace_seconds: int

    @property
    def labels(self) -> dict[str, str]:
        """As text, by name."""
        return {
            _CLUSTER: self.cluster_id,
            HOST: self.host_id,
            _MACHINE: self.machine,
            _LEASE: str(self.lease_seconds),
            _GRACE: str(self.grace_seconds),
        }

    @property
    def variables(self) -> tuple[tuple[str, str], ...]:
        """For the environment of what the node runs."""
        return (HOST_ID, self.host_id), (CLUSTER_ID, self.cluster_id)

    @classmethod
    def read(cls, labels: Mapping[str, str]) -> Marks | None:
        """The marks that `labels` were made of, with whatever else is there; None for a node of an
        older release, and for text that was not written here."""
        lease, grace = labels.get(_LEASE, ""), labels.get(_GRACE, "")
        if not (lease.isdecimal() and grace.isdecimal()):
            return None
        return cls(
            cluster_id=labels.get(_CLUSTER, ""),
            host_id=labels.get(HOST, ""),
            machine=labels.get(_MACHINE, ""),
            lease_seconds=int(lease),
            grace_seconds=int(grace),
        )
