"""The table from what goes wrong to what a caller is told."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.core import errors as e
from coordinator.rpc.errors import Stopping, status_of
from coordinator.rpc.ports import Overloaded, Unreachable
from muster.v1 import host_service_pb2
from muster.v1 import job_service_pb2 as pb
from tests.fakes.cluster import FakeCluster
from tests.rpc.conftest import Client, refusal, serving


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (e.InvalidArgument, "INVALID_ARGUMENT"),
        (e.NotFound, "NOT_FOUND"),
        (e.Conflict, "FAILED_PRECONDITION"),
        (e.AlreadyExists, "ALREADY_EXISTS"),
        (e.DuplicateAgent, "ALREADY_EXISTS"),
        (Overloaded, "RESOURCE_EXHAUSTED"),
        (Unreachable, "UNAVAILABLE"),
        (Stopping, "UNAVAILABLE"),
    ],
)
async def test_each_kind_has_its_status(
    client: Client,
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
    status: str,
) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise error("what, where, and what would be right")

    monkeypatch.setattr(cluster, "read", fail)
    code, details = await refusal(client.hosts.ListHosts(host_service_pb2.ListHostsRequest()))
    assert code.name == status
    assert details == "what, where, and what would be right"


def test_every_rejection_of_the_core_has_a_status() -> None:
    def kinds(cls: type[e.Rejected]) -> list[type[e.Rejected]]:
        return [found for sub in cls.__subclasses__() for found in (sub, *kinds(sub))]

    assert len(kinds(e.Rejected)) == 6
    for kind in kinds(e.Rejected):
        assert status_of(kind("x")) is not None
    assert status_of(ValueError("x")) is None
    assert status_of(e.InvariantViolation("x")) is None


@pytest.mark.parametrize("rpc", ["ExplainJob", "WatchJob"])
async def test_a_defect_is_logged_and_not_told(
    client: Client,
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    rpc: str,
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(cluster, "read", fail)
    monkeypatch.setattr(cluster, "watch", fail)
    request = getattr(pb, f"{rpc}Request")(job_id="0000")
    code, details = await refusal(getattr(client.jobs, rpc)(request))
    assert code is grpc.StatusCode.INTERNAL
    found = re.fullmatch(
        rf"{rpc} failed by a defect of the coordinator; its log has the story: "
        r"look for incident ([0-9a-f]{8})",
        details,
    )
    assert found is not None
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert found[1] in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_long_details_fit_into_a_trailer(
    client: Client, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise e.Conflict("é" * 100_000)

    monkeypatch.setattr(cluster, "read", fail)
    code, details = await refusal(client.hosts.ListHosts(host_service_pb2.ListHostsRequest()))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert details.startswith("éé")
    assert details.endswith("...")


@pytest.mark.parametrize("rpc", ["ExplainJob", "WatchJob"])
async def test_every_rpc_refuses_a_newer_contract(client: Client, rpc: str) -> None:
    request = getattr(pb, f"{rpc}Request").FromString(b"\xc0\x3e\x01")
    code, details = await refusal(getattr(client.jobs, rpc)(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == f"{rpc}Request: member number 1000 is not known to this coordinator"


async def test_a_reader_that_goes_ends_what_was_opened_for_it(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    closed = asyncio.Event()

    class Watched(FakeCluster):
        def watch(self, job_id: Any, render: Any) -> Any:
            opened = super().watch(job_id, render)

            class Noticed:
                async def __aenter__(self) -> Any:
                    return await opened.__aenter__()

                async def __aexit__(self, *error: Any) -> Any:
                    closed.set()
                    return await opened.__aexit__(*error)

            return Noticed()

    async with serving(Watched(), tmp_path) as client:
        job_id = await client.submit()
        call: Any = client.jobs.WatchJob(pb.WatchJobRequest(job_id=job_id))
        await call.read()
        call.cancel()
        async with asyncio.timeout(10):
            await closed.wait()
