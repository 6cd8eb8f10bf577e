"""Pauses and cuts of real daemons: what is silent for a while and well changes no job."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from muster.v1 import host_service_pb2, job_pb2
from muster.v1 import job_service_pb2 as pb
from tests.e2e.cluster import Cluster, cluster, definition
from tests.e2e.nodes import alive, node, pids_of, who
from tests.wait import eventually

SOON = ("--lost-after-seconds", "2", "--stop-grace-seconds", "1", "--fence-margin-seconds", "1")
PATIENT = (*SOON, "--verdict-after-seconds", "60")
HASTY = (*SOON, "--verdict-after-seconds", "3")


async def _time_passes(c: Cluster, seconds: float) -> None:
    end = time.monotonic() + seconds
    await eventually(lambda: time.monotonic() > end, seconds + 5, c.story)


def _host_of(detail: job_pb2.JobDetail) -> str:
    return detail.container.container_instance_arn.rpartition("/")[2]


async def _running(c: Cluster, go: Path, **members: Any) -> str:
    """A job of two nodes whose main ends with 0 when `go` is there."""
    groups = {"0": node("until", str(go), "exit", "0"), "1": node("trap-term", "0", "hang")}
    job_id = await c.submit(await c.register(definition("until", groups, num_nodes=2, **members)))
    await c.until(f"{job_id}#1", "RUNNING")
    return job_id


async def _ends_well(c: Cluster, job_id: str, go: Path) -> None:
    go.touch()
    done = await c.until(job_id, "SUCCEEDED")
    kinds = await c.until_gone(job_id)
    assert len(done.attempts) == 1
    assert "NodeLost" not in kinds


async def test_a_coordinator_that_was_paused_blames_no_host(tmp_path: Path) -> None:
    """It is paused for longer than the verdict, while heartbeats wait in its sockets."""
    async with cluster(tmp_path, agents=2, coordinator_args=HASTY) as c:
        job_id = await _running(c, tmp_path / "go")
        c.coordinator.send(signal.SIGSTOP)
        await _time_passes(c, 8)
        c.coordinator.send(signal.SIGCONT)
        seen: list[dict[str, str]] = []

        async def three_looks() -> bool:
            states = await c.host_states()
            if not seen or states != seen[-1]:
                seen.append(states)
            assert "LOST" not in states.values(), seen
            return time.monotonic() > end

        end = time.monotonic() + 2
        await eventually(three_looks, 10, c.story)
        assert "did not listen for " in c.coordinator.log.read_text()
        await _ends_well(c, job_id, tmp_path / "go")


@pytest.mark.parametrize("which", ["main", "child"])
async def test_a_host_that_is_back_before_the_verdict_goes_on(tmp_path: Path, which: str) -> None:
    async with cluster(tmp_path, agents=2, coordinator_args=PATIENT) as c:
        job_id = await _running(c, tmp_path / "go")
        found = await c.describe(f"{job_id}#{0 if which == 'main' else 1}")
        assert found is not None
        host_id = _host_of(found)
        c.agents[host_id].send(signal.SIGSTOP)
        await c.until_hosts({host_id: "LOST"})
        job = await c.describe(job_id)
        assert job is not None
        assert job.status == job_pb2.RUNNING
        if which == "main":
            told = f"The main node's host {host_id} is silent since "
            assert job.status_reason.startswith(told)
            assert "the job goes on, and the attempt fails at " in job.status_reason
        c.agents[host_id].send(signal.SIGCONT)
        await c.until_hosts({host_id: "BUSY"})
        log = c.coordinator.log.read_text()
        assert f"host is lost: host={host_id} " in log
        assert f"host is heard again: host={host_id} " in log
        await _ends_well(c, job_id, tmp_path / "go")


async def test_watch_tells_of_the_silence_and_of_its_end(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=2, coordinator_args=PATIENT) as c:
        job_id = await _running(c, tmp_path / "go")
        main = await c.describe(f"{job_id}#0")
        assert main is not None
        agent = c.agents[_host_of(main)]
        agent.send(signal.SIGSTOP)
        silent = False
        async for update in c.jobs.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=30):
            if update.job.status_reason.startswith("The main node's host"):
                if not silent:
                    agent.send(signal.SIGCONT)
                silent = True
            elif silent:
                break
        await _ends_well(c, job_id, tmp_path / "go")


async def test_main_that_ended_while_it_was_silent_counts_with_its_own_code(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path, agents=2, coordinator_args=PATIENT) as c:
        groups = {"0": node("until", str(tmp_path / "go"), "exit", "7"), "1": node("hang")}
        job_id = await c.submit(await c.register(definition("seven", groups, num_nodes=2)))
        await c.until(f"{job_id}#1", "RUNNING")
        pid = who(await c.first_line(f"{job_id}#0"))["pid"]
        main = await c.describe(f"{job_id}#0")
        assert main is not None
        host_id = _host_of(main)
        c.agents[host_id].send(signal.SIGSTOP)
        await c.until_hosts({host_id: "LOST"})
        (tmp_path / "go").touch()
        await eventually(lambda: not alive(pid), 10, c.story)
        c.agents[host_id].send(signal.SIGCONT)
        failed = await c.until(job_id, "FAILED")
        assert failed.attempts[0].container.exit_code == 7
        await c.until_gone(job_id)


async def test_a_silent_job_ends_at_once_when_a_user_says_so_and_says_where_it_may_run(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path, agents=2, coordinator_args=PATIENT) as c:
        job_id = await _running(c, tmp_path / "go", retryStrategy={"attempts": 2})
        main = await c.describe(f"{job_id}#0")
        assert main is not None
        host_id = _host_of(main)
        c.agents[host_id].send(signal.SIGSTOP)
        await c.until_hosts({host_id: "LOST"})
        await c.terminate(job_id)
        failed = await c.until(job_id, "FAILED", 5)
        assert failed.status_reason == "by the test"
        (left,) = failed.may_still_run
        assert (left.host_id, left.node_index, left.attempt) == (host_id, 0, 1)
        lease_seconds = 600 + 1 + 1
        assert left.until / 1000 == pytest.approx(time.time() + lease_seconds, abs=60)
        name = "until:1"
        again = await c.jobs.SubmitJob(
            pb.SubmitJobRequest(job_name="test", job_queue="default", job_definition=name)
        )
        assert again.warning == (
            f"an ended job of the name test may still run: job {job_id} on host {host_id}"
        )
        c.agents[host_id].send(signal.SIGCONT)
        await c.until_gone(job_id)
        ended = await c.describe(job_id)
        assert ended is not None
        assert not ended.may_still_run
        (tmp_path / "go").touch()


async def test_the_last_attempt_outlives_a_coordinator_that_is_away_for_longer_than_the_lease(
    tmp_path: Path,
) -> None:
    short = (*SOON, "--lease-seconds", "3")
    async with cluster(tmp_path, agents=2, coordinator_args=short) as c:
        job_id = await _running(c, tmp_path / "go")
        await c.coordinator.end(signal.SIGKILL)
        await _time_passes(c, 6)
        await c.coordinator.start()
        await _ends_well(c, job_id, tmp_path / "go")


async def test_an_attempt_that_its_lease_ended_looks_like_a_lost_host_to_retry_rules(
    tmp_path: Path,
) -> None:
    """The command handles SIGTERM and ends with 0: that is no success."""
    short = (*SOON, "--lease-seconds", "3")
    retry = {
        "attempts": 2,
        "evaluateOnExit": [
            {"onStatusReason": "Host EC2*", "action": "RETRY"},
            {"onReason": "*", "action": "EXIT"},
        ],
    }
    async with cluster(tmp_path, agents=1, coordinator_args=short) as c:
        hang = " ".join(node("trap-term", "0", "hang"))
        groups = {"0": ["sh", "-c", f"[ $AWS_BATCH_JOB_ATTEMPT = 2 ] || exec {hang}"]}
        job_id = await c.submit(
            await c.register(definition("lease", groups, num_nodes=1, retryStrategy=retry))
        )
        await c.until(f"{job_id}#0", "RUNNING")
        await c.coordinator.end(signal.SIGKILL)
        await eventually(lambda: not pids_of(job_id), 20, c.story)
        await c.coordinator.start()
        done = await c.until(job_id, "SUCCEEDED")
        (first, _) = done.attempts
        assert first.status_reason == "Host EC2 (instance h1) terminated."
        assert first.container.reason.startswith("MusterLeaseError: no contact")
        assert not first.container.HasField("exit_code")
        await c.until_gone(job_id)


async def test_a_dependent_waits_until_nothing_of_what_it_depends_on_runs(tmp_path: Path) -> None:
    """Main has ended well while a child's host was cut off: the child may still write."""
    async with cluster(tmp_path, agents=3, coordinator_args=PATIENT) as c:
        first = await _running(c, tmp_path / "go")
        child = await c.describe(f"{first}#1")
        assert child is not None
        host_id = _host_of(child)
        name = await c.register(definition("after", {"0": node("exit", "0")}, num_nodes=1))
        early = await c.submit(name, dependsOn=[{"jobId": first}])
        c.agents[host_id].send(signal.SIGSTOP)
        await c.until_hosts({host_id: "LOST"})
        (tmp_path / "go").touch()
        await c.until(first, "SUCCEEDED")
        late = await c.submit(name, dependsOn=[{"jobId": first}])
        for job_id in (early, late):
            waiting = await c.until(job_id, "RUNNABLE")
            assert f"Waiting until nothing runs of job {first}" in waiting.status_reason
            assert f"muster hosts fence {host_id}" in waiting.status_reason
        other = await c.submit(name)
        await c.until(other, "SUCCEEDED")
        c.agents[host_id].send(signal.SIGCONT)
        await c.until(early, "SUCCEEDED")
        await c.until(late, "SUCCEEDED")


