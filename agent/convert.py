"""The border post between muster.v1 and the agent's core: nothing else knows both."""

from __future__ import annotations

from agent.core import inputs as i
from agent.core.assignment import Assignment, ContainerSpec, Desired, NodeKey, Progress
from agent.core.state import Slot
from muster.v1 import agent_service_pb2 as pb

_DESIRED = {
    pb.PREPARE: Desired.PREPARE,
    pb.RUN: Desired.RUN,
    pb.STOP: Desired.STOP,
}
_PROGRESS = {
    Progress.ASSIGNED: pb.ASSIGNED,
    Progress.PREPARED: pb.PREPARED,
    Progress.REFUSED: pb.REFUSED,
    Progress.STARTING: pb.LAUNCHING,
    Progress.RUNNING: pb.UP,
    Progress.EXITED: pb.EXITED,
    Progress.RELEASED: pb.RELEASED,
}


class ProtocolError(Exception):
    """The coordinator sent something outside the contract; the session is given up."""


def assignments(message: pb.Assignments) -> i.AssignmentsReceived:
    return i.AssignmentsReceived(
        generation=message.generation,
        assignments=tuple(_assignment(entry) for entry in message.assignments),
    )


def _assignment(entry: pb.Assignment) -> Assignment:
    desired = _DESIRED.get(entry.desired)
    if desired is None:
        raise ProtocolError(f"assignment {entry.job_id}#{entry.node_index}: no desired state")
    if desired is not Desired.STOP and not entry.HasField("container"):
        raise ProtocolError(f"assignment {entry.job_id}#{entry.node_index}: no container")
    return Assignment(
        key=NodeKey(job_id=entry.job_id, attempt=entry.attempt, node_index=entry.node_index),
        desired=desired,
        spec=_spec(entry.container) if entry.HasField("container") else None,
        stop_grace_seconds=entry.stop_grace_seconds,
        lease_seconds=entry.lease_seconds,
    )


def _spec(container: pb.NodeContainer) -> ContainerSpec:
    return ContainerSpec(
        image=container.image,
        command=tuple(container.command),
        environment=tuple((pair.name, pair.value) for pair in container.environment),
        vcpus=container.vcpus,
        memory_mib=container.memory_mib,
        user=container.user if container.HasField("user") else None,
    )


def node_report(slot: Slot, host_ipv4: str) -> pb.NodeReport:
    """Everything known of a slot. A container without an address of its own has the host's."""
    report = pb.NodeReport(
        job_id=slot.key.job_id,
        attempt=slot.key.attempt,
        node_index=slot.key.node_index,
        progress=_PROGRESS[slot.progress],
        started_at_ms=slot.started_at_ms,
        private_ipv4_address=(slot.private_ipv4 or host_ipv4) if slot.started_at_ms else "",
        reason=slot.reason,
        permanent=slot.permanent,
        stopped_at_ms=slot.stopped_at_ms,
        unclean_reason=slot.unclean_reason,
    )
    if slot.exit_code is not None:
        report.exit_code = slot.exit_code
    return report
