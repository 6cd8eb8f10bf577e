"""A large job whose hosts refuse for days: what is kept of its votes does not grow with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.core import inputs as i
from coordinator.core.events import GangAbandoned, TimeLimitAction
from coordinator.core.ids import HostId, JobId, NodeKey
from coordinator.core.settings import Settings
from coordinator.core.state import Job
from coordinator.core.states import Progress
from coordinator.core.story import tell
from coordinator.daemon import Daemon
from tests.contract.journals import MemoryStore, SqliteStore, Store
from tests.core.shapes import SUBMISSION, multinode
from tests.rpc.daemons import hello, running, session_of

NODES = 20
VOTES = 7
LAST = NODES - 1
JOB = JobId("j")
LIMIT = TimeLimitAction(
    reason="CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY",
    state="RUNNABLE",
    max_time_seconds=86_400,
    action="CANCEL",
)
BLOCKED = ["PlacementBlocked"]
AT_ONCE = Settings(refusal_backoff_ms=0)


def host(number: int) -> HostId:
    return HostId(f"h{number:02}")


def joins(number: int, *observed: i.Observation) -> i.HostHello:
    return hello(host(number), *observed, private_ipv4=f"10.0.0.{number}")


async def say(
    daemon: Daemon, number: int, progress: Progress, reason: str = "", *, not_started: bool = False
) -> None:
    key = NodeKey(JOB, 1, number)
    seen = i.Observation(key=key, progress=progress, reason=reason, not_started=not_started)
    session_id = session_of(host(number))
    await daemon.ask(i.HostReport(session_id=session_id, seq=1, observations=(seen,)))


async def one_refuses(daemon: Daemon) -> None:
    for number in range(NODES - 1):
        await say(daemon, number, Progress.PREPARED)
    await say(daemon, LAST, Progress.REFUSED, "no room")


async def main_does_not_start(daemon: Daemon) -> None:
    for number in range(NODES):
        await say(daemon, number, Progress.PREPARED)
    await say(daemon, 0, Progress.EXITED, "no room", not_started=True)
    await say(daemon, 0, Progress.RELEASED, "no room", not_started=True)
    # Its host is the only one that can be asked, and is asked again.
    await say(daemon, 0, Progress.REFUSED, "no room")


async def let_go(daemon: Daemon) -> None:
    for number in range(NODES):
        await say(daemon, number, Progress.RELEASED)


async def kinds(daemon: Daemon) -> list[str]:
    page = await daemon.history(JOB, after=0, limit=10_000)
    return [type(stamped.event).__name__ for _, stamped in page]


@pytest.mark.parametrize(
    ("vote", "culprit", "times"),
    [(one_refuses, LAST, VOTES), (main_does_not_start, 0, 2 * VOTES)],
)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_votes_that_were_given_up_leave_their_refusals_and_nothing_else(
    kind: str, vote: Callable[[Daemon], Awaitable[None]], culprit: int, times: int, tmp_path: Path
) -> None:
    store: Store = MemoryStore() if kind == "memory" else SqliteStore(tmp_path / "journal")
    async with running(Daemon(await store.open(), AT_ONCE)) as daemon:
        definition = multinode("0:", num_nodes=NODES)
        await daemon.ask(i.RegisterDefinition(definition=definition, size_bytes=0))
        # In a queue with a time limit, the reason why a job waits is a fact too.
        await daemon.ask(i.CreateQueue(name="timed", priority=1, time_limits=(LIMIT,)))
        submission = replace(SUBMISSION, job_queue="timed")
        await daemon.ask(i.Submit(submission=submission, size_bytes=0, new_job_id=JOB))
        for number in range(NODES):
            await daemon.ask(joins(number))
        # A host more could run it, and is not free: it is waited for.
        stray = i.Observation(key=NodeKey(JobId("old"), 1, 0), progress=Progress.UP)
        await daemon.ask(joins(NODES, stray))
        for _ in range(VOTES):
            await vote(daemon)
            await let_go(daemon)
        # The next vote has begun: it is there in full.
        left = ["JobSubmitted", "JobQueued", "GangAbandoned", *BLOCKED, "GangReserved"]
        found = await kinds(daemon)
        assert found == left, f"{len(found)} entries after {VOTES} votes of {NODES} nodes"
        (abandoned,) = [
            stamped.event
            for _, stamped in await daemon.history(JOB, after=0, limit=10)
            if isinstance(stamped.event, GangAbandoned)
        ]
        refusal = abandoned.refusals[host(culprit)]
        assert (abandoned.votes, refusal.count, refusal.reason) == (VOTES, times, "no room")
        _, message, _ = tell(abandoned)
        assert message.endswith(
            f"this was vote 7; host {host(culprit)} refused {times} times, at last: no room"
        )
        live = daemon._machine.state
    async with running(Daemon(await store.open(), AT_ONCE)) as daemon:
        replayed = daemon._machine.state
        assert {name: _unranked(job) for name, job in replayed.jobs.items()} == {
            name: _unranked(job) for name, job in live.jobs.items()
        }
        assert (replayed.hosts, replayed.queues) == (live.hosts, live.queues)
        # And the job can still start.
        for number in range(NODES):
            await daemon.ask(joins(number))
            await say(daemon, number, Progress.PREPARED)
        await say(daemon, 0, Progress.UP)
        assert (await kinds(daemon))[-3:] == ["AttemptStarted", "NodeRunning", "ChildrenLaunched"]
        assert daemon._machine.state.jobs[JOB].abandoned_votes == 0
    await store.close()


def _unranked(job: Job) -> Job:
    return replace(job, order=0)
