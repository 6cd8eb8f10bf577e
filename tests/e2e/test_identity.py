"""What operators and disk images do to an agent's files, on real daemons: nothing runs twice, and
nobody ends what is another's.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import uuid
from pathlib import Path

import pytest

from agent.host import nodes
from tests.e2e.two_hosts import ENGINES, EVERY_ENGINE, PATIENT, Bench, two_hosts
from tests.wait import eventually

pytestmark = pytest.mark.limit(180)


async def is_back(bench: Bench, host_id: str, job_id: str) -> None:
    """The host speaks for itself again, and its job has gone on for longer than a lease."""
    await bench.cluster.until_hosts({host_id: "BUSY"})
    await bench.time_passes(8)
    assert list(bench.said.lives(job_id)) == [1], bench.cluster.story()


@EVERY_ENGINE
async def test_an_agent_whose_files_were_deleted_takes_over_what_runs(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    async with two_hosts(tmp_path, engine_name, request, PATIENT) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        await c.agents[host_id].end(signal.SIGKILL)
        shutil.rmtree(tmp_path / host_id)
        await c.agents[host_id].start()
        await is_back(bench, host_id, job_id)
        assert " ERROR " not in c.agents[host_id].log.read_text(), "it passes by itself"
        await bench.ends_well(job_id, 1)
        await c.until_gone(job_id)
        await c.until_hosts({host_id: "FREE"})


@ENGINES
async def test_without_files_and_coordinator_what_runs_ends_in_time(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    """The agent cannot know how old its last contact is; the node's holder does."""
    async with two_hosts(tmp_path, engine_name, request, PATIENT) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        await c.agents[host_id].end(signal.SIGKILL)
        shutil.rmtree(tmp_path / host_id)
        agent = c.agents[host_id]
        at = agent.argv.index(c.address)
        agent.argv[at] = "127.0.0.1:1"
        await agent.start()
        await bench.alone(job_id)
        await agent.end()
        agent.argv[at] = c.address
        await agent.start()
        await c.until_hosts({host_id: "FREE"})
        await bench.ends_well(job_id, 2)
        await c.until_gone(job_id)


@pytest.mark.parametrize("how", ["moved", "copied"])
@ENGINES
async def test_an_agent_whose_files_are_elsewhere_takes_over_what_runs(
    tmp_path: Path, engine_name: str, how: str, request: pytest.FixtureRequest
) -> None:
    async with two_hosts(tmp_path, engine_name, request, PATIENT) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        agent = c.agents[host_id]
        await agent.end(signal.SIGKILL)
        new = tmp_path / "new"
        if how == "moved":
            (tmp_path / host_id).rename(new)
        else:
            shutil.copytree(tmp_path / host_id, new)
        agent.argv[agent.argv.index(str(tmp_path / host_id))] = str(new)
        await agent.start()
        await is_back(bench, host_id, job_id)
        await bench.ends_well(job_id, 1)
        await c.until_gone(job_id)
        await c.until_hosts({host_id: "FREE"})


