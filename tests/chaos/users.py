"""Those who want jobs done: they submit with tokens, ask again after errors, and may want them to
end.

A user never takes an error for an answer: what became of a call that failed is found out by asking
again with the same token.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from dataclasses import dataclass, field

import grpc
import grpc.aio

from muster.v1 import job_pb2
from muster.v1 import job_service_pb2 as pb
from tests.chaos.hosts import ChaosCluster, now
from tests.chaos.record import Job, Outcome
from tests.chaos.weather import passes
from tests.e2e.cluster import definition
from tests.witness import FOR_EVER, node

CALL_SECONDS = 2.0
_NO_ANSWER = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}
"""What a coordinator that is away, hangs or is about to stop makes of a call."""
_PAGE = 100
_LOOK_SECONDS = 0.2
_MOST_NODES = 3
_LONG_SIGNS = 250
"""Longer than every limit and what is waited on top of it, so that it would be seen to live on."""
HEALED = "healed"
"""The file that lets every main end."""


@dataclass(slots=True)
class Wish:
    """One token: what a user wants, and what the cluster has said so far."""

    token: str
    queue: str
    definition: str
    code: int
    attempts: int
    signs: int
    gives_up: bool
    """Whether the user lets go at the first error, and never hears whether there is a job."""
    repeats: bool
    """Whether the user calls twice at the same time."""
    terminates_after: float | None
    submitted_at: float
    answers: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    ended_at: float | None = None
    is_terminated: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Users:
    """Some users, each with one job at a time, and who looks how all the jobs are doing."""

    def __init__(self, c: ChaosCluster, seed: int, count: int) -> None:
        self.cluster = c
        self.wishes: list[Wish] = []
        self.closing = asyncio.Event()
        """Nobody wants anything new from here on."""
        self.calls = self.errors = 0
        self._chances = [random.Random(f"{seed}/user/{number}") for number in range(count)]
        self._done = asyncio.Event()

    async def register(self) -> None:
        """A queue for each user, so that nobody stands behind the others, and the definitions:
        for each engine, one of each number of nodes."""
        for number in range(len(self._chances)):
            request = pb.CreateJobQueueRequest(job_queue_name=f"user-{number}", priority=1)
            await self.cluster.jobs.CreateJobQueue(request)
        for engine, hosts in self.cluster.hosts_of.items():
            for nodes in range(1, _most_nodes(len(hosts)) + 1):
                await self.cluster.register(self._definition(engine, nodes))

    def _definition(self, engine: str, nodes: int) -> dict[str, object]:
        inside = str(self.cluster.witness.directory)
        groups = {"0": node(inside, HEALED, "Ref::code", "Ref::signs")}
        if nodes > 1:
            groups["1"] = node(inside, "never", "0", FOR_EVER)
        if nodes > 2:
            groups[f"2:{nodes - 1}"] = node(inside, "never", "5", "Ref::childSigns")
        made = definition(_name(engine, nodes), groups, num_nodes=nodes, image=self.cluster.image)
        for group in made["nodeProperties"]["nodeRangeProperties"]:
            group["instanceTypes"] = [engine]
            if engine == "podman":
                group["container"]["volumes"] = [{"name": "w", "host": {"sourcePath": inside}}]
                group["container"]["mountPoints"] = [{"sourceVolume": "w", "containerPath": inside}]
        return made

    async def run(self) -> None:
        """Until `closing` is set and every job of every user has ended."""
        watching = asyncio.create_task(self._look())
        try:
            async with asyncio.TaskGroup() as tasks:
                for number, chance in enumerate(self._chances):
                    tasks.create_task(self._user(number, chance))
        finally:
            self._done.set()
            await watching

    async def _user(self, number: int, chance: random.Random) -> None:
        for count in range(1_000_000):
            wish = self._draw(f"user-{number}", count, chance)
            if self.closing.is_set():
                return
            self.wishes.append(wish)
            if await self._submit(wish):
                await self._end(wish)

    def _draw(self, queue: str, count: int, chance: random.Random) -> Wish:
        hosts = {engine: len(names) for engine, names in self.cluster.hosts_of.items()}
        (engine,) = chance.choices([*hosts], [*hosts.values()])
        return Wish(
            token=f"{queue}-{count}",
            queue=queue,
            definition=_name(
                engine, min(chance.choice((1, 1, 1, 1, 2, 3)), _most_nodes(hosts[engine]))
            ),
            code=chance.choice((0, 0, 0, 3)),
            attempts=chance.choice((1, 2, 3, 4)),
            signs=chance.choice((chance.randint(0, 9), chance.randint(0, 30), 50, _LONG_SIGNS)),
            gives_up=chance.random() < 0.1,
            repeats=chance.random() < 0.2,
            terminates_after=chance.uniform(0, 8) if chance.random() < 0.12 else None,
            submitted_at=now(),
        )

    async def _submit(self, wish: Wish) -> bool:
        """Whether there is a job that the user knows of."""
        request = pb.SubmitJobRequest(
            job_name=wish.token,
            job_queue=wish.queue,
            job_definition=wish.definition,
            client_token=wish.token,
            parameters={
                "code": str(wish.code),
                "signs": str(wish.signs),
                "childSigns": str(max(1, wish.signs // 2)),
            },
            retry_strategy=job_pb2.RetryStrategy(attempts=wish.attempts),
        )
        while not wish.answers:
            calls = [self._call(wish, request) for _ in range(2 if wish.repeats else 1)]
            if not all(await asyncio.gather(*calls)) and wish.gives_up:
                return False
        return True

    async def _call(self, wish: Wish, request: pb.SubmitJobRequest) -> bool:
        self.calls += 1
        try:
            made = await self.cluster.jobs.SubmitJob(
                request, wait_for_ready=True, timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            self._judge(error, "SubmitJob")
            return False
        wish.answers.append(made.job_id)
        return True

    async def ask_again(self, wish: Wish) -> None:
        """Submit with a token that was accepted before, which must make no other job."""
        before, wish.answers, wish.gives_up = wish.answers, [], False
        await self._submit(wish)
        wish.answers += before

    async def _end(self, wish: Wish) -> None:
        if wish.terminates_after is not None:
            await passes(wish.ended, wish.terminates_after)
            wish.is_terminated = not wish.ended.is_set()
        while wish.is_terminated:
            request = pb.TerminateJobRequest(job_id=wish.answers[0], reason="by a user")
            try:
                await self.cluster.jobs.TerminateJob(
                    request, wait_for_ready=True, timeout=CALL_SECONDS
                )
                break
            except grpc.aio.AioRpcError as error:
                self._judge(error, "TerminateJob")
        await wish.ended.wait()

    def _judge(self, error: grpc.aio.AioRpcError, call: str) -> None:
        self.errors += 1
        if error.code() not in _NO_ANSWER:
            self.cluster.faults.append(f"{call} failed: {error.code()}: {error.details()}")

    async def _look(self) -> None:
        """Look at all jobs that are open, and at some that have ended: they never change again."""
        while not self._done.is_set():
            known = [wish for wish in self.wishes if wish.answers]
            open_ones = [wish for wish in known if wish.ended_at is None]
            ended = [wish for wish in known if wish.ended_at is not None]
            await self.look_at([*open_ones, *ended[-10:]])
            await passes(self._done, _LOOK_SECONDS)

    async def look_at(self, wishes: list[Wish]) -> None:
        """Note what is told of these jobs, if anybody answers."""
        by_id = {wish.answers[0]: wish for wish in wishes}
        ids = [*by_id]
        for first in range(0, len(ids), _PAGE):
            request = pb.DescribeJobsRequest(jobs=ids[first : first + _PAGE])
            try:
                response = await self.cluster.jobs.DescribeJobs(
                    request, wait_for_ready=True, timeout=CALL_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                self._judge(error, "DescribeJobs")
                continue
            for detail in response.jobs:
                _note(by_id[detail.job_id], detail)

    async def until_ended(self, deadline_seconds: float) -> None:
        """Until all jobs have been seen to have ended; those that have not by then stay so."""
        deadline = now() + deadline_seconds
        never = asyncio.Event()
        while True:
            known = [wish for wish in self.wishes if wish.answers]
            await self.look_at(known)
            if now() > deadline or all(wish.ended_at is not None for wish in known):
                return
            await passes(never, _LOOK_SECONDS)

    async def listed(self, wish: Wish) -> tuple[str, ...]:
        """The ids of all jobs of the token's name."""
        request = pb.ListJobsRequest(
            job_queue=wish.queue, filters=[pb.KeyValuesPair(name="JOB_NAME", values=[wish.token])]
        )
        response = await self.cluster.jobs.ListJobs(
            request, wait_for_ready=True, timeout=4 * CALL_SECONDS
        )
        return tuple(job.job_id for job in response.job_summary_list)

    async def job(self, wish: Wish, listed: tuple[str, ...]) -> Job:
        """All that is known of a token, its nodes' own words among it."""
        made = Job(
            token=wish.token, code=wish.code, attempts_allowed=wish.attempts,
            answers=tuple(wish.answers), listed=listed, submitted_at=wish.submitted_at,
            ended_at=wish.ended_at, outcomes=tuple(wish.outcomes),
            is_terminated=wish.is_terminated,
        )  # fmt: skip
        if made.job_id is None:
            return made
        main = await self.cluster.describe(f"{made.job_id}#0")
        arns = [each.container.container_instance_arn for each in main.attempts] if main else []
        witness = self.cluster.witness
        return dataclasses.replace(
            made,
            mains=tuple(arn.rpartition("/")[2] or None for arn in arns),
            lives=witness.lives(made.job_id),
            main_lives=witness.lives(made.job_id, "0"),
            words=witness.words(made.job_id),
        )


def _most_nodes(hosts: int) -> int:
    """One host is left over, so that a job can be tried again while another is away."""
    return min(hosts - 1, _MOST_NODES) if hosts else 0


def _name(engine: str, nodes: int) -> str:
    return f"{engine}-{nodes}"


def _note(wish: Wish, detail: job_pb2.JobDetail) -> None:
    status = job_pb2.JobStatus.Name(detail.status)
    if status not in ("SUCCEEDED", "FAILED") and not wish.outcomes:
        return
    codes = tuple(
        each.container.exit_code if each.container.HasField("exit_code") else None
        for each in detail.attempts
    )
    told = Outcome(status, codes, detail.status_reason)
    if told not in wish.outcomes:
        wish.outcomes.append(told)
    if wish.ended_at is None:
        wish.ended_at = now()
        wish.ended.set()
