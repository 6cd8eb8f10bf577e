"""Is this the newest journal of the cluster? What hosts are told so that they can say.

A journal that is brought back from a copy knows nothing of what came after the copy: what has ended
since would run again. So each start of a coordinator, a *life*, journals a random id, and hosts are
told a *token*: the life, the number of the newest durable entry, and a MAC over both by a key of
the cluster, so that nobody can invent one. A host says its newest token in each Hello. One that
this journal cannot have given out proves that the host has seen a newer journal.

What follows from that is in `placing.py`. Must not import a module that decides. No I/O.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from coordinator.core.ids import NodeKey
from coordinator.core.state import ClusterState, Outrun

TOKEN_BYTES_MAX = 256
_TOKEN = re.compile(rb"([0-9a-f]{1,64}):([0-9]{1,18}):([0-9a-f]{64})")
ACCEPT = "--accept-older-journal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a host has seen: this life of the coordinator, up to that entry of its journal."""

    life_id: str
    position: int


def token(cluster_key: str, seen: Seen) -> bytes:
    """What a host is told, to be said again as it is."""
    claim = f"{seen.life_id}:{seen.position}".encode()
    return claim + b":" + _mac(cluster_key, claim)


def read(cluster_key: str, said: bytes) -> Seen | None:
    """What a token of this cluster says; None for every other, also where there is no key yet."""
    match = _TOKEN.fullmatch(said)
    if match is None or not cluster_key:
        return None
    life_id, position, mac = match.groups()
    if not hmac.compare_digest(mac, _mac(cluster_key, life_id + b":" + position)):
        return None
    return Seen(life_id=life_id.decode(), position=int(position))


def _mac(cluster_key: str, claim: bytes) -> bytes:
    return hmac.digest(cluster_key.encode(), claim, hashlib.sha256).hex().encode()


def cluster_id(cluster_key: str) -> str:
    """What the cluster is called where a key may not be: in the open, on containers. Empty while
    there is no key."""
    return _mac(cluster_key, b"cluster id")[:32].decode() if cluster_key else ""


def is_beyond(state: ClusterState, seen: Seen) -> bool:
    """Whether this journal does not know all that a host has seen, and nobody has given it up."""
    if seen.life_id in state.given_up:
        return False
    if seen.life_id not in state.lives:
        return True
    end = state.lives[seen.life_id]
    # The newest start has no end yet; one that an older release followed has none either.
    return seen.position > (state.position if end is None else end)


def why_nothing_starts(state: ClusterState) -> str:
    """For people: why nothing is placed and what would be right; empty when jobs are placed."""
    if state.outrun is not None:
        return _older(state.outrun)
    if state.hosts_awaited:
        return (
            f"The coordinator has just started: nothing is placed before {state.hosts_awaited} "
            f"more of the {len(state.hosts)} hosts that it knows have called, or those that have "
            "not are LOST"
        )
    return ""


def _older(outrun: Outrun) -> str:
    what = (
        f"entry {outrun.position}, which is not in this journal"
        if outrun.is_known
        else "a start of the coordinator that is not in this journal"
    )
    return (
        f"The journal of the coordinator is older than what host {outrun.host_id} has seen "
        f"({what}): nothing is placed, since jobs that have ended could run again; what runs goes "
        f"on. Bring back the newer journal, or start the coordinator once with {ACCEPT}"
    )


def kept_because(state: ClusterState, key: NodeKey) -> str:
    """Why a host is told to let be what it has of a node."""
    return "is UNREADABLE" if key.job_id in state.set_aside else "this journal does not know"
