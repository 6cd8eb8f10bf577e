"""What this host lets a node have, asked before anything of it is touched.

Lays the host's own answers over what the coordinator asked for by name: policy, resolved paths,
secrets, registry logins, GPUs. Imports `agent.core` and the host's rules; never an engine.
"""

from __future__ import annotations

from typing import Protocol

from agent.core.assignment import ContainerSpec


class NotAdmitted(Exception):
    """This host will not, or cannot, run it. The text names the rule and the host, and is what a
    user reads as the reason of the host's vote against."""


class Admission(Protocol):
    """The daemon's view: see `HostAdmission`."""

    def admit(self, spec: ContainerSpec) -> ContainerSpec:
        """The specification that an engine may be given. Raises NotAdmitted. Reads files that an
        operator may change at any time, and may therefore answer otherwise the next time."""
        ...
