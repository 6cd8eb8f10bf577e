"""Containers that an engine makes late: their agent hangs, or was killed and lost its files."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from agent.host import nodes
from tests import witness
from tests.e2e.cluster import definition
from tests.e2e.two_hosts import PATIENT, Bench, two_hosts
from tests.engines import IMAGE

pytestmark = [pytest.mark.limit(180), pytest.mark.real("podman")]

# The first `run` of a container waits.
_SLOW = """#!/bin/sh
case " $* " in
*" run "*) if rmdir {directory}/slow 2>/dev/null; then
    echo "$*" >{directory}/begun.new
    mv {directory}/begun.new {directory}/begun
    sleep {seconds}
fi ;;
esac
exec podman "$@"
"""


async def begun(bench: Bench, directory: Path, seconds: int) -> tuple[str, str]:
    """A job whose container takes so long to come up: its id, and its host's."""
    c = bench.cluster
    engine = directory / "engine"
    engine.write_text(_SLOW.format(directory=directory, seconds=seconds))
    engine.chmod(0o755)
    for agent in c.agents.values():
        await agent.end()
        agent.argv += ["--engine-binary", str(engine)]
        await agent.start()
    await c.until_hosts(dict.fromkeys(c.agents, "FREE"))
    (directory / "slow").mkdir()
    job = definition(
        "lives",
        {"0": witness.node(str(bench.said.directory), "go", "0")},
        num_nodes=1,
        image=IMAGE,
        retryStrategy={"attempts": 3},
    )
    (group,) = job["nodeProperties"]["nodeRangeProperties"]
    group["container"].update(bench.node)
    job_id = await c.submit(await c.register(job))
    call = directory / "begun"
    await bench.until(call.exists)
    (host_id,) = [each for each in c.agents if f"muster.host={each}" in call.read_text()]
    return job_id, host_id


async def test_a_container_that_comes_up_after_its_lease_while_its_agent_hangs(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Nobody tells its keeper, which ends it as soon as it is there."""
    async with two_hosts(tmp_path, "podman", request) as bench:
        c = bench.cluster
        job_id, host_id = await begun(bench, tmp_path, 14)
        c.agents[host_id].send(signal.SIGSTOP)
        await bench.until(lambda: bench.lives(job_id, 1))
        await bench.until(lambda: not nodes.running(host_id))
        c.agents[host_id].send(signal.SIGCONT)
        await bench.ends_well(job_id, 2)
        await c.until_gone(job_id)
        await c.until_hosts({host_id: "FREE"})


@pytest.mark.parametrize("what", ["everything", "ledger"])
async def test_a_container_that_comes_up_when_its_agent_has_lost_its_files(
    tmp_path: Path, what: str, request: pytest.FixtureRequest
) -> None:
    """The call that makes it is all that shows that it may yet run. It is taken over."""
    async with two_hosts(tmp_path, "podman", request, PATIENT) as bench:
        c = bench.cluster
        job_id, host_id = await begun(bench, tmp_path, 4)
        agent = c.agents[host_id]
        await agent.end(signal.SIGKILL)
        if what == "everything":
            shutil.rmtree(tmp_path / host_id)
        else:
            for file in (tmp_path / host_id).glob("agent.db*"):
                file.unlink()
        await agent.start()
        await bench.until(lambda: bench.lives(job_id, 1))
        await bench.time_passes(8)
        assert list(bench.said.lives(job_id)) == [1], c.story()
        await bench.ends_well(job_id, 1)
        await c.until_gone(job_id)
        await c.until_hosts({host_id: "FREE"})
