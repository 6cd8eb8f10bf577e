"""Which free hosts could take the nodes of a gang: a pure matching, all or none.

Knows sizes and instance types and nothing of states; the scheduler says who is free. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.core.definition import JobSpec, NodeGroup
from coordinator.core.events import HostRegistered
from coordinator.core.ids import HostId
from coordinator.core.job_events import Placement


def shortfall(group: NodeGroup, facts: HostRegistered) -> str:
    """Why a host of this size could never take a node of the group; empty when it could."""
    for name, needed, has in (
        ("vCPUs", group.vcpus, facts.vcpus),
        ("MiB of memory", group.memory_mib, facts.memory_mib),
        ("GPUs", group.gpus, facts.gpus),
    ):
        if needed > has:
            return f"needs {needed} {name}, the host has {has}"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Demand:
    group: NodeGroup
    nodes: tuple[int, ...]


def place(
    spec: JobSpec,
    nodes: Sequence[int],
    free: Mapping[HostId, HostRegistered],
    instance_type: str | None = None,
) -> tuple[Placement, ...] | None:
    """A distinct host of one instance type for each of `nodes`, or None.

    `free` is in the order of preference. `instance_type` binds a replacement to the type that
    the rest of its gang is on; else the spec's own, else any one type. Of several types that fit
    the one with the fewest free hosts is taken, so that large pools stay whole.
    """
    wanted = instance_type or spec.instance_type
    demands = _demands(spec, nodes)
    by_type: dict[str, dict[HostId, HostRegistered]] = {}
    for host_id, facts in free.items():
        if wanted is None or facts.instance_type == wanted:
            by_type.setdefault(facts.instance_type, {})[host_id] = facts
    for _, hosts in sorted(by_type.items(), key=lambda item: (len(item[1]), item[0])):
        if len(hosts) >= len(nodes):
            placements = _match(demands, hosts)
            if placements is not None:
                return placements
    return None


def _demands(spec: JobSpec, nodes: Sequence[int]) -> list[_Demand]:
    remaining = dict.fromkeys(nodes)
    demands = []
    for group in spec.groups:
        served = tuple(node for node in group.nodes if node in remaining)
        if served:
            demands.append(_Demand(group=group, nodes=served))
    return demands


def _match(
    demands: list[_Demand], hosts: Mapping[HostId, HostRegistered]
) -> tuple[Placement, ...] | None:
    """Hosts that can serve the same groups are interchangeable, and there are at most five groups,
    so the matching is a small transport problem: move whole classes of hosts, not single ones."""
    classes: dict[int, list[HostId]] = {}
    for host_id, facts in hosts.items():
        able = 0
        for position, demand in enumerate(demands):
            if not shortfall(demand.group, facts):
                able |= 1 << position
        if able:
            classes.setdefault(able, []).append(host_id)
    shares = _transport([len(demand.nodes) for demand in demands], classes)
    if shares is None:
        return None
    placements: list[Placement] = []
    for position, demand in enumerate(demands):
        chosen: list[HostId] = []
        for able, host_ids in classes.items():
            count = shares.get((position, able), 0)
            chosen += host_ids[:count]
            del host_ids[:count]
        placements += (
            Placement(node_index=node, host_id=host_id)
            for node, host_id in zip(demand.nodes, chosen, strict=True)
        )
    return tuple(sorted(placements, key=lambda placement: placement.node_index))


def _transport(
    needs: list[int], classes: Mapping[int, list[HostId]]
) -> dict[tuple[int, int], int] | None:
    """How many hosts of each class each group takes: shares[group, class]. None when it cannot
    be done. Classes that can serve few groups are used up first; what then is still short is
    freed by augmenting paths, so the answer is exact."""
    left = {able: len(host_ids) for able, host_ids in classes.items()}
    shares: dict[tuple[int, int], int] = {}
    order = sorted(classes, key=lambda able: (able.bit_count(), able))
    for position, need in enumerate(needs):
        missing = need
        while missing:
            moved = _augment(position, missing, order, left, shares, ())
            if not moved:
                return None
            missing -= moved
    return shares


def _augment(
    position: int,
    missing: int,
    order: list[int],
    left: dict[int, int],
    shares: dict[tuple[int, int], int],
    visited: tuple[int, ...],
) -> int:
    """Give a group up to `missing` more hosts, moving other groups to other classes if needed."""
    usable = [able for able in order if able & 1 << position and able not in visited]
    for able in usable:
        if left[able]:
            count = min(missing, left[able])
            left[able] -= count
            shares[position, able] = shares.get((position, able), 0) + count
            return count
    for able in usable:
        for other in [p for (p, a), count in shares.items() if a == able and count]:
            if other == position:
                continue
            take = min(missing, shares[other, able])
            moved = _augment(other, take, order, left, shares, (*visited, able))
            if moved:
                shares[other, able] -= moved
                shares[position, able] = shares.get((position, able), 0) + moved
                return moved
    return 0
