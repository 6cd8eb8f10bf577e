"""Does to the daemons what the forecast says, each of them by itself, and writes down when."""

from __future__ import annotations

import asyncio
import signal

from tests.chaos.forecast import Doing, forecast
from tests.chaos.hosts import ChaosCluster, now
from tests.chaos.record import COORDINATOR, Disturbance

_STALL_SECONDS = 0.7


async def passes(calm: asyncio.Event, seconds: float) -> None:
    """Return after so long, or as soon as there is calm."""
    try:
        async with asyncio.timeout(seconds):
            await calm.wait()
    except TimeoutError:
        return


class Weather:
    """Disturbs every daemon until there is calm, and leaves none disturbed."""

    def __init__(self, c: ChaosCluster, seed: int) -> None:
        self.cluster = c
        self.disturbances: list[Disturbance] = []
        self.calm = asyncio.Event()
        self._seed = seed

    async def run(self) -> None:
        """Until `calm` is set; then everything runs and is reached, and every clock is right."""
        async with asyncio.TaskGroup() as tasks:
            for number, target in enumerate((COORDINATOR, *self.cluster.agents)):
                tasks.create_task(self._disturb(target, number))
            tasks.create_task(self._watch_own_stalls())
        for target in (COORDINATOR, *self.cluster.agents):
            self.cluster.set_clock(target, 0)
            await self._revive(target)
            await self.cluster.start_daemon(target)

    async def _disturb(self, target: str, number: int) -> None:
        # By its place, as the names of hosts are new in each run.
        for doing in forecast(self._seed, number, is_agent=target != COORDINATOR):
            await passes(self.calm, doing.calm_seconds)
            if self.calm.is_set():
                return
            await self._do(target, doing)

    async def _do(self, target: str, doing: Doing) -> None:
        kind, seconds = doing.kind, doing.seconds
        c = self.cluster
        await self._revive(target)
        if kind == "clock stepped":
            c.set_clock(target, doing.step_seconds)
            self._note(target, kind, now(), now(), f"{doing.step_seconds:+} s")
            return
        began = now()
        detail, is_goodbye = "", False
        if "cut off" in kind:
            c.pull_cable(target)
        if kind.startswith("hung"):
            c.daemon(target).send(signal.SIGSTOP)
        elif kind.startswith("killed"):
            await c.end_daemon(target, signal.SIGKILL)
        elif kind != "cut off":
            is_goodbye = await c.end_daemon(target, signal.SIGTERM)
        if kind == "restarted with other settings":
            c.settings, seconds, detail = doing.settings, 0.0, f"to {doing.settings}"
        if kind == "killed while cut off":
            # It has to look after its own without having heard from anybody.
            await passes(self.calm, seconds / 4)
            await c.start_daemon(target)
            seconds *= 3 / 4
        await passes(self.calm, seconds)
        if kind.startswith("hung"):
            c.daemon(target).send(signal.SIGCONT)
        await c.start_daemon(target)
        if "cut off" in kind:
            c.plug_cable(target)
        self._note(target, kind, began, now(), detail, is_goodbye)

    async def _revive(self, target: str) -> None:
        """Start a daemon again that ended by itself, which is noted as a fault."""
        if self.cluster.daemon(target).fell is not None:
            await self.cluster.end_daemon(target, signal.SIGKILL)
            await self.cluster.start_daemon(target)

    def _note(
        self, target: str, kind: str, began: float, ended: float, detail: str = "",
        is_goodbye: bool = False,
    ) -> None:  # fmt: skip
        self.disturbances.append(
            Disturbance(
                target=target, kind=kind, began=began, ended=ended, detail=detail,
                is_goodbye=is_goodbye,
            )
        )  # fmt: skip

    async def _watch_own_stalls(self) -> None:
        """When this program itself got no processor, its daemons may have got none either."""
        while not self.calm.is_set():
            before = now()
            await passes(self.calm, 0.1)
            if now() - before > _STALL_SECONDS:
                self._note("", "starved of processors", before, now())
