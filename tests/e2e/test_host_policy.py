"""A host's refusal and a host that cannot be cleaned, as users see them, with real daemons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from muster.v1 import host_service_pb2, job_service_pb2
from tests.e2e.cluster import Cluster, cluster, definition
from tests.engines import IMAGE, RealEngine, podman_host
from tests.wait import eventually

__all__ = ["podman_host"]

pytestmark = [pytest.mark.real("podman"), pytest.mark.limit(180)]


def asking(name: str, **members: Any) -> dict[str, Any]:
    """Two nodes whose containers ask for more than the usual."""
    made = definition(name, {"0:": ["sh", "-c", "sleep 1000"]}, num_nodes=2, image=IMAGE)
    made["nodeProperties"]["nodeRangeProperties"][0]["container"].update(members)
    return made


def mounting(path: object) -> dict[str, Any]:
    return {
        "volumes": [{"name": "v", "host": {"sourcePath": str(path)}}],
        "mountPoints": [{"sourceVolume": "v", "containerPath": "/v"}],
    }


def at(path: str) -> dict[str, Any]:
    return {"mountPoints": [{"sourceVolume": "v", "containerPath": path}]}


async def why(c: Cluster, job_id: str) -> str:
    """What ExplainJob says once a host has refused."""
    last = ""

    async def refused() -> str:
        nonlocal last
        explained = await c.jobs.ExplainJob(job_service_pb2.ExplainJobRequest(job_id=job_id))
        last = str(explained)
        return last if "does not allow" in last else ""

    return await eventually(refused, 30, lambda: f"{last}\n{c.story()}")


async def test_a_refusal_names_rule_and_host_and_nobody_starts(
    tmp_path: Path, podman_host: RealEngine
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "out").symlink_to("/etc")
    rules = [f"--allow-host-paths={tmp_path}/data:rw", "--allow-users=1000:*"]
    flags = [*podman_host.agent_flags, *rules]
    async with cluster(tmp_path) as c:
        for n in (1, 2):
            await c.agent(f"h{n}", f"127.0.0.{n}", *flags, engine="podman").start()
        await c.until_hosts({"h1": "FREE", "h2": "FREE"})
        wanted: dict[str, tuple[dict[str, Any], str]] = {
            "privileged": ({"privileged": True, "user": "1000:1"}, "allow_privileged is false"),
            "path": ({**mounting("/etc"), "user": "1000:1"}, "the host path /etc (allow_host_path"),
            "link": ({**mounting(f"{tmp_path}/data/out"), "user": "1000:1"}, "which is /etc"),
            "root": ({"user": "root"}, "the user root (allow_users is"),
        }
        for name, (members, words) in wanted.items():
            job_id = await c.submit(await c.register(asking(name, **members)))
            explained = await why(c, job_id)
            assert words in explained, explained
            assert "host h1 does not allow" in explained or "host h2 does not" in explained
            assert await c.describe(f"{job_id}#0") is None
            await c.terminate(job_id)
            await c.until_gone(job_id)
        for name, members, words in (
            ("dots", mounting(f"{tmp_path}/data/../h1"), "must not have '..'"),
            ("file", {"image": f"docker-archive:{tmp_path}/image.tar"}, "transport"),
            ("flag", {"image": "--privileged"}, "must not begin with '-'"),
            ("zeros", {"user": "00"}, "without leading zeros"),
            ("kit", {**mounting("/data"), **at("/run//muster/")}, "rendezvous kit"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=words) as refusal:
                await c.register(asking(name, **members))
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        allowed = asking("allowed", **mounting(f"{tmp_path}/data/new"), user="1000:1")
        job_id = await c.submit(await c.register(allowed))
        await c.until(f"{job_id}#1", "RUNNING")
        assert (tmp_path / "data" / "new").is_dir()
        await c.terminate(job_id)
        await c.until_gone(job_id)


async def test_an_engine_that_hangs_quarantines_its_host_until_it_answers(
    tmp_path: Path, podman_host: RealEngine
) -> None:
    hangs = tmp_path / "hangs"
    binary = tmp_path / "engine"
    binary.write_text(f'#!/bin/sh\nif [ -e {hangs} ]; then exec sleep 1000; fi\nexec podman "$@"\n')
    binary.chmod(0o755)
    flags = [*podman_host.agent_flags, f"--engine-binary={binary}", "--engine-call-seconds=3"]
    async with cluster(tmp_path, coordinator_args=["--stop-grace-seconds", "1"]) as c:
        await c.agent("h1", "127.0.0.1", *flags, engine="podman").start()
        await c.until_hosts({"h1": "FREE"})
        command = ["sh", "-c", "trap '' TERM; echo ready; sleep 1000"]
        one = definition("one", {"0": command}, num_nodes=1, image=IMAGE)
        job_id = await c.submit(await c.register(one))
        await c.until(job_id, "RUNNING")
        assert await c.first_line(f"{job_id}#0") == "ready"
        hangs.touch()
        await c.terminate(job_id)
        await c.until_hosts({"h1": "QUARANTINED"}, 60)
        listed = await c.hosts.ListHosts(host_service_pb2.ListHostsRequest())
        assert "did not end within" in str(listed), listed
        hangs.unlink()
        await c.until_gone(job_id)
        await c.until_hosts({"h1": "FREE"})
