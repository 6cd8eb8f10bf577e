"""Slots as JSON text and back. Only what the ledger must keep; unknown members are ignored and
missing ones have their default, so agents of other releases can read the file."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from agent.core.assignment import Assignment, Desired, FoundLease, NodeKey, Progress
from agent.core.state import Slot

_PLAIN = (
    "started_at_ms",
    "private_ipv4",
    "exit_code",
    "reason",
    "permanent",
    "stopped_at_ms",
    "up_boot_ms",
    "start_is_doubtful",
    "not_started",
    "lease_over",
    "lease_ended",
    "found_boot_ms",
    "held",
    "unclean_reason",
)


def encode(slot: Slot) -> str:
    body: dict[str, Any] = {name: getattr(slot, name) for name in _PLAIN}
    body |= {
        "key": dataclasses.asdict(slot.key),
        "desired": slot.desired.value,
        "progress": slot.progress.value,
        "assignment": _plain(slot.assignment),
        "found_lease": _plain(slot.found_lease),
    }
    return json.dumps(body, separators=(",", ":"))


def _plain(value: Assignment | FoundLease | None) -> dict[str, Any] | None:
    return None if value is None else dataclasses.asdict(value)


def decode(text: str) -> Slot:
    """Raises KeyError, TypeError or ValueError for text that `encode` did not make."""
    body = json.loads(text)
    return Slot(
        key=NodeKey(**body["key"]),
        desired=Desired(body["desired"]),
        progress=Progress(body["progress"]),
        assignment=_read(Assignment | None, body["assignment"]),
        found_lease=_read(FoundLease | None, body.get("found_lease")),
        **{name: body[name] for name in _PLAIN if name in body},
    )


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _read(hint: Any, value: Any) -> Any:  # noqa: ANN401 - a hint can be anything
    """What `asdict` and JSON made of a value of type `hint`, made whole again."""
    if get_origin(hint) is UnionType:
        (given,) = (each for each in get_args(hint) if each is not NoneType)
        return None if value is None else _read(given, value)
    if get_origin(hint) is tuple:
        members = get_args(hint)
        kinds = [members[0]] * len(value) if members[-1] is Ellipsis else members
        return tuple(_read(kind, each) for kind, each in zip(kinds, value, strict=True))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        known = _hints(hint).items()
        return hint(**{name: _read(kind, value[name]) for name, kind in known if name in value})
    return hint(value) if issubclass(hint, Enum) else value
