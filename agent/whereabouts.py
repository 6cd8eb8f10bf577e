"""What is here of this host's nodes when the agent starts, and whose it is.

The engine says what it still has; the host's own processes say what the engine has forgotten, or
never knew. Both name nodes of every cluster and of every machine that the disk was copied from, so
that each is held against this host's own marks. Must not import an engine but its port.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass, field

from agent.core import inputs as i
from agent.core.assignment import FoundLease, NodeKey
from agent.engine.port import Engine, Managed
from agent.host import nodes
from agent.host.nodes import FoundNode
from agent.host.survivors import Survivors

logger = logging.getLogger(__name__)

UNDECIDED = (
    "MusterHostError: nodes run here that this agent's files do not know; whether they are this "
    "agent's is known once the coordinator has said which cluster it is of"
)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """`ours` are to be taken over. `strange` live and may be ours, and are not ours to end: nothing
    is certain of this host before they have ended, with their lease at the latest."""

    ours: tuple[Managed, ...]
    strange: tuple[NodeKey, ...]
    keys: tuple[NodeKey, ...]
    """Of all that is here or in the ledger, also of what is left to its lease or is of another
    cluster."""
    pids: dict[NodeKey, int] = field(default_factory=dict)
    """A process of each node that has one, for people: variables can also be copied, and what has
    only these has no lease that ends it."""

    @property
    def words(self) -> str:
        """Why the host cannot be used; empty when it can."""
        if not self.strange:
            return ""
        names = ", ".join(
            f"{key.name} (pid {self.pids[key]})" if key in self.pids else key.name
            for key in self.strange
        )
        return (
            f"MusterHostError: nodes run here that this agent cannot take over: {names}. They were "
            "started by another engine, or under another machine-id, and end with their lease; a "
            "process that only has their variables has to be ended by hand"
        )


@dataclass(frozen=True, slots=True)
class Found:
    """All that is here, whosever it is: what the engine has, and what has a living process."""

    managed: tuple[Managed, ...]
    running: tuple[FoundNode, ...]

    def is_all_in(self, known: Collection[NodeKey]) -> bool:
        """Whether the ledger knows all of it, so that it matters not which cluster this is."""
        marked = [each.key for each in self.managed if each.marks]
        return all(key in known for key in (*marked, *(node.key for node in self.running)))

    def is_undecided(self, known: Collection[NodeKey], cluster_id: str) -> bool:
        """Whether nobody can say whose it is before the coordinator has said which cluster this
        is."""
        return not cluster_id and not self.is_all_in(known)


async def find(engine: Engine, host_id: str) -> Found:
    """Look. EngineError when the engine does not answer."""
    managed = await engine.list_managed()
    running = await asyncio.to_thread(nodes.running, host_id)
    return Found(tuple(managed), tuple(running.values()))


async def outwait(keys: Collection[NodeKey]) -> None:
    """Return when none of these nodes has a process that this agent can see."""
    for key in keys:
        await Survivors().gone(key)


def sort(
    found: Found,
    known: Collection[NodeKey],
    elsewhere: Collection[NodeKey] = (),
    *,
    cluster_id: str,
    machine: str,
) -> Whereabouts:
    """What of all that was found is this agent's to look after. The ledger knows `known` of this
    cluster and `elsewhere` of others."""
    ours, strange = [], []
    for each in found.managed:
        marks = each.marks
        if marks is None or each.key in known:
            ours.append(each)
        elif marks.cluster_id != cluster_id:
            logger.warning("left alone, of another cluster: node=%s", each.key.name)
        elif marks.machine == machine:
            ours.append(each)
        elif each.running:
            # This machine has changed its name, or the disk is a copy and its owner is here too.
            strange.append(each.key)
        else:
            logger.warning("left alone, of the machine of this disk: node=%s", each.key.name)
    names = {each.key for each in found.managed}
    strange += [
        node.key
        for node in found.running
        if node.key not in names and node.cluster_id == cluster_id
    ]
    keys = dict.fromkeys([*known, *elsewhere, *names, *(node.key for node in found.running)])
    pids = {node.key: node.pid for node in found.running}
    return Whereabouts(ours=tuple(ours), strange=tuple(strange), keys=tuple(keys), pids=pids)


def taken_over(managed: Managed, lease_ends_at_ms: int | None) -> i.Found:
    """What the agent's machine is told of one that is here and ours. Its holder has the lease end
    then; None is never."""
    marks, started = managed.marks, managed.started
    lease = None
    if marks is not None:
        lease = FoundLease(
            seconds=marks.lease_seconds,
            grace_seconds=marks.grace_seconds,
            ends_at_ms=lease_ends_at_ms,
        )
    return i.Found(
        key=managed.key,
        started_at_ms=started.started_at_ms if started is not None else 0,
        private_ipv4=(started.private_ipv4 or "") if started is not None else "",
        lease=lease,
    )
