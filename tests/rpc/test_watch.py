"""WatchJob: the whole first, then every change once, until nothing of the job is left."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.effects import Stamped, Step
from coordinator.core.ids import HostId, JobId
from coordinator.core.state import Attempt, ClusterState, Job, NodeRun
from coordinator.core.states import NodeState, Progress
from coordinator.rpc.ports import Changes
from coordinator.rpc.watching import EVENTS_PAGE
from coordinator.watch import EVENTS_MAX
from muster.v1 import job_service_pb2 as pb
from tests.core.shapes import SUBMISSION, multinode
from tests.fakes.cluster import FakeCluster, FakeHosts
from tests.rpc.conftest import ONE, Client, everything, one_that_runs, refusal


def _watch(client: Client, job_id: str) -> Any:
    return client.jobs.WatchJob(pb.WatchJobRequest(job_id=job_id))


def _kinds(response: pb.WatchJobResponse) -> list[str]:
    return [event.kind for event in response.events]


def _states(response: pb.WatchJobResponse) -> dict[int, str]:
    return {node.node_index: node.state for node in response.nodes}


async def test_a_job_from_its_submission_to_its_end(client: Client, hosts: FakeHosts) -> None:
    job_id = await client.submit()
    call = _watch(client, job_id)
    first = await call.read()
    assert first.reset
    assert (first.job.job_id, list(first.nodes)) == (job_id, [])
    assert _kinds(first) == ["JobSubmitted", "JobQueued"]
    assert first.events[0].message == "submitted to job queue default: gang:1, 3 nodes"
    assert first.job.status_reason.startswith("CAPACITY:")

    hosts.join("h-1", "h-2", "h-3")
    # Hosts that come change the reason why it waits, and nothing else.
    while not (reserved := await call.read()).events:
        assert reserved.job.status_reason.startswith("CAPACITY:")
    assert reserved.reset
    assert _states(reserved) == {0: "PREPARING", 1: "PREPARING", 2: "PREPARING"}
    assert _kinds(reserved) == ["GangReserved"]
    assert not reserved.job.HasField("status_reason")
    assert reserved.nodes[0].is_main_node
    assert reserved.nodes[0].host_id == "h-1"
    assert reserved.nodes[0].attempt == 1

    key = hosts.key(job_id, 1)
    hosts.host_of(key).say(key, Progress.PREPARED)
    prepared = await call.read()
    assert not prepared.reset
    assert _states(prepared) == {1: "PREPARED"}
    assert prepared.events[0].node_index == 1
    for index in (0, 2):
        key = hosts.key(job_id, index)
        hosts.host_of(key).say(key, Progress.PREPARED)
    # How many responses this takes is a matter of who is faster.
    started: dict[int, str] = {}
    while started.get(0) != "STARTING":
        started |= _states(await call.read())
    assert started == {0: "STARTING", 2: "PREPARED"}
    hosts.up(job_id, 0)
    launched = await call.read()
    assert _states(launched) == {0: "RUNNING", 1: "STARTING", 2: "STARTING"}
    assert launched.nodes[0].private_ipv4_address == "10.0.0.1"
    assert _kinds(launched) == ["NodeRunning", "ChildrenLaunched"]
    hosts.exit(job_id, 0, 0)
    ended = await call.read()
    assert (ended.job.container.exit_code, ended.job.status_reason) == (
        0,
        "Essential container in task exited",
    )
    assert _states(ended) == {0: "SUCCEEDED", 1: "STOPPING", 2: "STOPPING"}
    assert ended.nodes[1].reason == "Stopped because the main node ended"
    assert _kinds(ended) == ["NodeExited", "AttemptEnded", "JobSucceeded"]
    hosts.release(job_id)
    rest = await everything(call)
    last = {node.node_index: node for response in rest for node in response.nodes}
    assert {index: (node.state, node.released) for index, node in last.items()} == {
        0: ("SUCCEEDED", True),
        1: ("FAILED", True),
        2: ("FAILED", True),
    }
    assert last[1].exit_code == 137
    assert _kinds(rest[-1])[-1] == "JobArchived"


async def test_a_job_that_has_left_memory_is_told_at_once(client: Client, hosts: FakeHosts) -> None:
    hosts.join("h-1", "h-2", "h-3")
    job_id = await client.submit()
    hosts.run(job_id, 3)
    (only,) = await everything(_watch(client, f"arn:aws:batch:a:b:job/{job_id}"))
    assert only.reset
    assert only.job.container.exit_code == 3
    assert _states(only) == {0: "FAILED", 1: "FAILED", 2: "FAILED"}
    assert (_kinds(only)[0], _kinds(only)[-1]) == ("JobSubmitted", "JobArchived")
    assert only.events[-2].node_index == 2
    # A job that never ran has no nodes.
    job_id = await client.submit()
    await client.jobs.TerminateJob(pb.TerminateJobRequest(job_id=job_id, reason="x"))
    (only,) = await everything(_watch(client, job_id))
    assert (only.job.status_reason, list(only.nodes)) == ("x", [])


async def test_what_happens_while_the_history_is_read_is_told_once(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    hosts.join("h-1")
    job_id = await client.submit(ONE)

    def vote() -> None:
        cluster.before_history = None
        hosts.vote(job_id)

    cluster.before_history = vote
    call = _watch(client, job_id)
    responses = [await call.read(), await call.read()]
    kinds = [kind for response in responses for kind in _kinds(response)]
    assert kinds == ["JobSubmitted", "JobQueued", "GangReserved", "NodePrepared", "AttemptStarted"]
    assert _states(responses[1]) == {0: "STARTING"}
    call.cancel()


async def test_a_clock_that_is_set_back_hides_no_event(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    """What came while the history was read is told by number, whatever the clock says."""
    hosts.join("h-1")
    job_id = await client.submit(ONE)

    def vote() -> None:
        cluster.after_history = None
        cluster.now_ms -= 3_600_000
        hosts.vote(job_id)

    cluster.after_history = vote
    call = _watch(client, job_id)
    events = [event for _ in range(2) for event in (await call.read()).events]
    assert [event.kind for event in events] == [
        *("JobSubmitted", "JobQueued", "GangReserved", "NodePrepared", "AttemptStarted")
    ]
    assert events[-1].at < events[0].at
    call.cancel()


async def test_a_long_history_comes_in_pages_that_a_default_client_takes(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    job_id = await client.submit(ONE)
    refusals = [
        e.NodeRefused(
            job_id=cluster.job(job_id).job_id,
            attempt=1,
            node_index=number,
            host_id=HostId("h"),
            reason=f"{number} " + "\U0001f600" * 20_000,
        )
        for number in range(2 * EVENTS_PAGE)
    ]
    cluster.know(refusals)
    call = _watch(client, job_id)
    pages: list[pb.WatchJobResponse] = []
    while sum(len(page.events) for page in pages) < 2 + len(refusals):
        pages.append(await call.read())
    assert [page.reset for page in pages] == [True, False, False]
    assert {page.job.job_id for page in pages} == {job_id}
    assert max(page.ByteSize() for page in pages) < 2 * 2**20
    told = [event.node_index for page in pages for event in page.events]
    assert told == [0, 0, *range(len(refusals))]
    hosts.join("h-1")
    assert _kinds(await call.read()) == ["GangReserved"]
    call.cancel()
    # The same when it has left memory.
    await client.jobs.TerminateJob(pb.TerminateJobRequest(job_id=job_id, reason="x"))
    pages = await everything(_watch(client, job_id))
    assert [page.reset for page in pages] == [True, False, False]
    kinds = [kind for page in pages for kind in _kinds(page)]
    assert kinds[:2] == ["JobSubmitted", "JobQueued"]
    assert kinds[2 : 2 + len(refusals)] == ["NodeRefused"] * len(refusals)
    assert kinds[2 + len(refusals) :] == ["GangAbandoned", "JobFailed", "JobArchived"]


async def test_many_events_at_once_come_in_pages(client: Client, cluster: FakeCluster) -> None:
    job_id = await client.submit(ONE)
    call = _watch(client, job_id)
    await call.read()
    step = Step(
        events=[
            Stamped(
                at_ms=number, event=e.DependencyEnded(job_id=JobId(job_id), dependency=JobId("d"))
            )
            for number in range(EVENTS_MAX + 7)
        ]
    )
    cluster.watches.publish(step, cluster.state)
    pages: list[pb.WatchJobResponse] = []
    while sum(len(page.events) for page in pages) < EVENTS_MAX:
        pages.append(await call.read())
    assert {len(page.events) for page in pages} == {EVENTS_PAGE}
    assert [event.at for page in pages for event in page.events] == list(range(EVENTS_MAX))
    assert [page.events_skipped for page in pages] == [7, 0, 0, 0]
    call.cancel()


async def test_a_slow_watcher_loses_events_and_never_states(cluster: FakeCluster) -> None:
    cluster.feed(i.RegisterDefinition(definition=multinode("0:", num_nodes=2), size_bytes=0))
    cluster.feed(i.Submit(submission=SUBMISSION, size_bytes=0, new_job_id=JobId("j")))
    job = cluster.job("j")
    attempt = Attempt(number=1, reserved_at_ms=0)
    for index in range(300):
        attempt.nodes[index] = NodeRun(
            node_index=index, host_id=HostId("h"), state=NodeState.PREPARING, since_ms=0
        )
    job.attempts.append(attempt)

    def render(state: ClusterState, job: Job, changes: Changes) -> Changes:
        return changes

    happened = e.DependencyEnded(job_id=JobId("j"), dependency=JobId("d"))
    async with cluster.watch(JobId("j"), render) as watching:
        await anext(watching.updates)
        for number in range(250):
            step = Step(events=[Stamped(at_ms=number, event=happened)] * 10)
            step.changed_nodes[JobId("j")] = {number: None}
            cluster.watches.publish(step, cluster.state)
        update = await anext(watching.updates)
    job.attempts.clear()
    assert list(update.nodes) == list(range(250))
    assert [each.at_ms for each in update.events] == [n for n in range(200) for _ in range(10)]
    assert (update.events_skipped, update.reset, update.last) == (500, False, False)


async def test_watchers_that_wait_share_what_they_are_shown(
    cluster: FakeCluster, hosts: FakeHosts
) -> None:
    cluster.feed(i.RegisterDefinition(definition=multinode("0:", num_nodes=2), size_bytes=0))
    cluster.feed(i.Submit(submission=SUBMISSION, size_bytes=0, new_job_id=JobId("j")))
    rendered = []

    def render(state: ClusterState, job: Job, changes: Changes) -> tuple[int, list[int]]:
        rendered.append(changes)
        return len(rendered), list(changes.nodes)

    async with AsyncExitStack() as stack:
        watchings = [
            await stack.enter_async_context(cluster.watch(JobId("j"), render)) for _ in range(3)
        ]
        first, second, busy = [watching.updates for watching in watchings]
        # Nothing happened between their beginnings.
        assert [await anext(each) for each in (first, second, busy)] == [(1, [])] * 3
        waiting = [asyncio.ensure_future(anext(each)) for each in (first, second)]
        await asyncio.sleep(0)
        hosts.join("h-1")
        assert await asyncio.gather(*waiting) == [(2, []), (2, [])]
        waiting = [asyncio.ensure_future(anext(each)) for each in (first, second)]
        await asyncio.sleep(0)
        hosts.join("h-2")
        assert await asyncio.gather(*waiting) == [(3, [0, 1]), (3, [0, 1])]
        # The one that was busy gets all of it at once when it comes back.
        assert await anext(busy) == (4, [0, 1])
        assert [type(each.event).__name__ for each in rendered[-1].events] == ["GangReserved"]


async def test_a_new_attempt_replaces_the_nodes_shown(client: Client, hosts: FakeHosts) -> None:
    hosts.join("h-1")
    job_id = await client.submit(ONE, retryStrategy={"attempts": 2})
    call = _watch(client, job_id)
    await call.read()
    hosts.run(job_id, 1)
    seen: list[pb.WatchJobResponse] = []
    while not (seen and seen[-1].reset):
        seen.append(await call.read())
    assert [node.attempt for node in seen[-1].nodes] == [2]
    # Between the attempts it says what it waits for.
    hosts.run(job_id, 0)
    seen += await everything(call)
    assert seen[-1].job.container.exit_code == 0
    assert sum(response.reset for response in seen) == 1


async def test_an_unclean_node_says_so(client: Client, hosts: FakeHosts) -> None:
    job_id = await one_that_runs(client, hosts)
    key = hosts.key(job_id, 0)
    hosts.host_of(key).say(key, Progress.EXITED, exit_code=0, unclean_reason="pid 7 will not die")
    call = _watch(client, job_id)
    (node,) = (await call.read()).nodes
    assert (node.state, node.released) == ("SUCCEEDED", False)
    assert node.reason == "not clean: pid 7 will not die"
    call.cancel()


async def test_a_coordinator_that_stops_breaks_the_stream_off(
    client: Client, cluster: FakeCluster
) -> None:
    job_id = await client.submit()
    call = _watch(client, job_id)
    await call.read()
    cluster.watches.close()
    code, details = await refusal(call)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "watch it again" in details


async def test_only_a_whole_job_that_there_is_can_be_watched(client: Client) -> None:
    code, details = await refusal(_watch(client, "0000"))
    assert (code, details) == (grpc.StatusCode.NOT_FOUND, "Job 0000 does not exist")
    code, details = await refusal(_watch(client, "0000#1"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "jobId '0000#1' is one node; give its job, 0000"


async def test_why_a_job_waits_and_how_it_ended(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    hosts.join("h-1", "h-2", vcpus=8)
    hosts.join("h-3", vcpus=1)
    job_id = await client.submit()

    async def explain() -> pb.ExplainJobResponse:
        return await client.jobs.ExplainJob(pb.ExplainJobRequest(job_id=job_id))

    waiting = await explain()
    assert waiting.status_reason == waiting.summary
    assert waiting.needs[1] == 'for nodes "0:" 3 hosts with 2 vCPUs, 512 MiB of memory'
    assert [(verdict.host_id, verdict.usable) for verdict in waiting.hosts] == [
        ("h-1", True),
        ("h-2", True),
        ("h-3", False),
    ]
    cluster.feed(i.Terminate(job_id=hosts.cluster.job(job_id).job_id, node_index=None, reason="x"))
    ended = await explain()
    assert ended.summary == "The job has ended: x"
    assert not ended.HasField("status_reason")
    assert list(ended.hosts) == []
    code, _ = await refusal(client.jobs.ExplainJob(pb.ExplainJobRequest(job_id="0000")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_job_that_is_being_stopped_says_why(client: Client, hosts: FakeHosts) -> None:
    job_id = await one_that_runs(client, hosts)
    call = _watch(client, job_id)
    assert not (await call.read()).job.status_reason
    await client.jobs.TerminateJob(pb.TerminateJobRequest(job_id=job_id, reason="hang"))
    assert (await call.read()).job.status_reason == "Stopping: hang"
    hosts.exit(job_id, 0, 137)
    assert (await call.read()).job.status_reason == "hang"
    hosts.release(job_id)
    assert (await everything(call))[-1].job.status_reason == "hang"
