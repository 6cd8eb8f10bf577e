"""What goes wrong with machines, processes and cables, at random times until all heals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tests.sim.copies import Copies
from tests.sim.network import KEEPALIVE_MS
from tests.sim.older_journal import OlderJournal

if TYPE_CHECKING:
    from tests.sim.sim_agent import SimAgent
    from tests.sim.sim_host import SimHost
    from tests.sim.world import World

STALL_MS = (1_000, 20_000, 60_000)
CUT_MS = (2_000, 40_000, 70_000, 150_000, 300_000, 900_000)
PAUSE_MS = (2_000, 20_000, 60_000, 250_000)
FULL_MS = (5_000, 60_000, 200_000)
SLOW_MS = (10_000, 60_000, 200_000)
DAY_MS = 86_400_000
CLOCK_STEPS_MS = (-DAY_MS, -3_600_000, -2_000, 2_000, 3_600_000, DAY_MS, 9 * DAY_MS)
HOST_CLOCK_STEPS_MS = (-2 * DAY_MS, -7_200_000, -2_000, 2_000, 7_200_000, 2 * DAY_MS)
"""Never by as much as the coordinator's: two clocks that agree are believed."""
RIGHTED_MS = 3_000
"""How soon a clock that was wrong at the start is put right, as time synchronisation does."""
COORDINATOR_DOWN_MS = (100, 5_000, 50_000, 250_000)
AGENT_DOWN_MS = (50, 5_000, 60_000, 400_000)
AGENT_STOPPED_MS = (5_000, 60_000, 400_000)
AGENT_HANGS_MS = (2_000, 40_000, 150_000, 400_000)
"""Longer than any lease but that of a last attempt."""
POWER_OFF_MS = (3_000, 40_000, 250_000)
PAUSE_SLACK_MS = 20_000
"""What a coordinator that goes on needs until all that has waited is taken in and answered."""


