"""Daemons that die, hang and come back: no job is lost, none runs twice."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest

from muster.v1 import host_service_pb2, job_pb2
from muster.v1 import job_service_pb2 as pb
from tests.e2e.cluster import cluster, definition
from tests.e2e.nodes import alive, node, pids_of, who
from tests.wait import eventually

pytestmark = pytest.mark.limit(120)

QUICK = ("--lost-after-seconds", "2", "--verdict-after-seconds", "3", "--stop-grace-seconds", "1",
         "--fence-margin-seconds", "1")  # fmt: skip


async def test_coordinator_killed_at_once_after_each_answer(tmp_path: Path) -> None:
    """What was answered is durable, and a repeated token makes no second job."""
    async with cluster(tmp_path, agents=2) as c:
        name = await c.register(definition("quick", {"0:": node("exit", "0")}, num_nodes=2))
        job_ids = []
        for number in range(4):
            job_id = await c.submit(name, clientToken=f"token-{number}")
            await c.coordinator.end(signal.SIGKILL)
            await c.coordinator.start()
            await c.until(job_id, lambda detail: True)
            assert await c.submit(name, clientToken=f"token-{number}") == job_id
            job_ids.append(job_id)
        for job_id in job_ids:
            done = await c.until(job_id, "SUCCEEDED")
            assert len(done.attempts) == 1


async def test_jobs_go_on_while_the_coordinator_is_away(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=2) as c:
        go = tmp_path / "go"
        name = await c.register(
            definition(
                "away",
                {"0": node("until", str(go), "exit", "0"), "1": node("trap-term", "0", "hang")},
                num_nodes=2,
            )
        )
        job_id = await c.submit(name)
        await c.until(f"{job_id}#1", "RUNNING")
        await c.coordinator.end(signal.SIGKILL)
        go.touch()
        await c.coordinator.start()
        done = await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)
        assert len(done.attempts) == 1
        assert len((await c.log(f"{job_id}#0")).splitlines()) == 1


@pytest.mark.parametrize("main_exits_meanwhile", [False, True])
async def test_agent_killed_and_started_again_finds_its_node(
    tmp_path: Path, main_exits_meanwhile: bool
) -> None:
    async with cluster(tmp_path, agents=2) as c:
        go = tmp_path / "go"
        name = await c.register(
            definition(
                "reattach",
                {"0": node("until", str(go), "exit", "5"), "1": node("trap-term", "0", "hang")},
                num_nodes=2,
            )
        )
        job_id = await c.submit(name)
        await c.until(f"{job_id}#1", "RUNNING")
        main = await c.describe(f"{job_id}#0")
        assert main is not None
        host_id = main.container.container_instance_arn.rpartition("/")[2]
        pid = who(await c.first_line(f"{job_id}#0"))["pid"]
        await c.agents[host_id].end(signal.SIGKILL)
        if main_exits_meanwhile:
            go.touch()
            await eventually(lambda: not alive(pid), 10, c.story)
        await c.agents[host_id].start()
        await c.until_hosts({host_id: "BUSY"})
        go.touch()
        failed = await c.until(job_id, "FAILED")
        await c.until_gone(job_id)
        assert failed.attempts[0].container.exit_code == 5
        assert len(failed.attempts) == 1


async def test_sigterm_leaves_jobs_running(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=1) as c:
        go = tmp_path / "go"
        name = await c.register(
            definition("term", {"0": node("until", str(go), "exit", "0")}, num_nodes=1)
        )
        job_id = await c.submit(name)
        await c.until(job_id, "RUNNING")
        assert await c.agents["h1"].end(signal.SIGTERM) == 0
        assert await c.coordinator.end(signal.SIGTERM) == 0
        await c.coordinator.start()
        await c.agents["h1"].start()
        await c.until_hosts({"h1": "BUSY"})
        go.touch()
        await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)


async def test_an_agent_in_the_background_hands_no_ignored_signal_on(tmp_path: Path) -> None:
    """A shell's `&` and nohup(1) have it started with signals ignored, which an exec keeps."""
    async with cluster(tmp_path) as c:
        ignoring = ["sh", "-c", 'trap "" HUP INT QUIT; exec "$@"', "sh"]
        agent = c.agent("h1", "127.0.0.11", prefix=ignoring)
        await agent.start()
        await c.until_hosts({"h1": "FREE"})
        agent.send(signal.SIGHUP)
        command = ["grep", "-E", "^SigIgn", "/proc/self/status"]
        job_id = await c.submit(await c.register(definition("bg", {"0": command}, num_nodes=1)))
        await c.until_gone(job_id)
        ignored = int((await c.log(f"{job_id}#0")).split()[1], 16)
        assert ignored & sum(1 << (n - 1) for n in (1, 2, 3)) == 0


async def test_lost_child_fails_and_the_job_goes_on(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=2, coordinator_args=QUICK) as c:
        go = tmp_path / "go"
        name = await c.register(
            definition(
                "lostchild",
                {"0": node("until", str(go), "exit", "0"), "1": node("hang")},
                num_nodes=2,
            )
        )
        job_id = await c.submit(name)
        child = await c.until(f"{job_id}#1", "RUNNING")
        host_id = child.container.container_instance_arn.rpartition("/")[2]
        c.agents[host_id].send(signal.SIGSTOP)
        lost = await c.until(f"{job_id}#1", "FAILED")
        assert lost.status_reason == f"Host EC2 (instance {host_id}) terminated."
        assert not lost.container.HasField("exit_code")
        go.touch()
        await c.until(job_id, "SUCCEEDED")
        c.agents[host_id].send(signal.SIGCONT)
        await c.until_gone(job_id)
        await c.until_hosts({"h1": "FREE", "h2": "FREE"})


