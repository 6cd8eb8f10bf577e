"""One campaign: real daemons in bad weather, users who want jobs done, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc.aio

from muster.v1 import job_service_pb2 as pb
from tests.chaos.forecast import HASTY
from tests.chaos.hosts import ChaosCluster, chaos_cluster, now
from tests.chaos.promises import Violation, is_excused, violations
from tests.chaos.record import Record
from tests.chaos.users import HEALED, Users
from tests.chaos.weather import Weather, passes

HEAL_SECONDS = 120.0
"""For all jobs to end and all hosts to be free once nothing is done to them any more."""
_STORIES = 5
_STORY_SECONDS = 10.0
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Campaign:
    """What is tried."""

    seed: int
    seconds: float
    agents: int

    async def run(self, say: Say) -> list[Violation]:
        """Play it and tell of it; the promises that were not kept. The directory with the logs of
        all daemons is kept if there are any. Needs root."""
        directory = Path(tempfile.mkdtemp(prefix=f"muster-chaos-{self.seed}-"))
        say(f"seed {self.seed}: {self.seconds:g} s with {self.agents} agents, in {directory}")
        async with chaos_cluster(directory, self.agents, HASTY) as c:
            users, weather = Users(c, self.seed, 2 * self.agents), Weather(c, self.seed)
            await users.register()
            left = await self._play(c, users, weather)
            record = await _record(c, users, weather)
            stories = await _stories(c, record, violations(record))
            await c.close()
            left += c.left()
        faults = (*c.faults, *c.tracebacks())
        record = dataclasses.replace(record, left=tuple(left), faults=faults)
        broken = violations(record)
        say(counts(record, users))
        if broken:
            report = self._report(record, broken, stories)
            (directory / "report.txt").write_text(report)
            say(f"{report}\nthe logs of all daemons, and this report, are in {directory}")
        else:
            shutil.rmtree(directory)
        return broken

    async def _play(self, c: ChaosCluster, users: Users, weather: Weather) -> list[str]:
        """Until all is over and healed; what is not as it was before."""
        wanting = asyncio.create_task(users.run())
        disturbing = asyncio.create_task(weather.run())
        try:
            await passes(weather.calm, self.seconds)
        finally:
            users.closing.set()
            weather.calm.set()
            await disturbing
            c.witness.let_end(HEALED)
        left = []
        if not (await asyncio.wait([wanting], timeout=HEAL_SECONDS))[0]:
            wanting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await wanting
        try:
            await c.until_hosts(dict.fromkeys(c.agents, "FREE"), HEAL_SECONDS)
        except AssertionError:
            states = await c.host_states()
            left += [f"host {host} is {state}" for host, state in states.items() if state != "FREE"]
        for target in ("coordinator", *c.agents):
            c.note_fall(target)
        return left

    def _report(self, record: Record, broken: list[Violation], stories: str) -> str:
        return "\n".join(
            [
                f"seed {self.seed} with {self.agents} agents BROKE PROMISES:",
                *(f"  {violation}" for violation in broken),
                "what was done, by the kernel's seconds since boot:",
                *map(str, sorted(record.disturbances, key=lambda each: each.began)),
                stories,
            ]
        )


async def _record(c: ChaosCluster, users: Users, weather: Weather) -> Record:
    """Ask for each token again, list all, and look at all a last time."""
    known = [wish for wish in users.wishes if wish.answers]
    for wish in known:
        await users.ask_again(wish)
    listed = {wish.token: await users.listed(wish) for wish in users.wishes}
    for wish in users.wishes:
        if not wish.answers:
            wish.answers.extend(listed[wish.token][:1])
    # One that was given up may still go on.
    await users.until_ended(HEAL_SECONDS)
    jobs = [await users.job(wish, listed[wish.token]) for wish in users.wishes]
    return Record(
        jobs=tuple(jobs),
        disturbances=tuple(weather.disturbances),
        periods=tuple(c.periods),
        ended=now(),
    )


def counts(record: Record, users: Users) -> str:
    """What happened how often."""
    attempts = [
        (job, attempt)
        for job in record.jobs
        for outcome in job.outcomes[-1:]
        for attempt in range(1, len(outcome.codes) + 1)
    ]
    excused = sum(is_excused(record, job, attempt) for job, attempt in attempts)
    ends = Counter(job.outcomes[-1].status for job in record.jobs if job.outcomes)
    kinds = Counter((each.kind, each.target == "coordinator") for each in record.disturbances)
    lines = [
        f"  {len(record.jobs)} tokens, {sum(1 for job in record.jobs if job.job_id)} jobs: "
        + ", ".join(f"{number} {status}" for status, number in sorted(ends.items()))
        + f", {sum(job.is_terminated for job in record.jobs)} terminated",
        f"  {len(attempts)} attempts, {excused} of them on a host that was disturbed for too long",
        f"  {users.calls} submissions, {users.errors} calls without an answer",
        f"  {len(record.disturbances)} disturbances: "
        + ", ".join(
            f"{number} {'coordinator ' if is_head else ''}{kind}"
            for (kind, is_head), number in sorted(kinds.items())
        ),
    ]
    return "\n".join(lines)


async def _stories(c: ChaosCluster, record: Record, broken: list[Violation]) -> str:
    """All that is told of the first jobs that a promise was broken to."""
    tokens = list(dict.fromkeys(each.token for each in broken if each.token))[:_STORIES]
    told = []
    for job in record.jobs:
        if job.token not in tokens or job.job_id is None:
            continue
        told += [f"--- {job.token}: job {job.job_id}, by its nodes' own words", str(job)]
        told.append(await c.muster("describe", job.job_id, f"{job.job_id}#0"))
        told.append(await _events(c, job.job_id))
    return "\n".join(told)


async def _events(c: ChaosCluster, job_id: str) -> str:
    lines: list[str] = []
    try:
        request = pb.WatchJobRequest(job_id=job_id)
        async for update in c.jobs.WatchJob(request, timeout=_STORY_SECONDS):
            lines += [
                f"{event.at / 1000:.2f} {event.kind} "
                f"{event.node_index if event.HasField('node_index') else ''} {event.message}"
                for event in update.events
            ]
    except grpc.aio.AioRpcError as error:
        lines.append(f"(the rest is not told: {error.code()})")
    return "\n".join(lines)
