"""What the core refuses, by kind. The rpc package maps each kind to one gRPC status."""

from __future__ import annotations


class Rejected(Exception):
    """An input was refused and nothing changed. The message says what, where, and what is right."""


class InvalidArgument(Rejected):
    """The request is wrong by itself; repeating it cannot succeed. AWS: ClientException."""


class NotFound(Rejected):
    """The request names something that does not exist."""


class Conflict(Rejected):
    """The request is right but not now: the state of something it names forbids it."""


class AlreadyExists(Conflict):
    """The request makes something under a name that is taken."""


class NoRoom(Rejected):
    """Nothing can be written that could wait: the coordinator's disk is short of room."""


class DuplicateAgent(Rejected):
    """Another machine already speaks for this host id."""


class InvariantViolation(AssertionError):
    """Our own impossible state. Never caused by a peer; ends the daemon with the job's story."""