@ENGINES
async def test_a_data_directory_that_was_brought_back_from_before_the_job(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    async with two_hosts(tmp_path, engine_name, request, PATIENT) as bench:
        c = bench.cluster
        for host_id, agent in c.agents.items():
            await agent.end()
            shutil.copytree(tmp_path / host_id, tmp_path / f"{host_id}.before")
            await agent.start()
        await c.until_hosts(dict.fromkeys(c.agents, "FREE"))
        job_id, host_id = await bench.job()
        await c.agents[host_id].end(signal.SIGKILL)
        shutil.rmtree(tmp_path / host_id)
        (tmp_path / f"{host_id}.before").rename(tmp_path / host_id)
        await c.agents[host_id].start()
        await is_back(bench, host_id, job_id)
        await bench.ends_well(job_id, 1)
        await c.until_gone(job_id)


@ENGINES
async def test_a_second_agent_of_the_host_on_this_machine(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    """It does not start; and where it cannot see the first, its coordinator refuses it, and it has
    touched nothing."""
    async with two_hosts(tmp_path, engine_name, request, PATIENT) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        first = c.agents[host_id]
        for runtime_dir, why in (
            (tmp_path / "run", "another agent of host"),
            (tmp_path / "elsewhere", "belongs to another agent"),
        ):
            twin = c.agent(host_id, "127.0.0.99", "--data-dir", str(tmp_path / "twin"))
            twin.argv = [*first.argv, "--data-dir", str(tmp_path / "twin")]
            twin.argv += ["--runtime-dir", str(runtime_dir)]
            twin.log = tmp_path / "twin.log"
            c.agents[host_id] = first
            await twin.start()
            await eventually(lambda: why in twin.log.read_text(), 20, twin.story)  # noqa: B023
            await twin.end()
        assert "Stop" not in twin.log.read_text()
        await bench.ends_well(job_id, 1)


@ENGINES
async def test_a_copy_of_the_disk_on_another_machine(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    """It has the host id, the agent's uuid and its ledger; what it has not is the machine."""
    async with two_hosts(tmp_path, engine_name, request, PATIENT) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        first = c.agents[host_id]
        shutil.copytree(tmp_path / host_id, tmp_path / "copy")
        (tmp_path / "machine-id").write_text("0" * 32 + "\n")
        mount = f'mount --bind {tmp_path}/machine-id /etc/machine-id && exec "$@"'
        copy = c.agent(host_id, "127.0.0.99")
        copy.argv = ["unshare", "--mount", "sh", "-c", mount, "sh", *first.argv]
        copy.argv += ["--data-dir", str(tmp_path / "copy"), "--runtime-dir", str(tmp_path / "runs")]
        copy.log = tmp_path / "copy.log"
        c.agents[host_id] = first
        await copy.start()
        await eventually(
            lambda: "belongs to another machine" in copy.log.read_text(), 20, copy.story
        )
        await is_back(bench, host_id, job_id)
        await copy.end()
        await bench.ends_well(job_id, 1)


async def test_an_agent_that_has_got_another_engine_waits_for_what_the_old_one_runs(
    tmp_path: Path, podman_host: object, request: pytest.FixtureRequest
) -> None:
    async with two_hosts(tmp_path, "podman", request, PATIENT) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        agent = c.agents[host_id]
        await agent.end(signal.SIGKILL)
        before, at = agent.argv, agent.argv.index("podman")
        agent.argv = [*before[:at], "process", *before[at + 1 : at + 3]]
        agent.argv += [*before[at + 3 : before.index("--private-ip") + 2]]
        await agent.start()
        await eventually(lambda: "this agent cannot take over" in c.story(), 20, c.story)
        await bench.time_passes(8)
        assert list(bench.said.lives(job_id)) == [1]
        await agent.end()
        agent.argv = before
        await agent.start()
        await is_back(bench, host_id, job_id)
        await bench.ends_well(job_id, 1)


@ENGINES
async def test_after_a_goodbye_files_are_deleted_and_the_agent_cannot_look_at_its_host(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    """It says Hello, and dies before it has found the holder of the lease that its goodbye has
    taken away: nothing ends what runs, so that its time is not over either."""
    async with two_hosts(tmp_path, engine_name, request, PATIENT) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        (found,) = nodes.running(host_id).values()
        agent = c.agents[host_id]
        assert await agent.end() == 0
        shutil.rmtree(tmp_path / host_id)
        variables = {
            "MUSTER_HOST_ID": host_id,
            "MUSTER_CLUSTER_ID": found.cluster_id,
            "AWS_BATCH_JOB_ID": f"{uuid.uuid4()}#0",
            "AWS_BATCH_JOB_ATTEMPT": "1",
        }
        stranger = await asyncio.create_subprocess_exec("/bin/sleep", "1000", env=variables)
        try:
            await agent.start()
            await c.until_hosts({host_id: "UNUSABLE"})
            await eventually(lambda: "cannot take over" in agent.log.read_text(), 20, agent.story)
            await agent.end(signal.SIGKILL)
            await c.until_hosts({host_id: "STOPPED"})
            await bench.time_passes(14)
            assert list(bench.said.lives(job_id)) == [1], c.story()
        finally:
            stranger.kill()
            await stranger.wait()
        await agent.start()
        await is_back(bench, host_id, job_id)
        await bench.ends_well(job_id, 1)
        await c.until_gone(job_id)
