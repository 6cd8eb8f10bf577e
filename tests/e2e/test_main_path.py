"""The page's sentences with real daemons: main first, addresses, exits, stops, retries."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.v1 import job_pb2
from tests.e2e.cluster import cluster, definition
from tests.e2e.nodes import alive, node, pids_of, who
from tests.wait import eventually

pytestmark = pytest.mark.limit(120)

AWS = {
    "AWS_BATCH_CE_NAME": "default",
    "AWS_BATCH_JQ_NAME": "default",
    "AWS_BATCH_JOB_MAIN_NODE_INDEX": "1",
    "AWS_BATCH_JOB_NUM_NODES": "3",
    "AWS_BATCH_JOB_ATTEMPT": "1",
    "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
}
EXITED = "Essential container in task exited"


async def test_main_alone_first_then_children_with_its_address(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=3) as c:
        spoken = [str(tmp_path / f"spoken{n}") for n in range(3)]
        name = await c.register(
            definition(
                "order",
                {
                    "0:": node("if-main", "until", spoken[0], "until", spoken[2], "exit", "0"),
                    "0": node("touch", spoken[0], "hang"),
                    "2": node("touch", spoken[2]),
                },
                num_nodes=3,
                main_node=1,
                environment={"MINE": "a b\n$HOME", "PATH": "/usr/bin:/bin"},
            )
        )
        job_id = await c.submit(name)
        running = await c.until(job_id, "RUNNING")
        assert not running.HasField("container")
        done = await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)

        said = {n: who(await c.log(f"{job_id}#{n}")) for n in range(3)}
        main = await c.describe(f"{job_id}#1")
        assert main is not None
        [interface] = main.container.network_interfaces
        for n, fact in said.items():
            own = {**AWS, "AWS_BATCH_JOB_ID": f"{job_id}#{n}", "AWS_BATCH_JOB_NODE_INDEX": str(n)}
            if n != 1:
                own["AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"] = interface.private_ipv4_address
                # No child process exists before main runs.
                assert fact["start_ticks"] > said[1]["start_ticks"]
            seen = {k: v for k, v in fact["env"].items() if k.startswith("AWS_")}
            assert seen == own
            kit = {"MUSTER_NODE_ADDRESSES", "MUSTER_PEERS_FILE", "MUSTER_HOSTFILE"}
            kit |= {"MUSTER_HOST_ID", "MUSTER_CLUSTER_ID"}
            assert set(fact["env"]) - set(seen) == {"MINE", "PATH", "HOME", *kit}
            assert fact["env"]["MINE"] == "a b\n$HOME"
        assert interface.private_ipv4_address.startswith("127.0.0.1")
        assert done.status_reason == EXITED
        assert [a.container.exit_code for a in done.attempts] == [0]
        assert (done.started_at, done.stopped_at) == (main.started_at, main.stopped_at)
        child = await c.describe(f"{job_id}#0")
        assert child is not None
        assert child.created_at >= main.started_at


async def test_no_child_record_nor_process_before_main_runs(tmp_path: Path) -> None:
    """A main that cannot start leaves no trace of any child."""
    async with cluster(tmp_path, agents=3) as c:
        touched = tmp_path / "touched"
        name = await c.register(
            definition(
                "nostart",
                {"0": ["/no/such/program"], "1:": node("touch", str(touched))},
                num_nodes=3,
            )
        )
        job_id = await c.submit(name)
        failed = await c.until(job_id, "FAILED")
        kinds = await c.until_gone(job_id)
        assert failed.status_reason == "Task failed to start"
        assert failed.attempts[0].container.reason.startswith("CannotStartContainerError: ")
        assert not failed.attempts[0].container.HasField("exit_code")
        assert failed.started_at == 0
        assert await c.describe(f"{job_id}#1") is None
        assert "ChildrenLaunched" not in kinds
        assert not touched.exists()


async def test_child_death_changes_only_its_own_record(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=3) as c:
        go = tmp_path / "go"
        name = await c.register(
            definition(
                "childdeath",
                {
                    "0": node("until", str(go), "exit", "0"),
                    "1": node("exit", "7"),
                    "2": node("trap-term", "0", "touch", str(tmp_path / "trapped"), "hang"),
                },
                num_nodes=3,
                retryStrategy={"attempts": 3},
            )
        )
        job_id = await c.submit(name)
        dead = await c.until(f"{job_id}#1", "FAILED")
        assert dead.container.exit_code == 7
        survivor = await c.until(f"{job_id}#2", "RUNNING")
        parent = await c.describe(job_id)
        assert parent is not None
        assert parent.status == job_pb2.RUNNING
        assert list(parent.attempts) == []

        async def trapped() -> bool:
            return (tmp_path / "trapped").exists()

        await eventually(trapped, 30, c.story)
        go.touch()
        done = await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)
        assert len(done.attempts) == 1
        survivor = await c.until(f"{job_id}#2", "SUCCEEDED")
        assert survivor.status_reason == "Stopped because the main node ended"
        assert (await c.until(f"{job_id}#1", "FAILED")).status_reason == EXITED


async def test_main_exit_stops_children_with_term_grace_kill(tmp_path: Path) -> None:
    """With the default grace of 30 s, and children that leave, ignore SIGTERM, and hide a tree."""
    async with cluster(tmp_path, agents=4) as c:
        ready = [tmp_path / f"ready{n}" for n in range(4)]
        name = await c.register(
            definition(
                "stops",
                {
                    "0": node(
                        *(w for n in (1, 2, 3) for w in ("until", str(ready[n]))), "exit", "3"
                    ),
                    "1": node("touch", str(ready[1]), "hang"),
                    "2": node("ignore-term", "touch", str(ready[2]), "hang"),
                    "3": node("tree", "trap-term", "0", "touch", str(ready[3]), "hang"),
                },
                num_nodes=4,
            )
        )
        job_id = await c.submit(name)
        failed = await c.until(job_id, "FAILED")
        stubborn = await c.describe(f"{job_id}#2")
        assert stubborn is not None
        # The job is terminal at main's exit; a child that ignores SIGTERM still has its grace.
        assert stubborn.status == job_pb2.RUNNING
        await c.until_gone(job_id)
        codes = {n: (await c.until(f"{job_id}#{n}", _ended)).container.exit_code for n in range(4)}
        assert codes == {0: 3, 1: 143, 2: 137, 3: 0}
        assert failed.attempts[0].container.exit_code == 3
        stubborn = await c.until(f"{job_id}#2", _ended)
        assert 29_000 <= stubborn.stopped_at - failed.stopped_at <= 40_000
        said = [who(await c.log(f"{job_id}#{n}")) for n in range(4)]
        assert not any(alive(s["pid"]) for s in said)
        assert pids_of(job_id) == []


def _ended(detail: job_pb2.JobDetail) -> bool:
    return detail.status in (job_pb2.SUCCEEDED, job_pb2.FAILED)


async def test_retry_only_by_mains_failure_and_children_follow_attempts(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=2) as c:
        spoken = str(tmp_path / "spoken{attempt}")
        name = await c.register(
            definition(
                "retry",
                {
                    "0": node("until", spoken, "last-attempt", "3", "exit", "0"),
                    "1": node("touch", spoken, "hang"),
                },
                num_nodes=2,
                retryStrategy={"attempts": 3},
            )
        )
        job_id = await c.submit(name)
        done = await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)
        assert [a.container.exit_code for a in done.attempts] == [9, 9, 0]
        child = await c.describe(f"{job_id}#1")
        assert child is not None
        assert len(child.attempts) == 3
        assert len({a.container.task_arn for a in child.attempts}) == 3
        envs = [who(await c.log(f"{job_id}#1", attempt=k))["env"] for k in (2, 3)]
        assert [e["AWS_BATCH_JOB_ATTEMPT"] for e in envs] == ["2", "3"]


async def test_runnable_with_a_reason_while_hosts_are_short(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=1) as c:
        name = await c.register(definition("short", {"0:": node("exit", "0")}, num_nodes=2))
        job_id = await c.submit(name)
        waiting = await c.until(job_id, "RUNNABLE")
        assert waiting.status_reason.startswith(
            "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - Service cannot fulfill the capacity "
            "requested for instance type [generic]"
        )
        await c.agent("h2", "127.0.0.12").start()
        await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)


async def test_dependencies_hold_and_cascade(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=1) as c:
        go = tmp_path / "go"
        gated = await c.register(
            definition("gated", {"0": node("until", str(go), "exit", "0")}, num_nodes=1)
        )
        bad = await c.register(definition("bad", {"0": node("exit", "1")}, num_nodes=1))
        first = await c.submit(gated)
        second = await c.submit(bad, dependsOn=[{"jobId": first}])
        third = await c.submit(bad, dependsOn=[{"jobId": second, "type": "SEQUENTIAL"}])
        assert (await c.until(second, "PENDING")).status_reason
        go.touch()
        await c.until(first, "SUCCEEDED")
        await c.until(second, "FAILED")
        cascaded = await c.until(third, "FAILED")
        assert cascaded.status_reason == "Dependent Job failed"
        assert cascaded.stopped_at > 0
        assert list(cascaded.attempts) == []
        late = await c.submit(bad, dependsOn=[{"jobId": third}])
        assert (await c.until(late, "FAILED")).status_reason == "Dependent Job failed"


async def test_timeout_stops_all_and_is_not_retried(tmp_path: Path) -> None:
    """60 s is the least timeout that AWS takes, so this test takes that long."""
    async with cluster(tmp_path, agents=2) as c:
        name = await c.register(
            definition(
                "timeout",
                {"0:": node("trap-term", "0", "hang")},
                num_nodes=2,
                timeout={"attemptDurationSeconds": 60},
                retryStrategy={"attempts": 3},
            )
        )
        job_id = await c.submit(name)
        failed = await c.until(job_id, "FAILED", deadline_seconds=90)
        await c.until_gone(job_id)
        assert failed.status_reason == "Job attempt duration exceeded timeout"
        assert len(failed.attempts) == 1
        assert 59_000 <= failed.stopped_at - failed.started_at <= 70_000


@pytest.mark.parametrize("verb", ["cancel", "terminate"])
async def test_cancel_and_terminate_in_each_state(tmp_path: Path, verb: str) -> None:
    async with cluster(tmp_path, agents=1) as c:
        go = tmp_path / "go"
        name = await c.register(
            definition("hold", {"0": node("until", str(go), "exit", "0")}, num_nodes=1)
        )
        running = await c.submit(name)
        await c.until(running, "RUNNING")
        runnable = await c.submit(name)
        pending = await c.submit(name, dependsOn=[{"jobId": runnable}])
        end = c.cancel if verb == "cancel" else c.terminate
        await end(pending)
        assert (await c.until(pending, "FAILED")).status_reason == "by the test"
        await end(runnable)
        ended = await c.until(runnable, "FAILED")
        assert ended.status_reason == "by the test"
        assert ended.is_cancelled is (verb == "cancel")
        assert ended.is_terminated is (verb == "terminate")
        assert ended.stopped_at > 0
        await end(runnable)
        await end(running)
        if verb == "terminate":
            stopped = await c.until(running, "FAILED")
            assert stopped.status_reason == "by the test"
            assert stopped.attempts[0].status_reason == "by the test"
        else:
            still = await c.describe(running)
            assert still is not None
            assert still.status == job_pb2.RUNNING
            go.touch()
            await c.until(running, "SUCCEEDED")
        await c.until_gone(running)


async def test_terminate_of_a_child_stops_that_child_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path, agents=2) as c:
        go = tmp_path / "go"
        name = await c.register(
            definition(
                "one",
                {
                    "0": node("until", str(go), "exit", "0"),
                    "1": node("trap-term", "0", "hang"),
                },
                num_nodes=2,
            )
        )
        job_id = await c.submit(name)
        await c.until(f"{job_id}#1", "RUNNING")
        said = who(await c.first_line(f"{job_id}#1"))
        await c.terminate(f"{job_id}#1")
        child = await c.until(f"{job_id}#1", "FAILED")
        assert child.status_reason == "by the test"
        await eventually(lambda: not alive(said["pid"]), 10, c.story)
        parent = await c.describe(job_id)
        assert parent is not None
        assert parent.status == job_pb2.RUNNING
        go.touch()
        await c.until(job_id, "SUCCEEDED")
        await c.until_gone(job_id)
