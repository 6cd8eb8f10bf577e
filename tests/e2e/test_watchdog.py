"""Real daemons under what they believe to be systemd: heard while their loops turn, silent when
they hang, and ended by SIGABRT with a word on where they were."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Process, cluster, definition
from tests.e2e.nodes import node
from tests.service_manager import service_manager
from tests.wait import eventually

LIMIT_SECONDS = 0.1
WORD = "WATCHDOG=1"
SHORT = ("--lost-after-seconds", "2", "--verdict-after-seconds", "30", "--stop-grace-seconds", "1")

# The agent, with one of its functions that hangs while there is a file.
_HANGING = """
import importlib, sys, time
from pathlib import Path

module, _, name = sys.argv.pop(1).partition(":")
flag = Path(sys.argv.pop(1))
where = importlib.import_module(module)
*classes, name = name.split(".")
for each in classes:
    where = getattr(where, each)
real = getattr(where, name)

def hanging(*given):
    while flag.exists():
        time.sleep(0.01)
    return real(*given)

setattr(where, name, hanging)
from agent.main import main
sys.exit(main())
"""


def under(process: Process, environment: dict[str, str]) -> None:
    """Start it with more in its environment."""
    process.argv = ["env", *(f"{name}={value}" for name, value in environment.items()),
                    *process.argv]  # fmt: skip


async def time_passes(c: Cluster, seconds: float) -> None:
    end = time.monotonic() + seconds
    await eventually(lambda: time.monotonic() > end, seconds + 10, c.story)


@pytest.mark.parametrize(
    ("function", "is_lost"),
    [
        # A write to the ledger is in a thread: all else of the agent goes on, its heartbeats too.
        ("agent.ledger.sqlite:_save", False),
        ("agent.daemon:Daemon._act", True),
    ],
)
async def test_an_agent_that_hangs_is_silent(tmp_path: Path, function: str, is_lost: bool) -> None:
    hang = tmp_path / "hang"
    with service_manager(tmp_path) as systemd:
        async with cluster(tmp_path, coordinator_args=SHORT) as c:
            agent = c.agent("h1", "127.0.0.11")
            start = agent.argv.index("-m")
            agent.argv[start : start + 2] = ["-c", _HANGING, function, str(hang)]
            under(agent, systemd.environment(LIMIT_SECONDS))
            await agent.start()
            await c.until_hosts({"h1": "FREE"})
            said: list[str] = []

            def heard_so_far() -> list[str]:
                said.extend(systemd.heard())
                return said

            await eventually(lambda: heard_so_far().count(WORD) > 2, 10, c.story)
            contact = f"STATUS=in contact with the coordinator {c.address}"
            await eventually(lambda: {"READY=1", contact} <= {*heard_so_far()}, 10, c.story)
            made = await c.register(definition("any", {"0": node("exit", "0")}, num_nodes=1))
            hang.touch()
            if is_lost:
                await c.until_hosts({"h1": "LOST"})
            else:
                job_id = await c.submit(made)
                await time_passes(c, 3)
                assert (await c.host_states())["h1"] == "BUSY"
            systemd.heard()
            await time_passes(c, 5 * LIMIT_SECONDS)
            assert WORD not in systemd.heard()
            hang.unlink()
            if is_lost:
                await c.until_hosts({"h1": "FREE"})
                job_id = await c.submit(made)
            await c.until(job_id, "SUCCEEDED")
            await eventually(lambda: WORD in systemd.heard(), 10, c.story)


async def test_a_daemon_that_is_aborted_says_where_it_was(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=1) as c:
        for daemon in (c.agents["h1"], c.coordinator):
            assert await daemon.end(signal.SIGABRT) == -signal.SIGABRT
            said = daemon.log.read_text()
            assert "Fatal Python error: Aborted" in said
            assert "main.py" in said
            await daemon.start()
        await c.until_hosts({"h1": "FREE"})


async def test_an_agent_without_its_engine_is_ready_and_waits_for_it(tmp_path: Path) -> None:
    """systemd ends what is not ready in time, and this agent obeys leases."""
    with service_manager(tmp_path) as systemd:
        async with cluster(tmp_path) as c:
            agent = c.agent("h1", "127.0.0.11", "--engine-binary", "/no/docker", engine="docker")
            under(agent, systemd.environment())
            await agent.start()
            await eventually(lambda: "READY=1" in systemd.heard(), 20, c.story)
            await eventually(lambda: "no program /no/docker" in agent.log.read_text(), 10, c.story)
