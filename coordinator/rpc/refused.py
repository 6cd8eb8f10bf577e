"""Agents that were refused, for operators: no host is shown for one, and else its own log alone
says why it is none."""

from __future__ import annotations

import time

from coordinator.core.names import clip
from muster.v1.agent_service_pb2 import Hello
from muster.v1.host_service_pb2 import RefusedAgent

_AGENTS_MAX = 20
_KEPT_SECONDS = 120.0
"""An agent that is refused calls again within 30 s, so that a longer silence means that it has
stopped or was let in."""
_NAME_CHARS, _REASON_CHARS = 128, 500


class RefusedAgents:
    """The newest refusal of each agent that was refused lately: of the newest 20 agents."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[float, RefusedAgent]] = {}

    def note(self, hello: Hello, reason: str) -> None:
        refused = RefusedAgent(
            host_id=clip(hello.host_id, _NAME_CHARS),
            private_ipv4_address=clip(hello.private_ipv4_address, _NAME_CHARS),
            at=int(time.time() * 1000),
            reason=clip(reason, _REASON_CHARS),
        )
        who = refused.host_id, refused.private_ipv4_address
        self._found.pop(who, None)
        self._found[who] = time.monotonic(), refused
        if len(self._found) > _AGENTS_MAX:
            del self._found[next(iter(self._found))]

    def recent(self) -> list[RefusedAgent]:
        """Oldest first."""
        since = time.monotonic() - _KEPT_SECONDS
        return [refused for at, refused in self._found.values() if at > since]
