"""The border post between muster.v1 and the agent's core: nothing else knows both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agent.core import inputs as i
from agent.core.assignment import (
    Assignment,
    ContainerSpec,
    Desired,
    Device,
    Gang,
    Mount,
    NodeKey,
    Progress,
    SecretRef,
    Tmpfs,
    Ulimit,
)
from agent.core.state import Slot
from agent.host.machine import MachineId
from muster.v1 import agent_service_pb2 as pb
from muster.v1 import container_pb2

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


def told(message: pb.CoordinatorMessage) -> i.Input | None:
    """What the coordinator says to the machine; None for what is not the machine's. Raises
    ProtocolError."""
    match message.WhichOneof("body"):
        case "heartbeat_ack":
            return i.HeartbeatAcked(seq=message.heartbeat_ack.seq)
        case "assignments":
            return assignments(message.assignments)
        case "ack":
            return i.ReportAcked(seq=message.ack.report_seq)
        case _:
            return None


def journal_seen(message: pb.CoordinatorMessage) -> i.JournalSeen | None:
    """How new the journal is, where a message says it. Raises ProtocolError."""
    token = message.journal_token
    if not token:
        return None
    if not _TOKEN.fullmatch(token):
        raise ProtocolError(f"no token is like this one of {len(token)} bytes")
    return i.JournalSeen(token=token)


def assignments(message: pb.Assignments) -> i.AssignmentsReceived:
    return i.AssignmentsReceived(
        generation=message.generation,
        assignments=tuple(_assignment(entry) for entry in message.assignments),
    )


_TOKEN = re.compile(rb"[!-~]{1,256}")
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


def _assignment(entry: pb.Assignment) -> Assignment:
    # It becomes the name of files and containers.
    if not _JOB_ID.fullmatch(entry.job_id) or entry.attempt < 1 or entry.node_index < 0:
        node = f"{entry.job_id!r} attempt {entry.attempt} node {entry.node_index}"
        raise ProtocolError(f"no such node can be: {node}")
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
        gang=_gang(entry.gang) if entry.HasField("gang") else None,
        hold=entry.hold,
    )


def _gang(gang: pb.Gang) -> Gang:
    columns = (gang.private_ipv4_addresses, gang.host_ids, gang.slots)
    if len({len(column) for column in columns}) != 1:
        raise ProtocolError("a gang's columns have different lengths")
    return Gang(
        main_node=gang.main_node,
        addresses=tuple(gang.private_ipv4_addresses),
        host_ids=tuple(gang.host_ids),
        slots=tuple(gang.slots),
    )


def _spec(container: pb.NodeContainer) -> ContainerSpec:
    return ContainerSpec(
        image=container.image,
        command=tuple(container.command),
        environment=tuple((pair.name, pair.value) for pair in container.environment),
        vcpus=container.vcpus,
        memory_mib=container.memory_mib,
        user=container.user if container.HasField("user") else None,
        gpus=container.gpus,
        privileged=container.privileged,
        read_only_root=container.readonly_root_filesystem,
        ulimits=tuple(
            Ulimit(name=limit.name, soft=limit.soft_limit, hard=limit.hard_limit)
            for limit in container.ulimits
        ),
        mounts=tuple(
            Mount(
                target=mount.container_path,
                source=mount.host_path,
                volume=mount.volume,
                read_only=mount.read_only,
            )
            for mount in container.mounts
        ),
        secrets=tuple(
            SecretRef(name=secret.name, key=secret.value_from) for secret in container.secrets
        ),
        credential=container.credential if container.HasField("credential") else None,
        **_linux(container.linux_parameters),
    )


_PERMISSIONS = {container_pb2.READ: "r", container_pb2.WRITE: "w", container_pb2.MKNOD: "m"}


def _linux(linux: container_pb2.LinuxParameters) -> dict[str, Any]:
    """Members of a ContainerSpec. Nothing said of permissions means all of them."""
    return {
        "devices": tuple(
            Device(
                host_path=device.host_path,
                container_path=device.container_path or device.host_path,
                permissions="".join(
                    letter
                    for number, letter in _PERMISSIONS.items()
                    if number in device.permissions or not device.permissions
                ),
            )
            for device in linux.devices
        ),
        "tmpfs": tuple(
            Tmpfs(target=each.container_path, size_mib=each.size, options=tuple(each.mount_options))
            for each in linux.tmpfs
        ),
        "init": linux.init_process_enabled,
        "shared_memory_mib": (
            linux.shared_memory_size if linux.HasField("shared_memory_size") else None
        ),
        "max_swap_mib": linux.max_swap if linux.HasField("max_swap") else None,
        "swappiness": linux.swappiness if linux.HasField("swappiness") else None,
    }


def machine(this: MachineId) -> pb.Machine:
    """What a Hello says of the machine."""
    return pb.Machine(
        os_id=this.os_id, product_uuid=this.product_uuid, mac_addresses=this.mac_addresses
    )


def goodbye(goes_on: Sequence[NodeKey]) -> pb.Goodbye:
    """The agent's last word: these nodes go on without it."""
    return pb.Goodbye(
        goes_on=[
            pb.NodeId(job_id=key.job_id, attempt=key.attempt, node_index=key.node_index)
            for key in goes_on
        ]
    )


def node_report(slot: Slot, host_ipv4: str, now_ms: int) -> pb.NodeReport:
    """Everything known of a slot. A container without an address of its own has the host's.
    `now_ms` is the host's clock since its boot."""
    is_placed = slot.progress is Progress.PREPARED or slot.started_at_ms
    report = pb.NodeReport(
        job_id=slot.key.job_id,
        attempt=slot.key.attempt,
        node_index=slot.key.node_index,
        progress=_PROGRESS[slot.progress],
        started_at_ms=slot.started_at_ms,
        private_ipv4_address=(slot.private_ipv4 or host_ipv4) if is_placed else "",
        reason=slot.reason,
        permanent=slot.permanent,
        stopped_at_ms=slot.stopped_at_ms,
        unclean_reason=slot.unclean_reason,
        not_started=slot.not_started,
        lease_ended=slot.lease_ended,
    )
    if slot.progress is Progress.RUNNING and slot.up_boot_ms is not None:
        report.running_ms = max(now_ms - slot.up_boot_ms, 0)
    if slot.exit_code is not None:
        report.exit_code = slot.exit_code
    return report
