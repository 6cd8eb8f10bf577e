"""A coordinator that starts with a wall clock that is wrong by days."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.e2e.cluster import Cluster, Process, cluster, definition, with_clock_of
from tests.e2e.nodes import node
from tests.wait import eventually

DAY_SECONDS = 86_400


def _with_wrong_clock(c: Cluster, ahead_seconds: int, ahead: Path) -> Process:
    """The same coordinator, whose clock is right again when the file is gone."""
    ahead.write_text(str(ahead_seconds))
    wrong = Process("coordinator", (), c.coordinator.log, ())
    wrong.argv = with_clock_of(ahead, c.coordinator.argv)
    return wrong


async def test_a_clock_that_is_a_day_ahead_ends_no_job_and_is_forgotten_when_it_is_right(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path, agents=2) as c:
        go = tmp_path / "go"
        groups = {"0": node("until", str(go), "exit", "0")}
        timeout = {"attemptDurationSeconds": 60}
        name = await c.register(definition("timed", groups, num_nodes=1, timeout=timeout))
        job_id = await c.submit(name)
        await c.until(job_id, "RUNNING")
        await c.coordinator.end(signal.SIGKILL)
        usual, ahead = c.coordinator, tmp_path / "ahead"
        c.coordinator = _with_wrong_clock(c, DAY_SECONDS, ahead)
        await c.coordinator.start()
        await c.until_hosts({"h1": "BUSY", "h2": "FREE"})
        early = await c.describe(await c.submit(name))
        assert early is not None
        assert early.created_at / 1000 > time.time() + DAY_SECONDS / 2
        ahead.unlink()
        late = await c.describe(await c.submit(name))
        assert late is not None
        assert abs(late.created_at / 1000 - time.time()) < 60
        go.touch()
        done = await c.until(job_id, "SUCCEEDED")
        assert len(done.attempts) == 1
        assert await c.coordinator.end() == 0
        c.coordinator = usual
        await c.coordinator.start()
        await c.until_hosts({"h1": "FREE"})


async def test_a_clock_that_is_nine_days_ahead_deletes_no_old_job(tmp_path: Path) -> None:
    """Retention waits until the agents' clocks agree with the coordinator's."""
    async with cluster(tmp_path, agents=1) as c:
        name = await c.register(definition("old", {"0": node("exit", "0")}, num_nodes=1))
        job_id = await c.submit(name)
        await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)
        await c.coordinator.end(signal.SIGKILL)
        usual = c.coordinator
        c.coordinator = _with_wrong_clock(c, 9 * DAY_SECONDS, tmp_path / "ahead")
        await c.coordinator.start()
        await c.until_hosts({"h1": "FREE"})
        told = "no old job is deleted: the clock of this machine and its agents' clocks differ"
        await eventually(lambda: told in c.coordinator.story(), 30, c.story)
        assert await c.describe(job_id) is not None
        assert await c.coordinator.end() == 0
        c.coordinator = usual
        await c.coordinator.start()
        assert await c.describe(job_id) is not None
