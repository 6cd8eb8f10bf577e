"""Finds the host that has a node's output, and reads it through that host's session.

The daemon and the simulator share it. Must not import the daemon.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from coordinator.core.errors import NotFound
from coordinator.core.ids import HostId, NodeKey, SessionId
from coordinator.core.state import ClusterState, Job
from coordinator.rpc.log_relay import LogRelay, away
from coordinator.rpc.outbox import Outbox
from coordinator.rpc.ports import Jobs, Unreachable


async def read_log(
    cluster: Jobs,
    relay: LogRelay,
    outboxes: Mapping[SessionId, Outbox],
    key: NodeKey,
    *,
    offset: int,
    follow: bool,
) -> AsyncGenerator[tuple[int, bytes], None]:
    """Do `ports.Output.read_log`. `outboxes` are those of the sessions that are open."""
    host_id = await _host_of(cluster, key)
    session_id = await cluster.read(lambda state: _session(state, host_id))

    async def is_away() -> Unreachable | None:
        return await cluster.read(lambda state: away(state, host_id, session_id))

    if (why := await is_away()) is not None:
        raise why
    outbox = outboxes.get(session_id) if session_id is not None else None
    if outbox is None:
        raise Unreachable(f"host {host_id} is not connected", is_passing=True)
    pieces = relay.read(outbox, host_id, key, offset=offset, follow=follow, away=is_away)
    async with aclosing(pieces):
        async for piece in pieces:
            yield piece


async def _host_of(cluster: Jobs, key: NodeKey) -> HostId:
    host_id = await cluster.read(lambda state: _placed(state.jobs.get(key.job_id), key))
    if host_id is None:
        record = await cluster.record(key.job_id)
        host_id = _placed(await cluster.decode_job(record), key) if record is not None else None
    if host_id is None:
        raise NotFound(f"{key} was never placed on a host")
    return host_id


def _placed(job: Job | None, key: NodeKey) -> HostId | None:
    node = job.node(key) if job is not None else None
    return node.host_id if node is not None else None


def _session(state: ClusterState, host_id: HostId) -> SessionId | None:
    presence = state.presence.get(host_id)
    return presence.session_id if presence is not None else None
