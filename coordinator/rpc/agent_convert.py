"""The border post of the agents' stream: muster.v1 <-> the core's inputs and effects."""

from __future__ import annotations

import functools

from coordinator.core import inputs as i
from coordinator.core.container import ContainerProperties
from coordinator.core.effects import (
    Assignment,
    Effect,
    NodeContainer,
    SendAck,
    SendAssignments,
    SendGoodbyeAck,
    SendHeartbeatAck,
    SendInquiry,
    SendWelcome,
)
from coordinator.core.errors import InvalidArgument
from coordinator.core.identity import MachineId
from coordinator.core.ids import HostId, JobId, NodeKey, SessionId
from coordinator.core.lineage import TOKEN_BYTES_MAX
from coordinator.core.names import clip
from coordinator.core.state import Gang
from coordinator.core.states import Desired, Progress
from coordinator.rpc.convert import to_proto
from muster.v1 import agent_service_pb2 as pb
from muster.v1 import container_pb2

_PROGRESS = {
    pb.ASSIGNED: Progress.ASSIGNED,
    pb.PREPARED: Progress.PREPARED,
    pb.REFUSED: Progress.REFUSED,
    pb.LAUNCHING: Progress.LAUNCHING,
    pb.UP: Progress.UP,
    pb.EXITED: Progress.EXITED,
    pb.RELEASED: Progress.RELEASED,
}
_DESIRED = {Desired.PREPARE: pb.PREPARE, Desired.RUN: pb.RUN, Desired.STOP: pb.STOP}
TAIL_BYTES_MAX = 65_536
NODES_MAX = 1_000
"""A host holds one node, and what it has not let go of yet."""
_LABELS_MAX = 1_000
_INTERFACES_MAX = 1_000
_NAMES = (
    *("host_id", "agent_uuid", "boot_id", "previous_boot_id"),
    *("private_ipv4_address", "version", "cluster_id"),
)
_NAME_CHARS = 256
_TEXT_CHARS = 4_096
"""Of what an agent says of a failure; the rest is in the agent's own log."""


def hello(session_id: SessionId, message: pb.Hello) -> i.HostHello:
    """Raises InvalidArgument when a member that identifies the host is missing."""
    for member in ("host_id", "agent_uuid", "boot_id", "private_ipv4_address"):
        if not getattr(message, member):
            raise InvalidArgument(f"Hello.{member} is empty")
    for member in _NAMES:
        _check_count(f"Hello.{member}", len(getattr(message, member)), _NAME_CHARS, "characters")
    for member in ("engine", "instance_type"):
        length = len(getattr(message.resources, member))
        _check_count(f"Hello.resources.{member}", length, _NAME_CHARS, "characters")
    length = len(message.journal_token)
    _check_count("Hello.journal_token", length, TOKEN_BYTES_MAX, "bytes")
    _check_count("Hello.labels", len(message.labels), _LABELS_MAX, "entries")
    _check_count("Hello.observed", len(message.observed), NODES_MAX, "nodes")
    resources = message.resources
    return i.HostHello(
        session_id=session_id,
        host_id=HostId(message.host_id),
        agent_uuid=message.agent_uuid,
        boot_id=message.boot_id,
        version=message.version,
        engine=resources.engine,
        instance_type=resources.instance_type or "generic",
        vcpus=resources.vcpus,
        memory_mib=resources.memory_mib,
        gpus=resources.gpus,
        private_ipv4=message.private_ipv4_address,
        labels=dict(message.labels),
        observed=tuple(observation(node) for node in message.observed),
        unusable_reason=clip(message.unusable_reason, _TEXT_CHARS),
        incarnation=message.incarnation,
        journal_token=message.journal_token,
        machine=_machine(message.machine),
        previous_boot_id=message.previous_boot_id,
        answers_inquiries="inquiry" in message.capabilities,
        is_attached=message.is_attached,
        cluster_id=message.cluster_id,
    )