class Faults:
    def __init__(self, world: World) -> None:
        self.world = world
        self.active = True
        self._older_journal = OlderJournal(world)
        self._copies = Copies(world)

    def begin(self) -> None:
        knobs = self.world.knobs
        for every_ms, fault in (
            (knobs.drop_every_ms, self._drop),
            (knobs.stall_every_ms, self._stall),
            (knobs.cut_every_ms, self._cut),
            (knobs.agent_crash_every_ms, self._crash_agent),
            (knobs.agent_stop_every_ms, self._stop_agent),
            (knobs.agent_hang_every_ms, self._hang_agent),
            (knobs.coordinator_crash_every_ms, self.restart_coordinator),
            (knobs.pause_every_ms, self._pause_coordinator),
            (knobs.slow_commit_every_ms, self._slow_commits),
            (knobs.clock_step_every_ms, self._step_clock),
            (knobs.full_disk_every_ms, self._fill_disk),
            (knobs.power_every_ms, self._power_cycle),
            (knobs.log_break_every_ms, self._break_log),
            (knobs.older_journal_every_ms, self._older_journal.strike),
            (knobs.directory_every_ms, self._copies.change_directory),
            (knobs.clone_every_ms, self._copies.start_clone),
            (knobs.second_agent_every_ms, self._copies.start_second),
        ):
            if every_ms is not None:
                self._again(every_ms, fault)

    def heal(self) -> None:
        """No new faults; what is down comes back within a moment."""
        self.active = False
        self._older_journal.heal()
        self._copies.heal()
        coordinator = self.world.coordinator
        coordinator.wall_ahead_ms = coordinator.slow_until_ms = 0
        coordinator.journal.make_room()
        self.disturb_all()
        coordinator.unpause()
        if not coordinator.alive:
            self._coordinator_back()
        for host in self.world.hosts:
            host.wall_ahead_ms = 0
            host.cut_until_ms = 0
            if not host.powered:
                host.power_on()
            elif host.agent is None or not host.agent.alive:
                host.in_this_boot(100, host.start_agent)
            elif host.agent.hangs:
                self._wake_agent(host.agent)

    def _again(self, every_ms: int, fault: Callable[[], None]) -> None:
        def strike() -> None:
            if self.active:
                fault()
                self._again(every_ms, fault)

        self.world.after(int(self.world.rng.expovariate(1 / every_ms)) + 1, strike)

    def _duration(self, choices: tuple[int, ...]) -> int:
        return int(self.world.rng.choice(choices) * self.world.rng.uniform(0.5, 1.0))

    def any_host(self) -> SimHost:
        """Mostly one that has work: nothing much goes wrong with the others."""
        busy = [host for host in self.world.hosts if host.engine.containers]
        return self.world.rng.choice(busy if busy and self.world.chance(0.7) else self.world.hosts)

    def _drop(self) -> None:
        """A connection breaks; what is in flight is lost."""
        host = self.any_host()
        if host.agent is not None and host.agent.session is not None:
            self.world.note(f"{host.host_id} connection breaks")
            host.disturb()
            host.agent.session.break_off(notice_ms=self.world.rng.choice((100, 30_000)))

    def _stall(self) -> None:
        """Nothing gets through for a while, and nothing is lost."""
        host = self.any_host()
        until_ms = self.world.now + self._duration(STALL_MS)
        host.stalled_until_ms = max(host.stalled_until_ms, until_ms)
        self.world.note(f"{host.host_id} stalls until {host.stalled_until_ms / 1000:.3f}")
        host.disturb(host.stalled_until_ms)

    def _cut(self) -> None:
        """Some hosts are cut off for a while, perhaps for longer than a lease."""
        until_ms = self.world.now + self._duration(CUT_MS)
        rng, hosts = self.world.rng, self.world.hosts
        chosen = [self.any_host()] if rng.random() < 0.6 else rng.sample(hosts, len(hosts) // 2)
        for host in chosen:
            self.world.note(f"{host.host_id} is cut off until {until_ms / 1000:.3f}")
            host.cut_until_ms = until_ms
            host.disturb(until_ms)
            if host.agent is not None and host.agent.session is not None:
                host.agent.session.break_off(notice_ms=30_000)

    def _crash_agent(self) -> None:
        """The process alone, perhaps for longer than a lease."""
        host = self.any_host()
        if host.agent is not None and host.agent.alive:
            self.world.note(f"{host.host_id} agent dies")
            host.disturb()
            host.agent.die(notice_ms=2_000)
            host.in_this_boot(self._duration(AGENT_DOWN_MS), host.start_agent)

    def _hang_agent(self) -> None:
        """As by SIGSTOP, perhaps for longer than a lease."""
        host = self.any_host()
        agent = host.agent
        if agent is None or not agent.alive or agent.hangs:
            return
        hangs_ms = self._duration(AGENT_HANGS_MS)
        self.world.note(f"{host.host_id} agent hangs for {hangs_ms / 1000:.3f} s")
        host.disturb(self.world.now + hangs_ms + PAUSE_SLACK_MS)
        agent.hang()
        self.world.after(hangs_ms, lambda: self._wake_agent(agent))

    def _wake_agent(self, agent: SimAgent) -> None:
        if agent.alive and agent.hangs:
            self.world.note(f"{agent.host.host_id} agent goes on")
            agent.wake()

    def _stop_agent(self) -> None:
        """In order, as an operator does."""
        host = self.any_host()
        if host.agent is not None and host.agent.alive:
            self.world.note(f"{host.host_id} agent is stopped")
            host.disturb()
            host.agent.stop()

    def agent_left(self, host: SimHost, *, acknowledged: bool) -> None:
        self.world.note(f"{host.host_id} agent leaves{', which is known' * acknowledged}")
        host.disturb()
        down_ms = self._duration(AGENT_STOPPED_MS)
        host.in_this_boot(down_ms if self.active else 100, host.start_agent)

    def disturb_all(self, until_ms: int = 0) -> None:
        for host in self.world.hosts:
            host.disturb(until_ms)

    def restart_coordinator(self) -> None:
        """Its process dies, perhaps with its machine, and comes back after a while."""
        if self.world.coordinator.alive:
            self.disturb_all()
            self.world.coordinator.crash(reboot=self.world.chance(0.3))
            self.world.after(self._duration(COORDINATOR_DOWN_MS), self._coordinator_back)

    def _coordinator_back(self) -> None:
        coordinator = self.world.coordinator
        if coordinator.alive:
            return
        self.disturb_all()
        if self.active and self.world.chance(self.world.knobs.wrong_at_start):
            coordinator.wall_ahead_ms = self.world.rng.choice(CLOCK_STEPS_MS)
            self.world.note(
                f"coordinator's clock is {coordinator.wall_ahead_ms / 1000:.0f} s ahead"
            )
            self.world.after(RIGHTED_MS, self._right_clock)
        coordinator.start()

    def _right_clock(self) -> None:
        self.world.note("coordinator's clock is right")
        self.world.coordinator.wall_ahead_ms = 0

    def _pause_coordinator(self) -> None:
        """Nothing of it goes on for a while, and nothing that is sent to it is lost. Agents whose
        pings nobody answers leave their connections."""
        coordinator = self.world.coordinator
        if not coordinator.alive or coordinator.paused:
            return
        pause_ms = self._duration(PAUSE_MS)
        self.world.note(f"coordinator is paused for {pause_ms / 1000:.3f} s")
        self.disturb_all(self.world.now + pause_ms + PAUSE_SLACK_MS)
        coordinator.pause()
        pauses = coordinator.pauses

        def if_still(callback: Callable[[], None]) -> None:
            if coordinator.paused and coordinator.pauses == pauses:
                callback()

        for host in self.world.hosts:
            session = host.agent.session if host.agent is not None else None
            if session is not None and self.world.chance(0.5):
                patience_ms = self.world.rng.randint(KEEPALIVE_MS // 2, KEEPALIVE_MS)
                self.world.after(patience_ms, partial(if_still, session.unanswered))
        self.world.after(pause_ms, partial(if_still, self._wake_coordinator))

    def _wake_coordinator(self) -> None:
        self.world.note("coordinator goes on")
        self.world.coordinator.unpause()

    def _slow_commits(self) -> None:
        """The disk is slow: the loop runs and the inbox grows while a commit goes on."""
        coordinator = self.world.coordinator
        coordinator.slow_until_ms = self.world.now + self._duration(SLOW_MS)
        self.world.note(f"commits are slow until {coordinator.slow_until_ms / 1000:.3f}")
        self.disturb_all(coordinator.slow_until_ms + PAUSE_SLACK_MS)

    def _fill_disk(self) -> None:
        """The coordinator's disk is full for a while, with room for a few steps in reserve."""
        full_ms, reserve = self._duration(FULL_MS), self.world.rng.choice((0, 1, 20))
        self.world.note(f"disk is full for {full_ms / 1000:.3f} s, reserve {reserve}")
        self.world.coordinator.journal.fill(reserve)
        self.disturb_all(self.world.now + full_ms)

        def make_room() -> None:
            self.world.note("disk has room")
            self.world.coordinator.journal.make_room()

        self.world.after(full_ms, make_room)

    def _break_log(self) -> None:
        """A delivery of output breaks, and its connection does not; or a reader's own line does."""
        streams = [
            stream
            for host in self.world.hosts
            if host.agent is not None and host.agent.session is not None
            for stream in host.agent.session.streams.values()
        ]
        if streams and self.world.chance(0.7):
            stream = self.world.rng.choice(streams)
            self.world.note(f"{stream.host.host_id} delivery of {stream.key.name} breaks")
            stream.break_off(notice_ms=self.world.rng.choice((100, 30_000)))
        elif self.world.readers.reading:
            self.world.rng.choice(list(self.world.readers.reading)).hang_up()

    def _step_clock(self) -> None:
        """Somebody sets a wall clock, wrong or right."""
        rng = self.world.rng
        if rng.random() < 0.6:
            ahead_ms = rng.choice((0, *CLOCK_STEPS_MS))
            self.world.note(f"coordinator's clock is {ahead_ms / 1000:.0f} s ahead")
            self.world.coordinator.wall_ahead_ms = ahead_ms
        else:
            host, ahead_ms = self.any_host(), rng.choice((0, *HOST_CLOCK_STEPS_MS))
            self.world.note(f"{host.host_id} clock is {ahead_ms / 1000:.0f} s ahead")
            host.wall_ahead_ms = ahead_ms

    def _power_cycle(self) -> None:
        host = self.any_host()
        if host.powered:
            host.power_off()
            boot = host.boot

            def power_on() -> None:
                if host.boot == boot:
                    host.power_on()

            self.world.after(self._duration(POWER_OFF_MS), power_on)
