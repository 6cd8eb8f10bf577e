"""People who read output while everything goes wrong: GetNodeLog, with and without `follow`.

Each byte comes once, in order, and is the node's own; who follows gets all of it, however often its
host, its line or the coordinator breaks; and nobody waits for ever.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from agent.core.assignment import NodeKey
from coordinator.rpc.log_relay import QUIET_SECONDS
from coordinator.rpc.node_log import node_log
from coordinator.rpc.ports import Full, Unreachable
from muster.v1.job_service_pb2 import GetNodeLogRequest, GetNodeLogResponse

if TYPE_CHECKING:
    from tests.sim.sim_host import SimHost
    from tests.sim.sim_reads import SimReads
    from tests.sim.world import World

AGAIN_MS = 3_000
PAUSES_SECONDS = (0.0, 0.0, 0.5, 5.0)
"""How long a reader takes over each piece."""
ANSWER_MS = int(1000 * (QUIET_SECONDS + max(PAUSES_SECONDS)))
"""How long a reader whose host is lost may hear nothing, while the coordinator is awake."""
NOT_BACK = ("is lost", "cannot deliver")
"""Why a follower may be given less than all: its host is not expected back, or cannot read it."""


class Readers:
    def __init__(self, world: World) -> None:
        self.world = world
        self.reading: dict[_Reader, None] = {}

    def begin(self) -> None:
        for _ in range(self.world.knobs.readers):
            self.world.after(int(self.world.rng.random() * self.world.knobs.horizon_ms), self._new)

    def _new(self) -> None:
        nodes = [(key, host) for host in self.world.hosts for key in host.spools]
        if nodes:
            reader = _Reader(self.world, *self.world.rng.choice(nodes))
            self.reading[reader] = None
            reader.ask()

    def host_lost(self, host: SimHost) -> None:
        for reader in self.reading:
            if reader.host is host:
                reader.expect_an_answer()

    def coordinator_died(self) -> None:
        for reader in self.reading:
            reader.lost_the_coordinator()

    def unrest(self) -> list[str]:
        return [str(reader) for reader in self.reading]


class _Reader:
    def __init__(self, world: World, key: NodeKey, host: SimHost) -> None:
        rng = world.rng
        is_multinode = world.promises.blame.spec(key).is_multinode
        self.world = world
        self.key = key
        self.host = host
        self._spool = host.spools[key]
        self._follow = rng.random() < 0.7
        self._pause_seconds = rng.choice(PAUSES_SECONDS)
        self._job = f"{key.job_id}#{key.node_index}" if is_multinode else key.job_id
        self._position = 0
        self._least = 0
        """What was there when it asked."""
        self._task: asyncio.Task[None] | None = None
        self._call = 0
        """Counts calls; what an earlier one brings is nobody's."""

    def __str__(self) -> str:
        how = "follows" if self._follow else "reads"
        return f"somebody {how} {self.key.name} at {self._position} of {self._spool.end}"

    # the reader's side

    def ask(self) -> None:
        self._call += 1
        call = self._call
        self._least = self._spool.end
        if self.world.coordinator.is_serving:
            self.world.coordinator.hear(lambda: self._begin(call))
        else:
            self._ask_again()

    def _ask_again(self) -> None:
        self._call += 1
        call = self._call
        self.world.after(
            AGAIN_MS + self.world.delay(AGAIN_MS),
            lambda: self.ask() if call == self._call else None,
        )

    def lost_the_coordinator(self) -> None:
        self._task = None
        self._ask_again()

    def hang_up(self) -> None:
        """Its own line breaks; it goes on from where it was."""
        if self._task is not None:
            self.world.note(f"{self}: its line breaks")
            self._task.cancel()
            self._task = None
            self._ask_again()

    def expect_an_answer(self) -> None:
        """Its host is lost: it gets more, or is told."""
        call, position, coordinator = self._call, self._position, self.world.coordinator
        awake_ms = coordinator.awake_ms()

        def look() -> None:
            left_ms = awake_ms + ANSWER_MS - coordinator.awake_ms()
            if left_ms > 0:
                coordinator.later(left_ms, look)
                return
            if call != self._call or self._task is None:
                return
            presence = coordinator.machine.state.presence[self.host.host_id]
            if not presence.lost:
                return
            is_slow = coordinator.is_uncommitted or self.world.now < coordinator.slow_until_ms
            if position == self._position and not is_slow:
                self.world.fail(f"{self}: {self.host.host_id} is lost, and it is told nothing")
            self.expect_an_answer()

        coordinator.later(ANSWER_MS, look)

    def _take(self, response: GetNodeLogResponse) -> None:
        at, data = response.offset, response.data
        if at != self._position and not response.notice:
            self.world.fail(f"{self}: the next byte is {at}, and nobody says why")
        if at < self._position or data != self._spool.read(at, len(data)):
            self.world.fail(f"{self}: it gets {data!r} at {at}")
        if at > self._position and self._follow and not _may_be_less(response.notice):
            self.world.fail(f"{self}: bytes are left out: {response.notice}")
        self._position = at + len(data)

    def _failed(self, why: Exception) -> None:
        self.world.note(f"{self}: {why}")
        self._task = None
        can_be_read = self.host.tails_read.get(self.key, True)
        if self._follow and can_be_read:
            self._ask_again()
        else:
            self._done()

    def _complete(self) -> None:
        least = self._spool.end if self._follow else self._least
        if self._position < least or (self._follow and not self._spool.is_finished):
            self.world.fail(f"{self}: it is told that this is all")
        self._done()

    def _done(self) -> None:
        self._task = None
        self._call += 1
        del self.world.readers.reading[self]

    # in the coordinator

    def _begin(self, call: int) -> None:
        if call == self._call:
            reads = self.world.coordinator.reads
            self._task = reads.loop.start(self._serve(reads, call))

    async def _serve(self, reads: SimReads, call: int) -> None:
        request = GetNodeLogRequest(
            job_id=self._job,
            attempt=self.key.attempt,
            offset=self._position,
            follow=self._follow,
        )
        try:
            async with aclosing(node_log(reads, request)) as responses:
                async for response in responses:
                    if call == self._call:
                        self._take(response)
                    if self._pause_seconds:
                        await asyncio.sleep(self._pause_seconds)
        except (Unreachable, Full) as why:
            if call == self._call:
                self._failed(why)
        else:
            if call == self._call:
                self._complete()


def _may_be_less(notice: str) -> bool:
    return any(why in notice for why in NOT_BACK)
