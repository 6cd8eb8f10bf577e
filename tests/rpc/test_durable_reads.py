"""Readers of a real daemon see only what is durable, also while a commit takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import TypeVar, cast

import pytest

from coordinator.core import inputs as i
from coordinator.core.arn import Arns
from coordinator.core.errors import NotFound
from coordinator.core.ids import JobId, NodeKey
from coordinator.core.settings import Settings
from coordinator.core.state import ClusterState
from coordinator.daemon import Daemon
from coordinator.journal.memory import MemoryJournal
from coordinator.journal.port import Batch
from coordinator.rpc.ports import Unreachable
from coordinator.rpc.render import Renderer
from coordinator.rpc.watching import JobWatch
from muster.v1.job_pb2 import JobStatus
from tests.core.shapes import SUBMISSION, multinode
from tests.fakes.live_objects import refuse_live
from tests.rpc.daemons import hello, running

T = TypeVar("T")

RENDERER = Renderer(Arns(region="local", account_id="000000000000"))
TURNS = 50
"""More turns of the event loop than any answer that need not wait takes."""


class HeldJournal(MemoryJournal):
    """A journal whose commits take as long as the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self._free = asyncio.Event()
        self._free.set()
        self.waits = asyncio.Event()

    def hold(self) -> None:
        self._free.clear()

    def let_go(self) -> None:
        self._free.set()

    async def append(self, batch: Batch) -> None:
        if not self._free.is_set():
            self.waits.set()
        await self._free.wait()
        self.append_now(batch)


class GuardedDaemon(Daemon):
    """Fails a reader that is handed a live object."""

    async def read(self, query: Callable[[ClusterState], T]) -> T:
        value = await super().read(query)
        refuse_live(self._machine.state, value)
        return value


async def submitted(daemon: Daemon) -> JobId:
    definition = multinode("0:", num_nodes=2)
    await daemon.ask(i.RegisterDefinition(definition=definition, size_bytes=0))
    asked = i.Submit(submission=SUBMISSION, size_bytes=0, new_job_id=JobId("j"))
    return cast("JobId", await daemon.ask(asked))


async def test_a_watcher_is_shown_no_state_that_a_crash_could_take_back() -> None:
    journal = HeldJournal()
    async with running(GuardedDaemon(journal, Settings())) as daemon:
        job_id = await submitted(daemon)
        async with aclosing(JobWatch(daemon, RENDERER, job_id).responses()) as responses:
            assert (await anext(responses)).job.status == JobStatus.RUNNABLE
            # A durable change that the watcher has not come for yet, then one that is not durable.
            await daemon.ask(hello("h1"))
            journal.hold()
            ending = asyncio.create_task(
                daemon.ask(i.Terminate(job_id=job_id, node_index=None, reason="x"))
            )
            await journal.waits.wait()
            shown = asyncio.ensure_future(anext(responses))
            for _ in range(TURNS):
                await asyncio.sleep(0)
            if shown.done():
                durable = [each.kind for _, each in journal._facts.open[f"job/{job_id}"]]
                status = JobStatus.Name(shown.result().job.status)
                assert status == "RUNNABLE", f"shown {status}, the journal has {durable}"
            journal.let_go()
            await ending
            last = (await shown).job
            while last.status != JobStatus.FAILED:
                last = (await anext(responses)).job
            assert last.status_reason == "x"


async def test_a_watch_that_begins_during_a_commit_begins_after_it() -> None:
    """Each event once: in the history, or in what follows it."""
    journal = HeldJournal()
    async with running(GuardedDaemon(journal, Settings())) as daemon:
        job_id = await submitted(daemon)
        journal.hold()
        joining = [asyncio.create_task(daemon.ask(hello(host_id))) for host_id in ("h1", "h2")]
        await journal.waits.wait()
        async with aclosing(JobWatch(daemon, RENDERER, job_id).responses()) as responses:
            shown = asyncio.ensure_future(anext(responses))
            await asyncio.sleep(0)
            journal.let_go()
            await asyncio.gather(*joining)
            kinds = [event.kind for event in (await shown).events]
            while "GangReserved" not in kinds:
                kinds += [event.kind for event in (await anext(responses)).events]
            assert kinds == ["JobSubmitted", "JobQueued", "GangReserved"]


async def test_the_reader_of_a_log_is_handed_no_live_job() -> None:
    async with running(GuardedDaemon(HeldJournal(), Settings())) as daemon:
        job_id = await submitted(daemon)
        for host_id in ("h1", "h2"):
            await daemon.ask(hello(host_id))
        with pytest.raises(Unreachable, match="host h1 is not connected"):
            await anext(daemon.read_log(NodeKey(job_id, 1, 0), offset=0, follow=False))
        with pytest.raises(NotFound, match="was never placed"):
            await anext(daemon.read_log(NodeKey(job_id, 1, 7), offset=0, follow=False))


@pytest.mark.parametrize(
    "query",
    [
        lambda state: state.jobs["j"],
        lambda state: [state.jobs["j"].attempts],
        lambda state: state.queues,
        lambda state: {"q": state.queues["default"].runnable},
        lambda state: (job.job_id for job in state.jobs.values()),
    ],
)
async def test_the_guard_knows_a_live_object(query: Callable[[ClusterState], object]) -> None:
    async with running(GuardedDaemon(HeldJournal(), Settings())) as daemon:
        await submitted(daemon)
        with pytest.raises(AssertionError, match="a reader was handed"):
            await daemon.read(query)
