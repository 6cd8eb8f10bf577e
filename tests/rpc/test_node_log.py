"""GetNodeLog: from the host, from what is kept, from a node that is still to be launched."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from coordinator.core import inputs as i
from muster.v1 import job_service_pb2 as pb
from tests.fakes.cluster import FakeCluster, FakeHosts, FakeLog
from tests.rpc.conftest import GANG, ONE, Client, everything, refusal
from tests.wait import eventually


def _log(client: Client, job_id: str, **request: Any) -> Any:
    return client.jobs.GetNodeLog(pb.GetNodeLogRequest(job_id=job_id, **request))


async def _read(client: Client, job_id: str, **request: Any) -> list[tuple[int, bytes, str]]:
    return [
        (piece.offset, piece.data, piece.notice)
        for piece in await everything(_log(client, job_id, **request))
    ]


@pytest.fixture
async def running(client: Client, hosts: FakeHosts) -> str:
    """A gang whose nodes all run."""
    hosts.join("h-1", "h-2", "h-3")
    job_id = await client.submit(retryStrategy={"attempts": 2})
    hosts.vote(job_id)
    for index in range(3):
        hosts.up(job_id, index)
    return job_id


async def test_a_job_means_its_main_node(
    client: Client, cluster: FakeCluster, hosts: FakeHosts, running: str
) -> None:
    cluster.logs[hosts.key(running, 0)] = FakeLog([b"main ", b"speaks"])
    cluster.logs[hosts.key(running, 2)] = FakeLog([b"child"])
    assert await _read(client, running) == [(0, b"main ", ""), (5, b"speaks", "")]
    assert await _read(client, f"arn:aws:batch:a:b:job/{running}#2") == [(0, b"child", "")]
    assert await _read(client, running, offset=7) == [(7, b"eaks", "")]
    assert await _read(client, running, offset=-3) == [(8, b"aks", "")]
    assert await _read(client, running, offset=99) == []


async def test_what_the_host_has_dropped_is_told(
    client: Client, cluster: FakeCluster, hosts: FakeHosts, running: str
) -> None:
    cluster.logs[hosts.key(running, 0)] = FakeLog([b"0123456789"], dropped=4)
    assert await _read(client, running, offset=1) == [
        (4, b"456789", "bytes 1 to 3 are not kept any more")
    ]
    assert await _read(client, running, offset=6) == [(6, b"6789", "")]
    assert await _read(client, running, offset=-2) == [(8, b"89", "")]


async def test_the_newest_launch_unless_told_otherwise(
    client: Client, cluster: FakeCluster, hosts: FakeHosts, running: str
) -> None:
    first = hosts.key(running, 1)
    cluster.logs[first] = FakeLog([b"one"])
    hosts.exit(running, 0, 1)
    hosts.release(running)
    hosts.vote(running)
    # Attempt 2 has begun, and this child has not been launched in it.
    assert await _read(client, f"{running}#1") == [(0, b"one", "")]
    hosts.up(running, 0)
    cluster.logs[hosts.key(running, 1)] = FakeLog([b"two"])
    assert await _read(client, f"{running}#1") == [(0, b"two", "")]
    assert await _read(client, f"{running}#1", attempt=1) == [(0, b"one", "")]
    code, details = await refusal(_log(client, f"{running}#1", attempt=3))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.startswith(f"{running}#1 attempt 3 has not been launched yet: the job is RUNN")
    code, _ = await refusal(_log(client, f"{running}#1", attempt=0))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_is_kept_when_the_host_is_away(
    client: Client, hosts: FakeHosts, running: str
) -> None:
    hosts.exit(running, 2, 0, log_tail=b"the end", log_tail_offset=100)
    hosts.exit(running, 1, 0, log_tail=b"all of it")
    away = "only the last 7 bytes of the output are kept here, and the host is away"
    assert await _read(client, f"{running}#2") == [(100, b"the end", away)]
    assert await _read(client, f"{running}#2", offset=104) == [(104, b"end", "")]
    assert await _read(client, f"{running}#2", offset=-3) == [(104, b"end", "")]
    assert await _read(client, f"{running}#2", offset=-50) == [(100, b"the end", away)]
    assert await _read(client, f"{running}#2", offset=107) == []
    # Nothing is missing of a short output.
    assert await _read(client, f"{running}#1") == [(0, b"all of it", "")]
    assert await _read(client, f"{running}#1", offset=-50) == [(0, b"all of it", "")]
    # Of a node that runs nothing is kept yet.
    code, details = await refusal(_log(client, running))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert details == "the host is away; ask again from offset 0 on"


async def test_a_delivery_that_breaks_off_goes_on_with_what_is_kept(
    client: Client, cluster: FakeCluster, hosts: FakeHosts, running: str
) -> None:
    hosts.exit(running, 2, 0, log_tail=b"6789", log_tail_offset=6)
    cluster.logs[hosts.key(running, 2)] = FakeLog([b"0123", b"4567"], breaks_off=True)
    assert await _read(client, f"{running}#2", follow=True) == [
        (0, b"0123", ""),
        (4, b"4567", ""),
        (8, b"89", ""),
    ]
    cluster.logs[hosts.key(running, 2)] = FakeLog([b"0123"], breaks_off=True)
    assert await _read(client, f"{running}#2") == [
        (0, b"0123", ""),
        (
            6,
            b"6789",
            "only the last 4 bytes of the output are kept here, and the host broke it off",
        ),
    ]


@pytest.mark.parametrize("follow", [False, True])
async def test_a_host_with_older_files_is_not_the_last_word(
    client: Client, cluster: FakeCluster, hosts: FakeHosts, running: str, follow: bool
) -> None:
    """Its disk was brought back from before the end."""
    hosts.exit(running, 2, 0, log_tail=b"6789", log_tail_offset=6)
    cluster.logs[hosts.key(running, 2)] = FakeLog([b"0123", b"4567"])
    assert (await _read(client, f"{running}#2", follow=follow))[2:] == [(8, b"89", "")]
    cluster.logs[hosts.key(running, 2)] = FakeLog([])
    why = "the host's own copy ends before them"
    notice = f"only the last 4 bytes of the output are kept here, and {why}"
    assert await _read(client, f"{running}#2", follow=follow) == [(6, b"6789", notice)]


async def test_who_follows_is_not_put_off_with_less_than_the_host_has(
    client: Client, cluster: FakeCluster, hosts: FakeHosts, running: str
) -> None:
    """Of a host that is back soon: the reader asks it again."""
    hosts.exit(running, 2, 0, log_tail=b"6789", log_tail_offset=6)
    log = cluster.logs[hosts.key(running, 2)] = FakeLog([b"0123"], breaks_off=True, comes_back=True)
    call = _log(client, f"{running}#2", follow=True)
    assert (await call.read()).data == b"0123"
    assert await refusal(call) == (
        grpc.StatusCode.UNAVAILABLE,
        "the host broke it off; ask again from offset 4 on",
    )
    # What is kept is enough for who has the rest, and has to do for who does not wait.
    log.pieces = [b"012345"]
    assert await _read(client, f"{running}#2", follow=True, offset=4) == [
        (4, b"45", ""),
        (6, b"6789", ""),
    ]
    log.pieces = [b"0123"]
    assert [offset for offset, _, _ in await _read(client, f"{running}#2")] == [0, 6]


async def test_output_outlives_the_job(client: Client, hosts: FakeHosts, running: str) -> None:
    hosts.exit(running, 0, 0, log_tail=b"bye")
    hosts.release(running)
    assert running not in hosts.cluster.state.jobs
    assert await _read(client, running) == [(0, b"bye", "")]


@pytest.mark.parametrize("definition", [GANG, ONE], ids=["gang", "one"])
async def test_following_waits_for_the_launch(
    client: Client, cluster: FakeCluster, hosts: FakeHosts, definition: dict[str, Any]
) -> None:
    job_id = await client.submit(definition)
    code, details = await refusal(_log(client, job_id))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details == (
        f"{job_id}#0 has not been launched yet: the job is RUNNABLE; "
        "follow its output to wait for it"
    )
    call = _log(client, job_id, follow=True)
    await _watched(client, job_id)
    hosts.join("h-1", "h-2", "h-3")
    cluster.logs[hosts.key(job_id, 0)] = FakeLog([b"here"])
    hosts.vote(job_id)
    assert (await call.read()).data == b"here"


async def _watched(client: Client, job_id: str) -> None:
    """Until the server has taken what was sent before: it takes calls in order."""
    await client.only(job_id)


async def test_following_ends_when_the_node_is_never_launched(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    job_id = await client.submit()
    call = _log(client, f"{job_id}#2", follow=True)
    await _watched(client, job_id)
    cluster.feed(
        i.Terminate(job_id=cluster.job(job_id).job_id, node_index=None, reason="not wanted")
    )
    ended = f"{job_id}#2 was never launched, so it has no output; the job is FAILED: not wanted"
    assert await refusal(call) == (grpc.StatusCode.NOT_FOUND, ended)
    # And the same for one that comes later.
    assert await refusal(_log(client, f"{job_id}#2", follow=True)) == (
        grpc.StatusCode.NOT_FOUND,
        ended,
    )


async def test_following_is_broken_off_by_a_coordinator_that_stops(
    client: Client, cluster: FakeCluster
) -> None:
    job_id = await client.submit()
    call = _log(client, job_id, follow=True)

    def stopped() -> bool:
        # Again and again: the call may not have arrived yet.
        cluster.watches.close()
        return bool(call.done())

    await eventually(stopped, 10, lambda: call)
    code, details = await refusal(call)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "follow it again" in details


async def test_an_attempt_that_a_child_missed_is_not_waited_for(
    client: Client, hosts: FakeHosts
) -> None:
    hosts.join("h-1", "h-2", "h-3")
    job_id = await client.submit(retryStrategy={"attempts": 2})
    hosts.vote(job_id)
    hosts.exit(job_id, 0, None, "CannotStartContainerError: x")
    code, details = await refusal(_log(client, f"{job_id}#1", attempt=1, follow=True))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.startswith(f"{job_id}#1 attempt 1 was never launched")


async def test_only_nodes_that_there_are_have_output(client: Client) -> None:
    gang = await client.submit()
    one = await client.submit(ONE)
    for job_id in (f"{gang}#3", f"{one}#0", "0000"):
        code, details = await refusal(_log(client, job_id))
        assert (code, details) == (
            grpc.StatusCode.NOT_FOUND,
            f"Job {job_id} does not exist",
        )