async def test_a_job_that_can_never_run_holds_up_nobody(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=2) as c:
        groups = {"0:": node("exit", "0")}
        huge = await c.submit(await c.register(definition("huge", groups, num_nodes=6)))
        small = await c.submit(await c.register(definition("small", groups, num_nodes=2)))
        await c.until(small, "SUCCEEDED")
        waiting = await c.until(huge, "RUNNABLE")
        assert waiting.status_reason.startswith("CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY")
        assert "holds up nobody" in waiting.status_reason


@pytest.mark.real("netns")
async def test_a_black_hole_uses_up_no_attempt_while_another_host_is_good(tmp_path: Path) -> None:
    """The program is not there on h1; after three jobs it is drained, with the evidence."""
    program = tmp_path / "bin" / "program"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    hidden = f'mount -t tmpfs none {program.parent} && exec "$@"'
    async with cluster(tmp_path) as c:
        prefix = ("unshare", "--mount", "sh", "-c", hidden, "sh")
        await c.agent("h1", "127.0.0.11", prefix=prefix).start()
        await c.agent("h2", "127.0.0.12").start()
        await c.until_hosts({"h1": "FREE", "h2": "FREE"})
        jobs = []
        for number in range(3):
            groups = {"0": [str(program)]}
            name = await c.register(definition(f"job{number}", groups, num_nodes=1))
            jobs.append(await c.submit(name))
            done = await c.until(jobs[-1], "SUCCEEDED")
            assert len(done.attempts) == 1
            assert "MainNotStarted" in await c.until_gone(jobs[-1])
            await c.until_hosts({"h1": "FREE", "h2": "FREE"})
        hosts = await c.hosts.ListHosts(host_service_pb2.ListHostsRequest())
        (h1,) = [host for host in hosts.hosts if host.host_id == "h1"]
        assert h1.draining
        assert all(job in h1.reason for job in jobs)
        assert "could not be started here and then ran on other hosts" in h1.reason
        last = await c.submit(name)
        await c.until(last, "SUCCEEDED")
        assert "MainNotStarted" not in await c.until_gone(last)
