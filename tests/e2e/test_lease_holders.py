"""Leases end without the agent: it hangs, was killed, or cannot start, for longer than a lease."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.e2e.two_hosts import ENGINES, EVERY_ENGINE, LEASE_GRACE_MARGIN_SECONDS, two_hosts

pytestmark = pytest.mark.limit(180)


@EVERY_ENGINE
async def test_an_agent_that_hangs_for_longer_than_the_lease(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    async with two_hosts(tmp_path, engine_name, request) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        c.agents[host_id].send(signal.SIGSTOP)
        await bench.alone(job_id)
        c.agents[host_id].send(signal.SIGCONT)
        await c.until_hosts({host_id: "FREE"})
        await bench.ends_well(job_id, 2)
        await c.until_gone(job_id)


@EVERY_ENGINE
async def test_an_agent_that_is_killed_and_never_comes_back(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    async with two_hosts(tmp_path, engine_name, request) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        await c.agents[host_id].end(signal.SIGKILL)
        await bench.alone(job_id)
        await bench.ends_well(job_id, 2)
        # Only to leave nothing behind.
        await c.agents[host_id].start()
        await c.until_hosts({host_id: "FREE"})


@pytest.mark.parametrize("what", ["ledger", "settings"])
async def test_an_agent_that_cannot_start(
    tmp_path: Path, what: str, request: pytest.FixtureRequest
) -> None:
    async with two_hosts(tmp_path, "process", request) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        agent = c.agents[host_id]
        await agent.end(signal.SIGKILL)
        ledger, argv = tmp_path / host_id / "agent.db", agent.argv
        good = _format(ledger)
        if what == "ledger":
            # As of a newer release, from which somebody went back.
            _format(ledger, 99)
        else:
            broken = tmp_path / "agent.toml"
            broken.write_text("engine = 'process\n")
            agent.argv = [*argv, "--config", str(broken)]
        await agent.start()
        await bench.alone(job_id)
        assert "muster-agent: " in agent.log.read_text()
        # It has ended by itself, so that `end` says with what.
        assert await agent.end() in (1, 2)
        await bench.ends_well(job_id, 2)
        _format(ledger, good)
        agent.argv = argv
        await agent.start()
        await c.until_hosts({host_id: "FREE"})


def _format(ledger: Path, new: int | None = None) -> int:
    """The number of the ledger's format; a new one if there is any."""
    with contextlib.closing(sqlite3.connect(ledger)) as db:
        number: int = db.execute("pragma user_version").fetchone()[0]
        if new is not None:
            db.execute(f"pragma user_version = {new}")
        return number


@ENGINES
async def test_a_main_that_ended_by_itself_while_its_agent_hung_counts_with_its_code(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    """The coordinator was away as well, so that nobody has given the attempt up."""
    async with two_hosts(tmp_path, engine_name, request) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        await c.coordinator.end(signal.SIGKILL)
        c.agents[host_id].send(signal.SIGSTOP)
        bench.said.let_end()
        await bench.until(lambda: "ended" in bench.said.said(f"{job_id}#0", 1))
        await bench.time_passes(LEASE_GRACE_MARGIN_SECONDS)
        c.agents[host_id].send(signal.SIGCONT)
        await c.coordinator.start()
        done = await c.until(job_id, "SUCCEEDED")
        assert len(done.attempts) == 1
        await c.until_gone(job_id)


@ENGINES
async def test_what_goes_on_after_a_goodbye_has_a_lease_again_when_its_agent_is_back(
    tmp_path: Path, engine_name: str, request: pytest.FixtureRequest
) -> None:
    async with two_hosts(tmp_path, engine_name, request) as bench:
        c = bench.cluster
        job_id, host_id = await bench.job()
        agent = c.agents[host_id]
        assert await agent.end() == 0
        await bench.time_passes(LEASE_GRACE_MARGIN_SECONDS)
        assert "stopped" not in bench.said.said(f"{job_id}#0", 1)
        await agent.start()
        await c.until_hosts({host_id: "BUSY"})
        agent.send(signal.SIGSTOP)
        await bench.alone(job_id)
        agent.send(signal.SIGCONT)
        await c.until_hosts({host_id: "FREE"})
        await bench.ends_well(job_id, 2)
        await c.until_gone(job_id)