def _machine(message: pb.Machine) -> MachineId:
    for member in ("os_id", "product_uuid"):
        _check_count(
            f"Hello.machine.{member}", len(getattr(message, member)), _NAME_CHARS, "characters"
        )
    addresses = message.mac_addresses
    _check_count("Hello.machine.mac_addresses", len(addresses), _INTERFACES_MAX, "entries")
    for address in addresses:
        _check_count("Hello.machine.mac_addresses", len(address), _NAME_CHARS, "characters")
    return MachineId(
        os_id=message.os_id,
        product_uuid=message.product_uuid,
        mac_addresses=tuple(addresses),
    )


def said(
    session_id: SessionId, message: pb.AgentMessage
) -> i.HostHeartbeat | i.HostReport | i.HostGoodbye | i.HostHello:
    """What an agent says after its Hello. Raises InvalidArgument for anything else."""
    match message.WhichOneof("body"):
        case "hello":
            return hello(session_id, message.hello)
        case "heartbeat":
            beat = message.heartbeat
            return i.HostHeartbeat(session_id=session_id, seq=beat.seq, wall_ms=beat.wall_ms)
        case "report":
            return report(session_id, message.report)
        case "goodbye":
            _check_count("Goodbye.goes_on", len(message.goodbye.goes_on), NODES_MAX, "nodes")
            return i.HostGoodbye(
                session_id=session_id,
                goes_on=tuple(
                    NodeKey(JobId(node.job_id), node.attempt, node.node_index)
                    for node in message.goodbye.goes_on
                ),
            )
        case body:
            raise InvalidArgument(f"unexpected message {body}")


def report(session_id: SessionId, message: pb.StatusReport) -> i.HostReport:
    """Raises InvalidArgument for more nodes than a host can have."""
    _check_count("StatusReport.nodes", len(message.nodes), NODES_MAX, "nodes")
    return i.HostReport(
        session_id=session_id,
        seq=message.seq,
        observations=tuple(observation(node) for node in message.nodes),
    )


def observation(node: pb.NodeReport) -> i.Observation:
    progress = _PROGRESS.get(node.progress)
    if progress is None:
        raise InvalidArgument(f"NodeReport.progress {node.progress} of {node.job_id} is unknown")
    tail = node.log_tail if node.HasField("log_tail") else None
    if tail is not None and len(tail) > TAIL_BYTES_MAX:
        raise InvalidArgument(f"NodeReport.log_tail is longer than {TAIL_BYTES_MAX} bytes")
    return i.Observation(
        key=NodeKey(JobId(node.job_id), node.attempt, node.node_index),
        progress=progress,
        private_ipv4=node.private_ipv4_address,
        exit_code=node.exit_code if node.HasField("exit_code") else None,
        reason=clip(node.reason, _TEXT_CHARS),
        permanent=node.permanent,
        unclean_reason=clip(node.unclean_reason, _TEXT_CHARS),
        was_up=node.started_at_ms > 0,
        ran_ms=node.running_ms if node.HasField("running_ms") else None,
        not_started=node.not_started,
        lease_ended=node.lease_ended,
        log_tail=tail,
        log_tail_offset=node.log_tail_offset,
    )


def _check_count(where: str, count: int, most: int, noun: str) -> None:
    if count > most:
        raise InvalidArgument(f"{where} has {count} {noun}; it may have {most}")


def effect_message(effect: Effect) -> pb.CoordinatorMessage:
    """The message of an effect that sends one."""
    match effect:
        case SendWelcome():
            return pb.CoordinatorMessage(
                welcome=pb.Welcome(
                    session_id=effect.session_id,
                    heartbeat_period_ms=effect.heartbeat_ms,
                    capabilities=["goodbye"],
                    cluster_id=effect.cluster_id,
                )
            )
        case SendAssignments():
            return pb.CoordinatorMessage(
                assignments=pb.Assignments(
                    generation=effect.generation,
                    assignments=[_assignment(assignment) for assignment in effect.assignments],
                )
            )
        case SendAck():
            return pb.CoordinatorMessage(ack=pb.Ack(report_seq=effect.report_seq))
        case SendHeartbeatAck():
            return pb.CoordinatorMessage(heartbeat_ack=pb.HeartbeatAck(seq=effect.seq))
        case SendGoodbyeAck():
            return pb.CoordinatorMessage(goodbye_ack=pb.GoodbyeAck())
        case SendInquiry():
            return pb.CoordinatorMessage(inquiry=pb.Inquiry())
        case _:
            raise TypeError(f"{effect} is not a message")


