"""One job in real containers with each engine: addresses, exit codes, logs, and a clean end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.cluster import cluster, definition, free_port
from tests.engines import IMAGE, RealEngine

pytestmark = pytest.mark.limit(240)

# Main ends when a child has reached it at the address that the child was given, which is when the
# test listens at GO.
MAIN = "env; exec busybox nc -l -p $PORT >/tmp/said"
CHILD = """env
trap 'exit 0' TERM
until busybox nc -w 5 127.0.0.1 $GO </dev/null; do busybox sleep 0.1; done
until echo hello | busybox nc -w 5 $AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS $PORT; do :; done
busybox sleep 1000 & wait
"""


@pytest.mark.real("docker")
async def test_job_in_docker(tmp_path: Path, docker_host: RealEngine) -> None:
    await _job_in_containers(tmp_path, docker_host)


@pytest.mark.real("podman")
async def test_job_in_podman(tmp_path: Path, podman_host: RealEngine) -> None:
    await _job_in_containers(tmp_path, podman_host)


async def _job_in_containers(tmp_path: Path, engine: RealEngine) -> None:
    async with cluster(tmp_path) as c:
        for n in (1, 2, 3):
            agent = c.agent(
                f"{engine.binary}{n}",
                f"127.0.0.{10 + n}",
                *engine.agent_flags,
                engine=engine.binary,
            )
            await agent.start()
        await c.until_hosts({f"{engine.binary}{n}": "FREE" for n in (1, 2, 3)})
        go = free_port()
        name = await c.register(
            definition(
                "containers",
                {
                    "0": ["sh", "-c", MAIN],
                    "1": ["sh", "-c", CHILD],
                    "2": ["/no/such/program"],
                },
                num_nodes=3,
                image=IMAGE,
                environment={
                    "PORT": str(free_port()),
                    "GO": str(go),
                    "LINES": "one\ntwo",
                    "DOLLAR": "$PORT",
                },
            )
        )
        job_id = await c.submit(name)
        failed = await c.until(f"{job_id}#2", "FAILED", deadline_seconds=60)
        async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", go):
            done = await c.until(job_id, "SUCCEEDED", deadline_seconds=120)
        await c.until_gone(job_id, 120)
        assert done.status_reason == "Essential container in task exited"
        assert failed.status_reason == "Task failed to start"
        assert failed.container.reason.startswith("CannotStartContainerError: ")
        child = (await c.log(f"{job_id}#1")).splitlines()
        main = (await c.log(f"{job_id}#0")).splitlines()
        assert f"AWS_BATCH_JOB_ID={job_id}#1" in child
        assert "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS=127.0.0.11" in child
        assert not [line for line in main if "PRIVATE_IPV4" in line]
        assert "DOLLAR=$PORT" in main
        assert main[main.index("LINES=one") + 1] == "two"
        assert engine.containers_of(job_id) == []


@pytest.mark.real("podman")
async def test_missing_image_fails_the_attempt_with_awss_words(
    tmp_path: Path, podman_host: RealEngine
) -> None:
    async with cluster(tmp_path) as c:
        agent = c.agent("p1", "127.0.0.11", *podman_host.agent_flags, engine="podman")
        await agent.start()
        await c.until_hosts({"p1": "FREE"})
        name = await c.register(
            definition("noimage", {"0": ["true"]}, num_nodes=1, image="localhost/Not-A-Name:1")
        )
        job_id = await c.submit(name)
        failed = await c.until(job_id, "FAILED", deadline_seconds=60)
        assert failed.status_reason == "Task failed to start"
        assert failed.attempts[0].container.reason.startswith("CannotPullContainerError: ")
