"""Mutual TLS: the certificate's URI is the role, and a role may do what the page says."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable
from pathlib import Path
from typing import cast

import grpc
import pytest

from muster.v1 import host_service_pb2, host_service_pb2_grpc
from muster.v1 import job_service_pb2 as pb
from muster.v1 import job_service_pb2_grpc as pb_grpc
from tests.e2e.cluster import Cluster, cluster
from tests.wait import eventually

pytestmark = [pytest.mark.real("openssl"), pytest.mark.limit(120)]

WHO = {
    "coordinator": ("serverAuth", "IP:127.0.0.1"),
    "h1": ("clientAuth", "URI:muster://agent/h1"),
    "alice": ("clientAuth", "URI:muster://user/alice"),
    "carol": ("clientAuth", "URI:muster://admin/carol"),
    "nobody": ("clientAuth", "DNS:nobody.example"),
}


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A directory with ca.crt and NAME.crt, NAME.key for everybody in WHO."""
    made = tmp_path / "tls"
    made.mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(made, "req", "-x509", *key, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    for name, (usage, names) in WHO.items():
        files = ["-keyout", f"{name}.key", "-out", f"{name}.csr"]
        _openssl(made, "req", "-new", *key, "-subj", f"/CN={name}", *files)
        extensions = f"extendedKeyUsage={usage}\nsubjectAltName={names}\n"
        (made / "ext").write_text(extensions)
        _openssl(
            made, "x509", "-req", "-in", f"{name}.csr", "-extfile", "ext", "-CA", "ca.crt",
            "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.crt",
        )  # fmt: skip
    return made


def _openssl(directory: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], cwd=directory, check=True, capture_output=True)


def _flags(certificates: Path, name: str) -> list[str]:
    return [
        "--tls-cert", str(certificates / f"{name}.crt"),
        "--tls-key", str(certificates / f"{name}.key"),
        "--tls-ca", str(certificates / "ca.crt"),
    ]  # fmt: skip


def _channel(c: Cluster, certificates: Path, name: str | None) -> grpc.aio.Channel:
    ca = (certificates / "ca.crt").read_bytes()
    key = (certificates / f"{name}.key").read_bytes() if name else None
    chain = (certificates / f"{name}.crt").read_bytes() if name else None
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    return grpc.aio.secure_channel(
        c.address, credentials, options=[("grpc.use_local_subchannel_pool", 1)]
    )


async def _codes(c: Cluster, certificates: Path, name: str | None) -> dict[str, str]:
    """What one caller is answered: to a read, to a change of a job, to a change of a host."""
    async with _channel(c, certificates, name) as channel:
        jobs = cast("pb_grpc.JobServiceAsyncStub", pb_grpc.JobServiceStub(channel))
        hosts = cast(
            "host_service_pb2_grpc.HostServiceAsyncStub",
            host_service_pb2_grpc.HostServiceStub(channel),
        )
        calls: dict[str, Awaitable[object]] = {
            "list": hosts.ListHosts(host_service_pb2.ListHostsRequest()),
            "submit": jobs.SubmitJob(pb.SubmitJobRequest()),
            "drain": hosts.DrainHost(host_service_pb2.DrainHostRequest(host_id="none")),
        }
        codes = {}
        for what, call in calls.items():
            try:
                await call
                codes[what] = "OK"
            except grpc.aio.AioRpcError as error:
                codes[what] = error.code().name
    return codes


async def test_roles(tmp_path: Path, certificates: Path) -> None:
    async with cluster(tmp_path, coordinator_args=_flags(certificates, "coordinator")) as c:
        admin, user = "carol", "alice"
        await eventually(lambda: "listening" in c.coordinator.story(), 20, c.story)
        assert await _codes(c, certificates, admin) == {
            "list": "OK", "submit": "INVALID_ARGUMENT", "drain": "NOT_FOUND",
        }  # fmt: skip
        assert await _codes(c, certificates, user) == {
            "list": "OK", "submit": "INVALID_ARGUMENT", "drain": "PERMISSION_DENIED",
        }  # fmt: skip
        for stranger in ("nobody", "h1"):
            codes = await _codes(c, certificates, stranger)
            assert set(codes.values()) == {"PERMISSION_DENIED"}, stranger
        assert set((await _codes(c, certificates, None)).values()) == {"UNAVAILABLE"}


async def test_agent_speaks_for_its_own_host_only(tmp_path: Path, certificates: Path) -> None:
    async with cluster(tmp_path, coordinator_args=_flags(certificates, "coordinator")) as c:
        await c.agent("h1", "127.0.0.11", *_flags(certificates, "h1")).start()
        other = c.agent("h2", "127.0.0.12", *_flags(certificates, "h1"))
        user = c.agent("h3", "127.0.0.13", *_flags(certificates, "alice"))
        await other.start()
        await user.start()
        await eventually(lambda: "session open" in c.agents["h1"].story(), 20, c.story)
        await eventually(lambda: "is for host h1, not h2" in other.story(), 20, c.story)
        await eventually(lambda: "PERMISSION_DENIED" in user.story(), 20, c.story)