def _assignment(assignment: Assignment) -> pb.Assignment:
    message = pb.Assignment(
        job_id=assignment.key.job_id,
        attempt=assignment.key.attempt,
        node_index=assignment.key.node_index,
        desired=_DESIRED[assignment.desired],
        stop_grace_seconds=assignment.stop_grace_seconds,
        lease_seconds=assignment.lease_seconds,
        hold=assignment.hold,
    )
    if assignment.container is not None:
        message.container.CopyFrom(_container(assignment.container))
    if assignment.gang is not None:
        message.gang.CopyFrom(_gang(assignment.gang))
    return message


def _container(container: NodeContainer) -> pb.NodeContainer:
    """A copy of what all nodes of the group have, and then the node's own."""
    message = pb.NodeContainer()
    shared, names = _shared.of(container.properties)
    message.CopyFrom(shared)
    own = dict(container.own_variables)
    if not names.isdisjoint(own):
        del message.environment[:]
        own = container.environment()
    for name, value in own.items():
        message.environment.add(name=name, value=value)
    message.vcpus = container.vcpus
    message.memory_mib = container.memory_mib
    message.gpus = container.gpus
    return message


class _Shared:
    """What came of the properties of a few groups: made once for all nodes of a gang, since to
    copy it costs a hundredth. Found by identity, since properties are long to compare."""

    def __init__(self) -> None:
        self._made: list[tuple[ContainerProperties, pb.NodeContainer, frozenset[str]]] = []

    def of(self, properties: ContainerProperties) -> tuple[pb.NodeContainer, frozenset[str]]:
        """With all the user's variables, and their names."""
        for known, message, names in self._made:
            if known is properties:
                return message, names
        message = _properties(properties)
        names = frozenset(pair.name for pair in message.environment)
        self._made = [(properties, message, names), *self._made[: _SHARED_MAX - 1]]
        return message, names


_SHARED_MAX = 16
_shared = _Shared()


def _properties(properties: ContainerProperties) -> pb.NodeContainer:
    variables = {pair.name: pair.value or "" for pair in properties.environment if pair.name}
    message = pb.NodeContainer(
        image=properties.image or "",
        command=properties.command,
        environment=[
            pb.EnvironmentVariable(name=name, value=value) for name, value in variables.items()
        ],
        user=properties.user,
        privileged=bool(properties.privileged),
        readonly_root_filesystem=bool(properties.readonly_root_filesystem),
        ulimits=[to_proto(ulimit, container_pb2.Ulimit) for ulimit in properties.ulimits],
        mounts=_mounts(properties),
        secrets=[to_proto(secret, container_pb2.Secret) for secret in properties.secrets],
    )
    if properties.linux_parameters is not None:
        message.linux_parameters.CopyFrom(
            to_proto(properties.linux_parameters, container_pb2.LinuxParameters)
        )
    if properties.repository_credentials is not None:
        message.credential = properties.repository_credentials.credentials_parameter
    return message


def _mounts(properties: ContainerProperties) -> list[pb.Mount]:
    """Volumes where mount points put them; one that no mount point names appears nowhere."""
    sources = {volume.name: volume.host for volume in properties.volumes}
    mounts = []
    for point in properties.mount_points:
        host = sources[point.source_volume]
        mounts.append(
            pb.Mount(
                container_path=point.container_path or "",
                host_path=(host.source_path if host is not None else None) or "",
                volume=point.source_volume or "",
                read_only=bool(point.read_only),
            )
        )
    return mounts


@functools.lru_cache(maxsize=8)
def _gang(gang: Gang) -> pb.Gang:
    """Made once for all the nodes of an attempt: a thousand of each would be a million."""
    return pb.Gang(
        main_node=gang.main_node,
        private_ipv4_addresses=gang.addresses,
        host_ids=gang.host_ids,
        slots=gang.slots,
    )
