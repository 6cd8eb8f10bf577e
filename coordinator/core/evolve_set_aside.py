"""How jobs of which a row was set aside change the state: a part of `evolve.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.core import events as e
from coordinator.core.container import ContainerProperties
from coordinator.core.definition import JobSpec, NodeGroup
from coordinator.core.node_set import NodeSet
from coordinator.core.state import ClusterState, Job
from coordinator.core.states import JOB_TRANSITIONS

UNREADABLE = "UNREADABLE"


def _job_set_aside(state: ClusterState, event: e.JobSetAside, at_ms: int) -> None:
    """The job stands where a new job stands, for ever: nothing is in line, and no attempt is known,
    so that no policy finds anything to do about it."""
    job = Job(
        job_id=event.job_id,
        job_queue=event.job_queue,
        spec=event.spec or unknown_spec(),
        order=state.next_order,
        created_at_ms=at_ms,
        state=JOB_TRANSITIONS[None, "JobSetAside"],
        client_token=event.client_token,
        set_aside=event.reason,
        may_be_on=dict.fromkeys(event.host_ids),
    )
    state.next_order += 1
    state.jobs[job.job_id] = job
    state.set_aside[job.job_id] = None
    if job.job_queue in state.queues:
        state.queues[job.job_queue].live[job.job_id] = None
    if event.client_token is not None:
        state.tokens[event.client_token] = job.job_id


def unknown_spec() -> JobSpec:
    """What stands for a job of which nothing is known: one container that does nothing."""
    nothing = NodeGroup(
        target_nodes="0",
        nodes=NodeSet.of((0,)),
        container=ContainerProperties(),
        vcpus=0,
        memory_mib=0,
    )
    return JobSpec(
        job_name=UNREADABLE,
        definition_name=UNREADABLE,
        definition_revision=0,
        is_multinode=False,
        num_nodes=1,
        main_node=0,
        groups=(nothing,),
        instance_type=None,
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


def _job_found_on_host(state: ClusterState, event: e.JobFoundOnHost, at_ms: int) -> None:
    state.jobs[event.job_id].may_be_on[event.host_id] = None


def _job_left_host(state: ClusterState, event: e.JobLeftHost, at_ms: int) -> None:
    state.jobs[event.job_id].may_be_on.pop(event.host_id, None)


EVOLVE_SET_ASIDE: dict[type, Callable[[ClusterState, Any, int], None]] = {
    e.JobSetAside: _job_set_aside,
    e.JobFoundOnHost: _job_found_on_host,
    e.JobLeftHost: _job_left_host,
}
