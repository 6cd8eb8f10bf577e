"""What goes wrong with machines, processes and cables, at random times until all heals."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.sim_host import SimHost
    from tests.sim.world import World

STALL_MS = (1_000, 20_000, 60_000)
CUT_MS = (2_000, 40_000, 150_000, 300_000)
COORDINATOR_DOWN_MS = (100, 5_000, 50_000, 250_000)
AGENT_DOWN_MS = (50, 5_000, 60_000)
POWER_OFF_MS = (3_000, 40_000, 250_000)
AGENT_HASTE_MS = 10_000
"""What an agent needs after its start until it enforces a lease that has ended meanwhile."""


class Faults:
    def __init__(self, world: World) -> None:
        self.world = world
        self.active = True

    def begin(self) -> None:
        knobs = self.world.knobs
        for every_ms, fault in (
            (knobs.drop_every_ms, self._drop),
            (knobs.stall_every_ms, self._stall),
            (knobs.cut_every_ms, self._cut),
            (knobs.agent_crash_every_ms, self._crash_agent),
            (knobs.coordinator_crash_every_ms, self._crash_coordinator),
            (knobs.power_every_ms, self._power_cycle),
        ):
            if every_ms is not None:
                self._again(every_ms, fault)

    def heal(self) -> None:
        """No new faults; what is down comes back within a moment."""
        self.active = False
        if not self.world.coordinator.alive:
            self._coordinator_back()
        for host in self.world.hosts:
            host.cut_until_ms = host.stalled_until_ms = 0
            if not host.powered:
                host.power_on()
            elif host.agent is None or not host.agent.alive:
                host.in_this_boot(100, host.start_agent)

    def _again(self, every_ms: int, fault: Callable[[], None]) -> None:
        def strike() -> None:
            if self.active:
                fault()
                self._again(every_ms, fault)

        self.world.after(int(self.world.rng.expovariate(1 / every_ms)) + 1, strike)

    def _duration(self, choices: tuple[int, ...]) -> int:
        return int(self.world.rng.choice(choices) * self.world.rng.uniform(0.5, 1.0))

    def _any_host(self) -> SimHost:
        """Mostly one that has work: nothing much goes wrong with the others."""
        busy = [host for host in self.world.hosts if host.engine.containers]
        return self.world.rng.choice(busy if busy and self.world.chance(0.7) else self.world.hosts)

    def _drop(self) -> None:
        """A connection breaks; what is in flight is lost."""
        host = self._any_host()
        if host.agent is not None and host.agent.session is not None:
            self.world.note(f"{host.host_id} connection breaks")
            host.disturb()
            host.agent.session.break_off(notice_ms=self.world.rng.choice((100, 30_000)))

    def _stall(self) -> None:
        """Nothing gets through for a while, and nothing is lost."""
        host = self._any_host()
        host.stalled_until_ms = self.world.now + self._duration(STALL_MS)
        self.world.note(f"{host.host_id} stalls until {host.stalled_until_ms / 1000:.3f}")
        host.disturb(host.stalled_until_ms)

    def _cut(self) -> None:
        """Some hosts are cut off for a while, perhaps for longer than a lease."""
        until_ms = self.world.now + self._duration(CUT_MS)
        rng, hosts = self.world.rng, self.world.hosts
        chosen = [self._any_host()] if rng.random() < 0.6 else rng.sample(hosts, len(hosts) // 2)
        for host in chosen:
            self.world.note(f"{host.host_id} is cut off until {until_ms / 1000:.3f}")
            host.cut_until_ms = until_ms
            host.disturb(until_ms)
            if host.agent is not None and host.agent.session is not None:
                host.agent.session.break_off(notice_ms=30_000)

    def _crash_agent(self) -> None:
        """The process alone. Never for longer than a lease that it has to enforce lasts: what
        runs under a dead agent for longer is the hole that power-off, not software, closes."""
        host = self._any_host()
        if host.agent is None or not host.agent.alive:
            return
        down_ms = min(self._duration(AGENT_DOWN_MS), host.lease_left_ms() - AGENT_HASTE_MS)
        if down_ms > 0:
            self.world.note(f"{host.host_id} agent dies")
            host.disturb()
            host.agent.die(notice_ms=2_000)
            host.in_this_boot(down_ms, host.start_agent)

    def _crash_coordinator(self) -> None:
        if self.world.coordinator.alive:
            for host in self.world.hosts:
                host.disturb()
            self.world.coordinator.crash()
            self.world.after(self._duration(COORDINATOR_DOWN_MS), self._coordinator_back)

    def _coordinator_back(self) -> None:
        if not self.world.coordinator.alive:
            for host in self.world.hosts:
                host.disturb()
            self.world.coordinator.start()

    def _power_cycle(self) -> None:
        host = self._any_host()
        if host.powered:
            host.power_off()
            boot = host.boot

            def power_on() -> None:
                if host.boot == boot:
                    host.power_on()

            self.world.after(self._duration(POWER_OFF_MS), power_on)
