"""A host whose disk is full still stops what runs, proves it, and takes nothing new."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import cluster, definition
from tests.engines import IMAGE, RealEngine, podman_host
from tests.small_disk import small_disk_at

__all__ = ["podman_host"]

MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB where the agent of h1 has its data."""
    with small_disk_at(tmp_path / "h1") as disk:
        yield disk


@pytest.mark.real("podman")
@pytest.mark.real("netns")
@pytest.mark.limit(120)
async def test_a_stop_is_done_and_proven(
    tmp_path: Path, small_disk: Path, podman_host: RealEngine
) -> None:
    flags = [*podman_host.agent_flags, "--spool-limit-mib=1"]
    async with cluster(tmp_path, coordinator_args=["--stop-grace-seconds", "1"]) as c:
        agent = c.agent("h1", "127.0.0.1", *flags, engine="podman")
        await agent.start()
        await c.until_hosts({"h1": "FREE"})
        command = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; echo more; done"]
        name = await c.register(definition("full", {"0": command}, num_nodes=1, image=IMAGE))
        job_id = await c.submit(name)
        await c.until(job_id, "RUNNING")
        assert await c.first_line(f"{job_id}#0") == "ready"
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(16 * MIB))
        # Also after a start that finds it full.
        await agent.end()
        await agent.start()
        await c.terminate(job_id)
        await c.until(job_id, "FAILED")
        await c.until_gone(job_id)
        await c.until_hosts({"h1": "FREE"})
        assert "going on with the room kept for that" in agent.story()
        waiting = await c.submit(name)
        await c.until(waiting, lambda job: "bytes free, fewer than" in job.status_reason)
        filler.unlink()
        await c.until(waiting, "RUNNING", 60)
        await c.terminate(waiting)
        await c.until_gone(waiting)
