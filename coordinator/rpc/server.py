"""The gRPC server: all services on one port, with health and reflection.

Must not import the daemon; it is given what it serves.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from coordinator.options import Endpoint, TlsFiles
from coordinator.rpc.agent_service import AgentService
from coordinator.rpc.host_service import HostService
from coordinator.rpc.job_service import JobService
from coordinator.rpc.json_names import pool_with_json_names
from coordinator.rpc.sizes import RECEIVED_BYTES_MAX, sized_services
from muster.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    host_service_pb2,
    host_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
)

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", RECEIVED_BYTES_MAX),
    # Another coordinator on the same port must fail to start, not share the connections.
    ("grpc.so_reuseport", 0),
    # A thousand agents that come back at once are a crowd, not an attack.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
    # A peer that vanished or hangs is found out by this, else its streams stay for ever. On a
    # connection where something comes no ping is sent, so that hosts which beat cost nothing. A
    # minute for the answer, since it comes behind all output on its way to a slow reader, and a
    # peer that was paused should find its streams. gRPC gives the answer to a ping the third, TCP
    # gives what was sent the second. That a host is lost is told by its silence, long before.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 60_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Agents ping more often than gRPC's default tolerates.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
]
SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (job_service_pb2, "JobService"),
        (host_service_pb2, "HostService"),
        (agent_service_pb2, "AgentService"),
    )
)
_FOR_USERS = SERVICES[:2]
PLACEMENT = "muster.v1.placement"
"""No service: the name by which health tells whether jobs are placed."""


class Server:
    """Listening once `start` has returned; `serving` only when everything behind it is ready."""

    def __init__(
        self,
        *,
        jobs: JobService,
        hosts: HostService,
        agents: AgentService,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    ) -> None:
        self._server = grpc.aio.server(interceptors=interceptors, options=_OPTIONS)
        sized = sized_services(self._server)
        job_service_pb2_grpc.add_JobServiceServicer_to_server(jobs, sized)
        host_service_pb2_grpc.add_HostServiceServicer_to_server(hosts, sized)
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agents, self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool_with_json_names(names))

    async def start(self, listen: Endpoint, tls: TlsFiles | None) -> int:
        """Begin to listen; the port that it is. OSError when that cannot be."""
        try:
            if tls is None:
                port = self._server.add_insecure_port(str(listen))
            else:
                port = self._server.add_secure_port(str(listen), _credentials(tls))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {listen}: {_why_not(listen, error)}") from error
        await self._server.start()
        await self._tell_health(health_pb2.HealthCheckResponse.SERVING)
        return port

    async def tell_full(self, is_full: bool) -> None:
        """While the disk is full, users are served nothing. Agents are, and the server as a whole
        is: who starts it again for want of health would help nobody."""
        serving = health_pb2.HealthCheckResponse.SERVING
        status = health_pb2.HealthCheckResponse.NOT_SERVING if is_full else serving
        for name in _FOR_USERS:
            await self._health.set(name, status)

    async def tell_placing(self, is_placing: bool) -> None:
        """While nothing is placed all is served, and yet no job starts."""
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if is_placing else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(PLACEMENT, status)

    async def stop(self, grace_seconds: float) -> None:
        await self._tell_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.stop(grace_seconds)

    async def _tell_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *SERVICES, PLACEMENT):
            await self._health.set(name, status)


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.cert.read_bytes())],
        root_certificates=tls.ca.read_bytes(),
        require_client_auth=True,
    )


def _why_not(listen: Endpoint, error: Exception) -> str:
    """In the kernel's words: gRPC only says that it failed."""
    try:
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
    except OSError as refused:
        return refused.strerror or str(refused)
    return str(error)
