"""What is here of this host's nodes when the agent starts, and whose it is.

The engine says what it still has; the host's own processes say what the engine has forgotten, or
never knew. Both name nodes of every cluster and of every machine that the disk was copied from, so
that each is held against this host's own marks. Must not import an engine but its port.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from agent.core.assignment import NodeKey
from agent.engine.port import Managed
from agent.host.nodes import FoundNode

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """`ours` are to be taken over. `unmanaged` live and are ours, and the engine does not know
    them: nothing is certain of this host before they have ended."""

    ours: tuple[Managed, ...]
    unmanaged: tuple[FoundNode, ...]
    keys: tuple[NodeKey, ...]
    """Of all that is here or in the ledger, also of what is left to its lease."""

    @property
    def words(self) -> str:
        """Why the host cannot be used; empty when it can."""
        if not self.unmanaged:
            return ""
        names = ", ".join(f"{node.key.name} (pid {node.pid})" for node in self.unmanaged)
        return (
            f"MusterHostError: processes run here of nodes that the engine does not have: {names}. "
            "Set the engine and its store as they were, or wait: they end with their lease"
        )


def are_certain(
    managed: Collection[Managed], running: Collection[FoundNode], known: Collection[NodeKey]
) -> bool:
    """Whether it matters not which cluster this agent belongs to, as its ledger knows all."""
    found = [each.key for each in managed if each.marks] + [node.key for node in running]
    return all(key in known for key in found)


def sort(
    managed: Collection[Managed],
    running: Collection[FoundNode],
    known: Collection[NodeKey],
    *,
    cluster_id: str,
    machine: str,
) -> Whereabouts:
    """What of all that was found is this agent's to look after. `known` are the ledger's."""
    ours = []
    for each in managed:
        whose = _another(each, cluster_id, machine)
        if whose and each.key not in known:
            logger.warning("left alone: node=%s it is %s", each.key.name, whose)
        else:
            ours.append(each)
    names = {each.key for each in managed}
    unmanaged = [
        node for node in running if node.key not in names and node.cluster_id == cluster_id
    ]
    keys = dict.fromkeys([*known, *names, *(node.key for node in running)])
    return Whereabouts(ours=tuple(ours), unmanaged=tuple(unmanaged), keys=tuple(keys))


def _another(found: Managed, cluster_id: str, machine: str) -> str:
    """Whose it is when it is not ours; empty for ours, and for a node of an older release."""
    marks = found.marks
    if marks is None:
        return ""
    if marks.cluster_id != cluster_id:
        return f"of another cluster ({marks.cluster_id})"
    if marks.machine != machine and not found.running:
        # What runs here runs here, also when the machine has changed its name.
        return "of another machine, from which this disk was copied"
    return ""
