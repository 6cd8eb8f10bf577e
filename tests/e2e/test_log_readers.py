"""Readers of output whose host dies, hangs or cannot read its own spool: none of them hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from muster.v1 import job_service_pb2 as pb
from tests.e2e.cluster import DEADLINE_SECONDS, ROOT, Cluster, cluster, definition
from tests.e2e.namespaces import NETWORK, inside, ip, namespaces
from tests.e2e.nodes import python

pytestmark = pytest.mark.limit(120)

QUICK = ("--lost-after-seconds", "2", "--stop-grace-seconds", "5", "--fence-margin-seconds", "1")

SAYS_FIRST_AND_LAST = """
import os, signal, sys, time
print("first", flush=True)
signal.signal(signal.SIGTERM, lambda *_: open(sys.argv[1], "w").close())
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
print("last", flush=True)
"""


async def started(c: Cluster, go: Path) -> tuple[str, str]:
    """A job of one node that has said `first`, and says `last` when it is told to stop or when
    `go` is there; its id and the id of its host."""
    command = [*python(SAYS_FIRST_AND_LAST), str(go)]
    job_id = await c.submit(await c.register(definition("talk", {"0": command}, num_nodes=1)))
    main = await c.until(f"{job_id}#0", "RUNNING")
    await c.first_line(f"{job_id}#0")
    return job_id, main.container.container_instance_arn.rpartition("/")[2]


async def begun(call: Any) -> None:
    """Until the host delivers."""
    assert (await call.read()).data in (b"", b"first\n")


async def rest_of(call: Any) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (piece := await call.read()) is not grpc.aio.EOF:
            assert piece.data in (b"", b"first\n")


async def broken_off(call: Any) -> str:
    """Why a stream of output ends before the output does; TimeoutError when it hangs."""
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rest_of(call)
    finally:
        call.cancel()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return caught.value.details() or ""


@asynccontextmanager
async def following(c: Cluster, node_id: str) -> AsyncIterator[Process]:
    """`muster logs -f` as a process."""
    reader = await create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "--coordinator", c.address, "logs", node_id, "-f"),
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield reader
    finally:
        if reader.returncode is None:
            reader.kill()
        await reader.communicate()


async def line(stream: asyncio.StreamReader | None, c: Cluster) -> str:
    assert stream is not None
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return (await stream.readline()).decode()
    except TimeoutError:
        raise AssertionError(f"no line came\n{c.story()}") from None


async def test_the_reader_of_a_host_that_hangs_is_told_so(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=1, coordinator_args=QUICK) as c:
        job_id, host_id = await started(c, tmp_path / "go")
        call = c.jobs.GetNodeLog(pb.GetNodeLogRequest(job_id=f"{job_id}#0", follow=True))
        await begun(call)
        c.agents[host_id].send(signal.SIGSTOP)
        why = await broken_off(call)
        assert f"host {host_id} is lost" in why
        assert "ask again" in why
        c.agents[host_id].send(signal.SIGCONT)
        await c.terminate(job_id)
        await c.until_gone(job_id)


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "killed"])
async def test_following_resumes_when_the_host_is_back(tmp_path: Path, hangs: bool) -> None:
    async with cluster(tmp_path, agents=1, coordinator_args=QUICK) as c:
        go = tmp_path / "go"
        job_id, host_id = await started(c, go)
        agent = c.agents[host_id]
        async with following(c, f"{job_id}#0") as reader:
            assert await line(reader.stdout, c) == "first\n"
            if hangs:
                agent.send(signal.SIGSTOP)
            else:
                await agent.end(signal.SIGKILL)
            said = await line(reader.stderr, c)
            assert f"host {host_id} " in said
            assert said.endswith("; trying again\n")
            if hangs:
                agent.send(signal.SIGCONT)
            else:
                await agent.start()
            go.touch()
            assert await line(reader.stdout, c) == "last\n"
            assert await line(reader.stderr, c) == f"muster: the output of {job_id}#0 goes on\n"
            assert await line(reader.stdout, c) == ""
            assert await reader.wait() == 0
        await c.until_gone(job_id)


@pytest.mark.real("netns")
async def test_the_reader_of_a_host_that_is_cut_off_is_told_so(tmp_path: Path) -> None:
    args = ("--insecure", *QUICK)
    with namespaces(1) as (name,):
        async with cluster(tmp_path, coordinator_args=args, listen=f"{NETWORK}.1:7400") as c:
            await c.agent("h1", None, prefix=inside(name)).start()
            await c.until_hosts({"h1": "FREE"})
            job_id, _ = await started(c, tmp_path / "go")
            call = c.jobs.GetNodeLog(pb.GetNodeLogRequest(job_id=f"{job_id}#0", follow=True))
            await begun(call)
            ip("-n", name, "link", "set", "eth0", "down")
            assert "host h1 is lost" in await broken_off(call)
            ip("-n", name, "link", "set", "eth0", "up")
            await c.terminate(job_id)
            await c.until_gone(job_id)


async def test_a_spool_that_cannot_be_read_is_told_and_ends_nothing(tmp_path: Path) -> None:
    """Nor does it keep the agent from reporting how the node ended."""
    async with cluster(tmp_path, agents=1, coordinator_args=QUICK) as c:
        job_id, host_id = await started(c, tmp_path / "go")
        [segment] = (tmp_path / host_id / "spool").glob("*/*.log")
        segment.rename(tmp_path / "aside")
        segment.mkdir()
        call = c.jobs.GetNodeLog(pb.GetNodeLogRequest(job_id=f"{job_id}#0", follow=True))
        why = await broken_off(call)
        assert f"host {host_id}" in why
        assert "Is a directory" in why
        (tmp_path / "go").touch()
        await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)


async def test_used_up_inotify_costs_no_output(tmp_path: Path) -> None:
    """The agent runs in a user namespace that may have no inotify instance at all."""
    none_left = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "sh", "-c", none_left, "sh"]
    async with cluster(tmp_path, coordinator_args=QUICK) as c:
        await c.agent("h1", "127.0.0.11", prefix=prefix).start()
        await c.until_hosts({"h1": "FREE"})
        go = tmp_path / "go"
        job_id, _ = await started(c, go)
        async with following(c, f"{job_id}#0") as reader:
            assert await line(reader.stdout, c) == "first\n"
            go.touch()
            assert await line(reader.stdout, c) == "last\n"
            assert await line(reader.stdout, c) == ""
            assert await reader.wait() == 0
        await c.until_gone(job_id)
        assert "inotify" in c.agents["h1"].story()
