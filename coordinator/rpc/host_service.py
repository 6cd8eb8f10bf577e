"""HostService: what operators see of hosts and do to them. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import grpc

from coordinator.core import inputs as i
from coordinator.core.errors import InvalidArgument
from coordinator.core.ids import HostId
from coordinator.core.lineage import why_nothing_starts
from coordinator.core.state import ClusterState
from coordinator.core.validation import validate_reason
from coordinator.rpc.errors import answering
from coordinator.rpc.paging import last_seen, page_size, token
from coordinator.rpc.ports import Cluster
from coordinator.rpc.refused import RefusedAgents
from coordinator.rpc.render import host
from coordinator.rpc.turns import Turns, too_much
from muster.v1 import host_service_pb2 as pb
from muster.v1.host_service_pb2_grpc import HostServiceServicer

_DESCRIBED_MAX = 100
_PAGE_MAX = 10_000
"""More than a reply holds; whoever asks for no size is shown what fits."""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@answering
class HostService(HostServiceServicer):
    """The hosts of the cluster."""

    def __init__(self, cluster: Cluster, refused: RefusedAgents) -> None:
        self._refused = refused
        self._cluster = cluster
        self._turns = Turns(cluster)

    async def ListHosts(
        self, request: pb.ListHostsRequest, context: Context
    ) -> pb.ListHostsResponse:
        size = page_size(
            request.max_results if request.HasField("max_results") else None, _PAGE_MAX
        )
        (after,) = last_seen(request.next_token, "hosts", ("",)) or ("",)
        host_ids, notice = await self._cluster.read(
            lambda state: (
                sorted(host_id for host_id in state.hosts if host_id > after),
                _notice(state),
            )
        )
        shown, more = await self._turns.fill(host_ids, host, size)
        reply = pb.ListHostsResponse(
            next_token=token("hosts", (shown[-1][0],)) if more else None,
            notice=notice,
            refused=[] if after else self._refused.recent(),
        )
        await self._turns.put((each for _, each in shown), reply.hosts)
        return reply

    async def DescribeHosts(
        self, request: pb.DescribeHostsRequest, context: Context
    ) -> pb.DescribeHostsResponse:
        if not 1 <= len(request.host_ids) <= _DESCRIBED_MAX:
            raise InvalidArgument(
                f"hostIds has {len(request.host_ids)} elements; it must have 1 to {_DESCRIBED_MAX}"
            )
        return pb.DescribeHostsResponse(hosts=await self._describe(request.host_ids))

    async def DrainHost(
        self, request: pb.DrainHostRequest, context: Context
    ) -> pb.DrainHostResponse:
        if request.reason:
            validate_reason(request.reason)
        host_id = _host_id(request.host_id)
        await self._cluster.ask(i.DrainHost(host_id=host_id, reason=request.reason))
        return pb.DrainHostResponse(host=await self._one(host_id))

    async def ResumeHost(
        self, request: pb.ResumeHostRequest, context: Context
    ) -> pb.ResumeHostResponse:
        host_id = _host_id(request.host_id)
        await self._cluster.ask(i.ResumeHost(host_id=host_id))
        return pb.ResumeHostResponse(host=await self._one(host_id))

    async def FenceHost(
        self, request: pb.FenceHostRequest, context: Context
    ) -> pb.FenceHostResponse:
        host_id = _host_id(request.host_id)
        gone = await self._cluster.ask(i.FenceHost(host_id=host_id))
        return pb.FenceHostResponse(host=await self._one(host_id), gone=str(gone))

    async def ForgetHost(
        self, request: pb.ForgetHostRequest, context: Context
    ) -> pb.ForgetHostResponse:
        await self._cluster.ask(i.ForgetHost(host_id=_host_id(request.host_id)))
        return pb.ForgetHostResponse()

    async def _one(self, host_id: HostId) -> pb.Host:
        """A host that the core has just accepted, unless somebody has had it forgotten since."""
        found = await self._describe([host_id])
        return found[0] if found else pb.Host(host_id=host_id, reason="it was forgotten")

    async def _describe(self, host_ids: Sequence[str]) -> list[pb.Host]:
        def render(state: ClusterState, host_id: HostId) -> pb.Host | None:
            return host(state, host_id) if host_id in state.hosts else None

        wanted = [HostId(host_id) for host_id in host_ids]
        shown, more = await self._turns.fill(wanted, render, len(wanted))
        if more:
            raise too_much("hosts", len(wanted), len(shown))
        return [each for _, each in shown]


def _notice(state: ClusterState) -> str:
    told = [why_nothing_starts(state)]
    if state.shortage:
        room = "no new jobs, definitions and queues are taken until that is put right"
        told.append(f"{state.shortage}: {room}")
    return "; ".join(filter(None, told))


def _host_id(text: str) -> HostId:
    if not text:
        raise InvalidArgument("hostId is required")
    return HostId(text)
