"""The form of what names a thing on this host: a container's id, a pid, a port.

What is wrong in form matches too much: an empty id is part of every path, and pid 1 is everybody's
ancestor. So each is checked here, once, before anything is looked for, signalled or compared by
it. Must not import anything of `agent`.
"""

from __future__ import annotations

import re
from typing import NewType

ContainerId = NewType("ContainerId", str)
"""64 lower-case hexadecimal digits, as docker and podman make them."""

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_PIDS = range(2, 2**22 + 1)
"""Without init, which is nobody's to signal, up to the most that the kernel gives."""
_PORTS = range(1, 2**16)


class Malformed(ValueError):
    """The text says what was given and what would be right."""


def container_id(given: object) -> ContainerId:
    """The id that `given` is. Malformed for anything else, an abbreviated id too."""
    if isinstance(given, str) and _CONTAINER_ID.fullmatch(given):
        return ContainerId(given)
    raise Malformed(f"{_shown(given)} is no container id: one has 64 lower-case hex digits")


def pid(given: object) -> int:
    """The pid that `given` is. Malformed for 0, 1, what is negative and what is no number."""
    return _number(given, _PIDS, "pid of a node")


def port(given: object) -> int:
    """The port that `given` is. Malformed for anything else."""
    return _number(given, _PORTS, "port")


def _number(given: object, allowed: range, what: str) -> int:
    # True and False are numbers to Python.
    if type(given) is int and given in allowed:
        return given
    raise Malformed(f"{_shown(given)} is no {what}: one is {allowed.start} to {allowed.stop - 1}")


def _shown(given: object) -> str:
    return repr(given)[:100]
