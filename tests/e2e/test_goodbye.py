"""An agent that is stopped in order while its job runs, for longer than every limit."""

from __future__ import annotations

import time
from pathlib import Path

from muster.v1 import host_service_pb2
from tests.e2e.cluster import Cluster, cluster, definition
from tests.e2e.nodes import alive, node, who
from tests.wait import eventually

LIMITS = (
    *("--lost-after-seconds", "2", "--heartbeat-seconds", "1", "--stop-grace-seconds", "1"),
    *("--fence-margin-seconds", "1", "--lease-seconds", "4", "--last-attempt-lease-seconds", "4"),
)
CONTACT = 20
"""Digits of a time, in both files. Behind the contact stands what is known of the journal."""


async def _time_passes(c: Cluster, seconds: float) -> None:
    end = time.monotonic() + seconds
    await eventually(lambda: time.monotonic() > end, seconds + 5, c.story)


async def test_what_runs_goes_on_without_its_agent_and_nothing_starts_beside_it(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path, agents=2, coordinator_args=LIMITS) as c:
        groups = {"0": node("until", str(tmp_path / "go"), "exit", "0")}
        job_id = await c.submit(
            await c.register(
                definition("until", groups, num_nodes=1, retryStrategy={"attempts": 3})
            )
        )
        await c.until(job_id, "RUNNING")
        pid = int(who(await c.first_line(job_id))["pid"])
        record = await c.describe(f"{job_id}#0")
        assert record is not None
        host_id = record.container.container_instance_arn.rpartition("/")[2]
        assert await c.agents[host_id].end() == 0
        assert "the coordinator knows" in c.agents[host_id].log.read_text()
        await _time_passes(c, 12)
        assert alive(pid)
        job = await c.describe(job_id)
        assert job is not None
        assert job.status_reason.startswith(f"The agent of the main node's host {host_id} was")
        assert len(job.attempts) <= 1
        hosts = await c.hosts.ListHosts(host_service_pb2.ListHostsRequest())
        (found,) = [host for host in hosts.hosts if host.host_id == host_id]
        assert host_service_pb2.HostState.Name(found.state) == "STOPPED"
        # No contact counts while the agent is away. Its next start writes one down before anybody
        # hears of it: from its Hello on the coordinator counts too, and yet another start must not
        # begin anew.
        contact = tmp_path / host_id / "contact"
        assert not contact.read_text()[:CONTACT].strip()
        # Nor does any lease end, until then.
        (lease,) = (tmp_path / host_id / "leases").iterdir()
        assert not lease.read_text()[:CONTACT].strip("0")
        assert await c.coordinator.end() == 0
        await c.agents[host_id].start()
        await eventually(lambda: contact.read_text()[:CONTACT].isdecimal(), 20, contact.read_text)
        assert lease.read_text()[:CONTACT].strip("0")
        await c.coordinator.start()
        await c.until_hosts({host_id: "BUSY"})
        (tmp_path / "go").touch()
        done = await c.until(job_id, "SUCCEEDED")
        assert len(done.attempts) == 1
        await c.until_gone(job_id)
        await c.until_hosts({host_id: "FREE"})
        # Nothing runs on it, and nothing has failed.
        assert await c.agents[host_id].end() == 0
        assert (await c.host_states())[host_id] == "STOPPED"
        await c.agents[host_id].start()
        await c.until_hosts({host_id: "FREE"})


async def test_an_agent_whose_goodbye_nobody_heard_says_what_becomes_of_its_job(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path, agents=1) as c:
        groups = {"0": node("until", str(tmp_path / "go"), "exit", "0")}
        job_id = await c.submit(await c.register(definition("until", groups, num_nodes=1)))
        await c.until(job_id, "RUNNING")
        await c.first_line(job_id)
        (agent,) = c.agents.values()
        assert await c.coordinator.end() == 0
        assert await agent.end() == 0
        said = agent.log.read_text()
        name = f"muster-{job_id}-1-0"
        assert f"its lease is over, unless an agent is started here before: {name}" in said
        assert "goes on" not in said, "more than is certain"
        await c.coordinator.start()
        await agent.start()
        found = f"found here: node={name}, which runs"
        await eventually(lambda: found in agent.log.read_text(), 20, agent.log.read_text)
        (tmp_path / "go").touch()
        await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)
