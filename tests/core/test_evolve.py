"""The only mutator: it follows the tables, and refuses what the tables do not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordinator.core import events as e
from coordinator.core.definition import JobDefinition
from coordinator.core.errors import InvariantViolation
from coordinator.core.evolve import evolve
from coordinator.core.ids import HostId, JobId
from coordinator.core.invariants import check
from coordinator.core.job_events import Placement
from coordinator.core.state import ClusterState
from coordinator.core.states import JOB_TRANSITIONS, NODE_TRANSITIONS, JobState, NodeState
from coordinator.journal.codec import EventCodec
from tests.core.harness import Cluster

JOB = JobId("j")


def a_life(cluster: Cluster) -> JobId:
    """A job of two nodes with a refusal, two attempts, a retry and a release."""
    cluster.hosts(3)
    job = cluster.submit(2, attempts=2)
    cluster.refused("h2")
    cluster.released("h2")
    cluster.run(job)
    cluster.finish(job, 1)
    cluster.run(job)
    return job


def test_replay_at_every_point_of_a_life_gives_the_state_of_that_point(cluster: Cluster) -> None:
    def step(do: Callable[..., object], *args: Any) -> None:
        do(*args)
        cluster.replayed().check()

    cluster.hosts(3)
    job = cluster.submit(2, attempts=2)
    step(cluster.refused, "h2")
    step(cluster.released, "h2")
    main, child = cluster.placed(job)
    step(cluster.prepared, main, child)
    step(cluster.up, main)
    step(cluster.up, child)
    step(cluster.exited, main, 1)
    step(cluster.released, main)
    step(
        cluster.exited,
        child,
        143,
        "",
    )
    step(cluster.released, child)
    step(cluster.run, job)
    step(cluster.terminate, job)
    step(cluster.finish, job, 143)


def test_every_event_of_a_life_survives_the_codec(cluster: Cluster) -> None:
    a_life(cluster)
    codec: EventCodec[Any] = EventCodec(e.ALL_EVENTS)
    for stamped in cluster.journal:
        assert codec.decode(*codec.encode(stamped.event)) == stamped.event


def test_every_event_belongs_to_a_stream(cluster: Cluster) -> None:
    a_life(cluster)
    streams = {e.stream_of(stamped.event).partition("/")[0] for stamped in cluster.journal}
    assert streams == {"coordinator", "queue", "host", "definition", "job"}


def test_nothing_leaves_a_terminal_state() -> None:
    for before, _ in JOB_TRANSITIONS:
        assert before is None or not before.is_terminal
    for node_before, _ in NODE_TRANSITIONS:
        assert node_before is None or not node_before.is_terminal


def test_every_state_can_be_reached_and_every_live_one_left() -> None:
    reached = set(JOB_TRANSITIONS.values())
    assert reached == set(JobState)
    assert {before for before, _ in JOB_TRANSITIONS} - {None} == {
        state for state in JobState if not state.is_terminal
    }
    nodes = {after for afters in NODE_TRANSITIONS.values() for after in afters}
    assert nodes == set(NodeState)


@pytest.mark.parametrize(
    "event",
    [
        e.JobSucceeded(job_id=JOB, status_reason="x"),
        e.JobRetried(job_id=JOB),
        e.JobPended(job_id=JOB),
        e.GangReserved(job_id=JOB, attempt=2, placements=()),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_fact_that_does_not_fit_is_our_own_defect(event: e.Event) -> None:
    cluster = Cluster()
    job = cluster.submit(2)
    changed = type(event)(**{n: getattr(event, n) for n in event.__slots__} | {"job_id": job})
    with pytest.raises(InvariantViolation):
        evolve(cluster.state, changed, cluster.now)


def test_a_held_host_takes_no_second_node() -> None:
    cluster = Cluster()
    cluster.hosts(1)
    cluster.submit(1)
    other = cluster.submit(1)
    placement = Placement(node_index=0, host_id=HostId("h1"))
    event = e.GangReserved(job_id=other, attempt=1, placements=(placement,))
    with pytest.raises(InvariantViolation, match="cannot take"):
        evolve(cluster.state, event, cluster.now)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda job, node, state: setattr(node, "released", True), "unreleased is 2"),
        (lambda job, node, state: setattr(job.attempts[0], "unreleased", 9), "unreleased is 9"),
        (lambda job, node, state: setattr(job.attempts[0], "started", False), "no started attempt"),
        (lambda job, node, state: setattr(job, "state", JobState.PENDING), "waits for nothing"),
        (lambda job, node, state: setattr(job, "state", JobState.FAILED), "is not over"),
        (lambda job, node, state: setattr(node, "started_at_ms", 0), "before main ran"),
        (lambda job, node, state: state.hosts["h1"].holds.clear(), "holds"),
        (
            lambda job, node, state: state.queues["default"].runnable.append((1, job.job_id)),
            "stands in line",
        ),
    ],
)
def test_the_invariants_notice(damage: Callable[..., None], text: str) -> None:
    cluster = Cluster()
    cluster.hosts(2)
    job = cluster.submit(2)
    cluster.run(job)
    found = cluster.job(job)
    damage(found, found.attempts[0].nodes[0], cluster.state)
    with pytest.raises(InvariantViolation, match=text):
        check(cluster.state)


def test_definitions_keep_their_last_number() -> None:
    state = ClusterState()
    definition = JobDefinition(job_definition_name="d", type="container", revision=3)  # type: ignore[arg-type]
    evolve(state, e.DefinitionRegistered(definition=definition), 1)
    evolve(state, e.DefinitionDeregistered(name="d", revision=3), 2)
    evolve(state, e.DefinitionForgotten(name="d", revision=3), 3)
    assert state.last_revision == {"d": 3}
    assert state.definitions == {"d": {}}
