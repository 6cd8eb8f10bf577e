"""State -> what every host should run now: level-triggered, recomputed, never stored.

A crash between commit and send loses nothing, since the next session gets the whole list again.
No I/O.
"""

from __future__ import annotations

from coordinator.core.barrier import holds_children
from coordinator.core.container import ContainerProperties
from coordinator.core.definition import JobSpec
from coordinator.core.effects import Assignment, NodeContainer
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.lease import lease_seconds, stop_grace_seconds
from coordinator.core.settings import COMPUTE_ENVIRONMENT, Settings
from coordinator.core.state import Attempt, ClusterState, Job, NodeRun
from coordinator.core.states import Desired, NodeState


def assignments(state: ClusterState, settings: Settings, host_id: HostId) -> tuple[Assignment, ...]:
    """The full list for one host: at most one, but for nodes that still stop.

    A node that the host has to let go of is wanted stopped rather than left out, so that an agent
    that never heard of it says so too. One of a job that was never here is left to the agent, which
    gives an operator time to notice that this coordinator has the wrong journal.
    """
    grace_seconds = settings.stop_grace_seconds
    presence = state.presence[host_id]
    found = [
        _stop(key, grace_seconds) if state.outrun is None else _let_be(key, grace_seconds)
        for key in presence.strays
        if key.job_id in state.jobs or key.job_id in state.ended
    ]
    for key, progress in presence.kept.items():
        # Of an UNREADABLE job nothing is started; of another the newer journal may start it.
        is_let_go = key.job_id in state.set_aside and not progress.may_run
        found.append(_stop(key, grace_seconds) if is_let_go else _let_be(key, grace_seconds))
    for key in state.hosts[host_id].holds:
        job = state.jobs[key.job_id]
        attempt = job.attempts[key.attempt - 1]
        node = attempt.nodes[key.node_index]
        if not node.released:
            found.append(_assignment(state, settings, job, attempt, node))
    return tuple(found)


def desired(attempt: Attempt, node: NodeRun) -> Desired:
    """Only moves forward: PREPARE, RUN, STOP."""
    if attempt.over or attempt.stop_cause is not None or node.stop_reason is not None:
        return Desired.STOP
    if node.state.is_terminal:
        return Desired.STOP
    return Desired.RUN if node.state.is_launched else Desired.PREPARE


def _stop(key: NodeKey, grace_seconds: int) -> Assignment:
    return Assignment(
        key=key,
        desired=Desired.STOP,
        container=None,
        stop_grace_seconds=grace_seconds,
        lease_seconds=0,
    )


def _let_be(key: NodeKey, grace_seconds: int) -> Assignment:
    """What an agent has of a node stays as it is: it is named, and as what is wanted only moves
    forward, PREPARE changes nothing."""
    nothing = NodeContainer(
        properties=ContainerProperties(), own_variables=(), vcpus=0, memory_mib=0, gpus=0
    )
    return Assignment(
        key=key,
        desired=Desired.PREPARE,
        container=nothing,
        stop_grace_seconds=grace_seconds,
        lease_seconds=0,
    )


def _assignment(
    state: ClusterState, settings: Settings, job: Job, attempt: Attempt, node: NodeRun
) -> Assignment:
    key = NodeKey(job.job_id, attempt.number, node.node_index)
    want = desired(attempt, node)
    is_start = want is Desired.RUN and node.state is NodeState.STARTING
    if (is_start and not state.may_start) or (want is Desired.STOP and state.outrun is not None):
        # What is wanted only moves forward: an agent that runs it goes on, and no other starts it.
        want = Desired.PREPARE
    grace_seconds = stop_grace_seconds(settings, attempt)
    if want is Desired.STOP:
        return _stop(key, grace_seconds)
    return Assignment(
        key=key,
        desired=want,
        container=_container(job, attempt, node.node_index),
        stop_grace_seconds=grace_seconds,
        lease_seconds=lease_seconds(settings, job, attempt),
        gang=attempt.gang if want is Desired.RUN else None,
        hold=node.node_index != job.spec.main_node and holds_children(job, attempt),
    )


def _container(job: Job, attempt: Attempt, node_index: int) -> NodeContainer:
    group = job.group_of(node_index)
    return NodeContainer(
        properties=group.container,
        own_variables=tuple(_own_variables(job, attempt, node_index).items()),
        vcpus=group.vcpus,
        memory_mib=group.memory_mib,
        gpus=group.gpus,
    )


def _own_variables(job: Job, attempt: Attempt, node_index: int) -> dict[str, str]:
    """AWS's variables (aws-batch-spec section 14).

    The main's address is absent on main: its absence is how programs tell that they are main.
    """
    variables = _standard(job, attempt, node_index)
    if job.spec.is_multinode:
        variables |= _multinode(job.spec, attempt, node_index)
    return variables


def _standard(job: Job, attempt: Attempt, node_index: int) -> dict[str, str]:
    node_id = f"{job.job_id}#{node_index}" if job.spec.is_multinode else str(job.job_id)
    return {
        "AWS_BATCH_JOB_ID": node_id,
        "AWS_BATCH_JOB_ATTEMPT": str(attempt.number),
        "AWS_BATCH_CE_NAME": COMPUTE_ENVIRONMENT,
        "AWS_BATCH_JQ_NAME": job.job_queue,
        "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
    }


def _multinode(spec: JobSpec, attempt: Attempt, node_index: int) -> dict[str, str]:
    variables = {
        "AWS_BATCH_JOB_NODE_INDEX": str(node_index),
        "AWS_BATCH_JOB_MAIN_NODE_INDEX": str(spec.main_node),
        "AWS_BATCH_JOB_NUM_NODES": str(spec.num_nodes),
    }
    main = attempt.nodes.get(spec.main_node)
    main_address = main.private_ipv4 if main is not None else ""
    if node_index != spec.main_node and main_address:
        variables["AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"] = main_address
    return variables