async def test_lost_main_is_retried_only_when_nothing_of_it_runs(tmp_path: Path) -> None:
    """The host is cut off, not dead: its container runs on until the agent is back."""
    async with cluster(tmp_path, agents=2, coordinator_args=QUICK) as c:
        command = ["sh", "-c", f"echo started >> {tmp_path}/runs; exec sleep 1000"]
        name = await c.register(
            definition("lostmain", {"0": command}, num_nodes=1, retryStrategy={"attempts": 2})
        )
        job_id = await c.submit(name)
        main = await c.until(f"{job_id}#0", "RUNNING")
        host_id = main.container.container_instance_arn.rpartition("/")[2]
        c.agents[host_id].send(signal.SIGSTOP)
        waiting = await c.until(job_id, lambda d: d.status == job_pb2.RUNNABLE and d.attempts)
        assert waiting.attempts[0].status_reason == f"Host EC2 (instance {host_id}) terminated."
        assert f"muster hosts fence {host_id}" in waiting.status_reason
        assert (tmp_path / "runs").read_text().count("started") == 1
        c.agents[host_id].send(signal.SIGCONT)
        await c.until(job_id, "RUNNING")
        assert (tmp_path / "runs").read_text().count("started") == 2
        await c.terminate(job_id)
        await c.until_gone(job_id)


async def test_fence_lets_the_next_attempt_start(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=2, coordinator_args=QUICK) as c:
        command = ["sh", "-c", '[ "$AWS_BATCH_JOB_ATTEMPT" = 2 ] || exec sleep 1000']
        name = await c.register(
            definition("fence", {"0": command}, num_nodes=1, retryStrategy={"attempts": 2})
        )
        job_id = await c.submit(name)
        main = await c.until(f"{job_id}#0", "RUNNING")
        host_id = main.container.container_instance_arn.rpartition("/")[2]
        pid = pids_of(job_id)[0]
        await c.agents[host_id].end(signal.SIGKILL)
        await c.until(job_id, lambda d: d.status == job_pb2.RUNNABLE and d.attempts)
        other = "h1" if host_id == "h2" else "h2"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await c.hosts.FenceHost(host_service_pb2.FenceHostRequest(host_id=other))
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        await c.hosts.FenceHost(host_service_pb2.FenceHostRequest(host_id=host_id))
        await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)
        # The operator was wrong: the container is still there. The agent that comes back finds
        # it, says so, is told to stop it, and gets no new work before it is gone.
        assert alive(pid)
        await c.agents[host_id].start()
        await c.until_hosts({host_id: "FREE"})
        assert not alive(pid)


async def test_lease_stops_a_container_that_nobody_can_reach(tmp_path: Path) -> None:
    lease = ("--lost-after-seconds", "2", "--lease-seconds", "4", "--stop-grace-seconds", "1",
             "--fence-margin-seconds", "1", "--last-attempt-lease-seconds", "4")  # fmt: skip
    async with cluster(tmp_path, agents=2, coordinator_args=lease) as c:
        name = await c.register(definition("lease", {"0:": node("hang")}, num_nodes=2))
        job_id = await c.submit(name)
        await c.until(f"{job_id}#1", "RUNNING")
        pids = [who(await c.first_line(f"{job_id}#{n}"))["pid"] for n in range(2)]
        await c.coordinator.end(signal.SIGKILL)
        await eventually(lambda: not any(alive(pid) for pid in pids), 20, c.story)
        await c.coordinator.start()
        failed = await c.until(job_id, "FAILED")
        assert failed.attempts[0].container.reason.startswith("MusterLeaseError: no contact")
        await c.until_gone(job_id)


async def test_second_machine_with_the_same_host_id_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=1) as c:
        first = c.agents["h1"]
        elsewhere = ("--data-dir", str(tmp_path / "twin"), "--runtime-dir", str(tmp_path / "twins"))
        twin = c.agent("h1", "127.0.0.99", *elsewhere)
        c.agents |= {"h1": first, "twin": twin}
        twin.log = tmp_path / "twin.log"
        await twin.start()
        await eventually(lambda: "belongs to another agent" in twin.story(), 15, c.story)
        # Its operator may look at the coordinator first.
        assert "refused: host=h1 " in c.coordinator.log.read_text()
        hosts = await c.hosts.ListHosts(host_service_pb2.ListHostsRequest())
        assert [h.private_ipv4_address for h in hosts.hosts] == ["127.0.0.11"]


async def test_drained_host_takes_nothing_new(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=1) as c:
        name = await c.register(definition("drain", {"0": node("exit", "0")}, num_nodes=1))
        await c.hosts.DrainHost(host_service_pb2.DrainHostRequest(host_id="h1", reason="disk"))
        job_id = await c.submit(name)
        waiting = await c.until(job_id, "RUNNABLE")
        assert "is draining: disk" in waiting.status_reason
        explained = await c.jobs.ExplainJob(pb.ExplainJobRequest(job_id=job_id))
        assert [(h.host_id, h.usable) for h in explained.hosts] == [("h1", False)]
        await c.hosts.ResumeHost(host_service_pb2.ResumeHostRequest(host_id="h1"))
        await c.until(job_id, "SUCCEEDED")
