"""Placement is exact: it finds a gang whenever brute force finds one."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.definition import JobSpec, NodeGroup
from coordinator.core.events import HostRegistered
from coordinator.core.ids import HostId
from coordinator.core.node_set import NodeSet
from coordinator.core.placement import place, shortfall
from tests.core.harness import container

SIZES = st.integers(1, 3)


def host(number: int, vcpus: int, memory: int, gpus: int = 0, kind: str = "a") -> HostRegistered:
    return HostRegistered(
        host_id=HostId(f"h{number}"),
        agent_uuid="u",
        boot_id="b",
        version="1",
        engine="podman",
        instance_type=kind,
        vcpus=vcpus,
        memory_mib=memory,
        gpus=gpus,
        private_ipv4="10.0.0.1",
    )


def spec(*groups: tuple[tuple[int, ...], int, int, int], kind: str | None = None) -> JobSpec:
    return JobSpec(
        job_name="j",
        definition_name="d",
        definition_revision=1,
        is_multinode=True,
        num_nodes=sum(len(nodes) for nodes, *_ in groups),
        main_node=0,
        groups=tuple(
            NodeGroup(
                target_nodes="0:",
                nodes=NodeSet.of(nodes),
                container=container(),
                vcpus=vcpus,
                memory_mib=memory,
                gpus=gpus,
            )
            for nodes, vcpus, memory, gpus in groups
        ),
        instance_type=kind,
        attempts=1,
        evaluate_on_exit=(),
        timeout_seconds=None,
        parameters={},
        tags={},
        propagate_tags=None,
        platform_capabilities=(),
        scheduling_priority=None,
        depends_on=(),
    )


@st.composite
def problems(draw: st.DrawFn) -> tuple[JobSpec, list[int], list[HostRegistered]]:
    shapes = draw(
        st.lists(st.tuples(st.integers(0, 3), SIZES, SIZES, st.integers(0, 1)), max_size=4)
    )
    groups, first = [], 0
    for count, *size in shapes:
        groups.append((tuple(range(first, first + count)), *size))
        first += count
    numbers = draw(st.permutations(range(first)))
    nodes = sorted(numbers[: draw(st.integers(0, min(first, 5)))])
    kinds = st.sampled_from("ab")
    hosts = draw(
        st.lists(st.builds(host, st.just(0), SIZES, SIZES, st.integers(0, 1), kinds), max_size=6)
    )
    named = [host(n, h.vcpus, h.memory_mib, h.gpus, h.instance_type) for n, h in enumerate(hosts)]
    wanted = draw(st.sampled_from([None, None, "a"]))
    return spec(*groups, kind=wanted), nodes, named  # type: ignore[arg-type]


def fits(job: JobSpec, node: int, facts: HostRegistered) -> bool:
    group = next(group for group in job.groups if node in group.nodes)
    return not shortfall(group, facts)


def brute_force(job: JobSpec, nodes: list[int], hosts: list[HostRegistered]) -> bool:
    for kind in "ab":
        if job.instance_type not in (None, kind):
            continue
        pool = [facts for facts in hosts if facts.instance_type == kind]
        for chosen in permutations(pool, len(nodes)):
            if all(fits(job, node, facts) for node, facts in zip(nodes, chosen, strict=True)):
                return True
    return False


@given(problems())
@settings(max_examples=400, deadline=None)
def test_a_gang_is_found_exactly_when_there_is_one(
    problem: tuple[JobSpec, list[int], list[HostRegistered]],
) -> None:
    job, nodes, hosts = problem
    free = {facts.host_id: facts for facts in hosts}
    placements = place(job, nodes, free)
    possible = brute_force(job, nodes, hosts) if nodes else placements is not None
    assert (placements is not None) == possible
    if placements is not None:
        assert [placement.node_index for placement in placements] == nodes
        used = [placement.host_id for placement in placements]
        assert len(set(used)) == len(used)
        assert len({free[host_id].instance_type for host_id in used}) <= 1
        assert all(fits(job, p.node_index, free[p.host_id]) for p in placements)


def test_a_picky_group_gets_the_hosts_that_only_it_needs() -> None:
    """The greedy answer gives the large host to the group that could use any."""
    job = spec(((0,), 1, 1, 0), ((1,), 4, 1, 0))
    free = {h.host_id: h for h in (host(1, 4, 1), host(2, 1, 1))}
    placements = place(job, (0, 1), free)
    assert placements is not None
    assert [p.host_id for p in placements] == ["h2", "h1"]


def test_a_chain_of_moves_is_found() -> None:
    job = spec(((0, 1), 1, 1, 0), ((2, 3), 2, 1, 0), ((4, 5), 2, 2, 0))
    hosts = [
        host(n, v, m) for n, (v, m) in enumerate([(2, 2), (2, 2), (2, 1), (2, 1), (1, 1), (1, 1)])
    ]
    assert place(job, range(6), {h.host_id: h for h in hosts}) is not None
    assert place(job, range(6), {h.host_id: h for h in hosts[1:]}) is None


def test_the_smallest_pool_that_fits_is_used() -> None:
    hosts = [host(n, 1, 1, kind="big" if n < 5 else "tiny") for n in range(7)]
    placements = place(spec(((0, 1), 1, 1, 0)), (0, 1), {h.host_id: h for h in hosts})
    assert placements is not None
    assert [p.host_id for p in placements] == ["h5", "h6"]


def test_hosts_are_taken_in_the_order_given() -> None:
    hosts = [host(n, 1, 1) for n in (3, 1, 2)]
    placements = place(spec(((0, 1), 1, 1, 0)), (0, 1), {h.host_id: h for h in hosts})
    assert placements is not None
    assert [p.host_id for p in placements] == ["h3", "h1"]


def test_a_thousand_nodes_in_five_groups_are_placed() -> None:
    groups = [
        (tuple(range(first, first + 200)), size, 1, 0)
        for first, size in zip(range(0, 1000, 200), range(1, 6), strict=True)
    ]
    hosts = [host(n, n % 5 + 1, 1) for n in range(1000)]
    assert place(spec(*groups), range(1000), {h.host_id: h for h in hosts}) is not None


def test_a_shortfall_says_what_is_missing() -> None:
    group = spec(((0,), 4, 100, 1)).groups[0]
    assert shortfall(group, host(1, 2, 200, 1)) == "needs 4 vCPUs, the host has 2"
    assert shortfall(group, host(1, 4, 50, 1)) == "needs 100 MiB of memory, the host has 50"
    assert shortfall(group, host(1, 4, 100, 0)) == "needs 1 GPUs, the host has 0"
    assert shortfall(group, host(1, 4, 100, 1)) == ""
