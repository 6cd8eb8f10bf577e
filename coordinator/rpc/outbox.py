"""What waits to be sent on one session. Bounded by construction: a newer list of assignments
replaces a queued one, and so does a newer acknowledgement.

Must not import the daemon.
"""

from __future__ import annotations

import asyncio

from coordinator.core.effects import (
    CloseSession,
    Effect,
    SendAck,
    SendAssignments,
    SendGoodbyeAck,
    SendHeartbeatAck,
    SendInquiry,
    SendWelcome,
)
from coordinator.rpc.agent_convert import effect_message
from muster.v1 import agent_service_pb2 as pb

LOG_MESSAGES_MAX = 1_000


class Outbox:
    """Filled by the daemon, emptied by the session's stream."""

    def __init__(self) -> None:
        self._welcome: SendWelcome | None = None
        self._assignments: SendAssignments | None = None
        self._ack: SendAck | None = None
        self._heartbeat_ack: SendHeartbeatAck | None = None
        self._goodbye_ack: SendGoodbyeAck | None = None
        self._inquiry: SendInquiry | None = None
        self._token = self._token_sent = b""
        self._logs: list[pb.CoordinatorMessage] = []
        self.refusal: CloseSession | None = None
        self.closed = False
        self.fault = ""
        self._changed = asyncio.Event()

    def put(self, effect: Effect, token: bytes = b"") -> None:
        """`token` says how new the journal is with which the effect came; empty says nothing."""
        self._token = token or self._token
        match effect:
            case SendWelcome():
                self._welcome = effect
            case SendAssignments():
                self._assignments = effect
            case SendAck():
                self._ack = effect
            case SendHeartbeatAck():
                self._heartbeat_ack = effect
            case SendGoodbyeAck():
                self._goodbye_ack = effect
            case SendInquiry():
                self._inquiry = effect
            case CloseSession():
                self.refusal = effect
        self._changed.set()

    def put_log(self, message: pb.CoordinatorMessage) -> bool:
        """Queue a log request or its end; False when this agent has too many waiting."""
        if len(self._logs) >= LOG_MESSAGES_MAX:
            return False
        self._logs.append(message)
        self._changed.set()
        return True

    def close(self) -> None:
        self.closed = True
        self._changed.set()

    async def take(self) -> list[pb.CoordinatorMessage]:
        """Wait for something to send."""
        await self._changed.wait()
        return self.take_now()

    def take_now(self) -> list[pb.CoordinatorMessage]:
        """What waits to be sent, in order. An acknowledgement goes before assignments: what it lets
        the agent forget must be forgotten before the same node is assigned again."""
        self._changed.clear()
        effects = (
            *(self._inquiry, self._welcome, self._ack, self._heartbeat_ack, self._assignments),
            self._goodbye_ack,
        )
        messages = [effect_message(effect) for effect in effects if effect is not None]
        # With what it lets the agent know, so that it knows both or neither. Before its Welcome an
        # agent does not know whether this is its cluster, and takes none.
        carriers = [message for message in messages if not message.HasField("inquiry")]
        if carriers and self._token != self._token_sent:
            carriers[0].journal_token = self._token_sent = self._token
        messages += self._logs
        self._welcome = self._ack = self._heartbeat_ack = self._assignments = None
        self._goodbye_ack = self._inquiry = None
        self._logs = []
        return messages
