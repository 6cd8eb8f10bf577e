"""HostService: what operators see of hosts and do to them. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import grpc

from coordinator.core import inputs as i
from coordinator.core.errors import InvalidArgument
from coordinator.core.ids import HostId
from coordinator.core.state import ClusterState
from coordinator.core.validation import validate_reason
from coordinator.rpc.errors import answering
from coordinator.rpc.ports import Cluster
from coordinator.rpc.render import host
from muster.v1 import host_service_pb2 as pb
from muster.v1.host_service_pb2_grpc import HostServiceServicer

_DESCRIBED_MAX = 100

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@answering
class HostService(HostServiceServicer):
    """The hosts of the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def ListHosts(
        self, request: pb.ListHostsRequest, context: Context
    ) -> pb.ListHostsResponse:
        def query(state: ClusterState) -> pb.ListHostsResponse:
            hosts = [host(state, host_id) for host_id in sorted(state.hosts)]
            return pb.ListHostsResponse(hosts=hosts, notice=_notice(state))

        return await self._cluster.read(query)

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
        await self._cluster.ask(i.FenceHost(host_id=host_id))
        return pb.FenceHostResponse(host=await self._one(host_id))

    async def _one(self, host_id: HostId) -> pb.Host:
        # The core has just accepted the host, and hosts are never forgotten.
        (found,) = await self._describe([host_id])
        return found

    async def _describe(self, host_ids: Sequence[str]) -> list[pb.Host]:
        def query(state: ClusterState) -> list[pb.Host]:
            known = (HostId(host_id) for host_id in host_ids)
            return [host(state, host_id) for host_id in known if host_id in state.hosts]

        return await self._cluster.read(query)


def _notice(state: ClusterState) -> str:
    if not state.shortage:
        return ""
    return f"{state.shortage}: no new jobs, definitions and queues are taken until there is room"


def _host_id(text: str) -> HostId:
    if not text:
        raise InvalidArgument("hostId is required")
    return HostId(text)
