"""Slots as JSON text and back. Only what the ledger must keep; unknown members are ignored, so an
older agent can read a newer one's file."""

from __future__ import annotations

import json
from typing import Any

from agent.core.assignment import Assignment, ContainerSpec, Desired, NodeKey, Progress
from agent.core.state import Slot

_PLAIN = (
    "started_at_ms",
    "private_ipv4",
    "exit_code",
    "reason",
    "permanent",
    "stopped_at_ms",
    "unclean_reason",
)


def encode(slot: Slot) -> str:
    body: dict[str, Any] = {name: getattr(slot, name) for name in _PLAIN}
    body |= {
        "key": _key(slot.key),
        "desired": slot.desired.value,
        "progress": slot.progress.value,
        "assignment": _assignment(slot.assignment) if slot.assignment is not None else None,
    }
    return json.dumps(body, separators=(",", ":"))


def decode(text: str) -> Slot:
    """Raises KeyError, TypeError or ValueError for text that `encode` did not make."""
    body = json.loads(text)
    return Slot(
        key=NodeKey(**body["key"]),
        desired=Desired(body["desired"]),
        progress=Progress(body["progress"]),
        assignment=_read_assignment(body["assignment"]),
        **{name: body[name] for name in _PLAIN},
    )


def _key(key: NodeKey) -> dict[str, Any]:
    return {"job_id": key.job_id, "attempt": key.attempt, "node_index": key.node_index}


def _assignment(assignment: Assignment) -> dict[str, Any]:
    spec = assignment.spec
    return {
        "key": _key(assignment.key),
        "desired": assignment.desired.value,
        "stop_grace_seconds": assignment.stop_grace_seconds,
        "lease_seconds": assignment.lease_seconds,
        "spec": None
        if spec is None
        else {
            "image": spec.image,
            "command": spec.command,
            "environment": spec.environment,
            "vcpus": spec.vcpus,
            "memory_mib": spec.memory_mib,
            "user": spec.user,
        },
    }


def _read_assignment(body: dict[str, Any] | None) -> Assignment | None:
    if body is None:
        return None
    spec = body["spec"]
    return Assignment(
        key=NodeKey(**body["key"]),
        desired=Desired(body["desired"]),
        stop_grace_seconds=body["stop_grace_seconds"],
        lease_seconds=body["lease_seconds"],
        spec=None
        if spec is None
        else ContainerSpec(
            image=spec["image"],
            command=tuple(spec["command"]),
            environment=tuple((name, value) for name, value in spec["environment"]),
            vcpus=spec["vcpus"],
            memory_mib=spec["memory_mib"],
            user=spec["user"],
        ),
    )
