"""Faults: what operators, disks and images do to an agent's files and to its identity.

None of it may hurt a healthy job whose agent is back in time, and nothing may run twice whatever of
it comes. A directory that is moved with its files in it is the same directory to all who have them
open, so that only copies are played.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.core.hello import BEATS_TO_WAIT
from tests.sim.knobs import SETTINGS
from tests.sim.sim_agent import SimAgent
from tests.sim.sim_directory import SimDirectory
from tests.sim.sim_host import Clone

if TYPE_CHECKING:
    from tests.sim.sim_host import SimHost
    from tests.sim.world import World

BACK_MS = (50, 2_000, 15_000, 60_000, 400_000)
"""How soon an agent is started after its files have changed."""
AGES_MS = (500, 5_000, 40_000, 150_000)
"""How old the copy is that is brought back."""
CLONE_MS = (5_000, 60_000, 300_000)
SECOND_MS = (2_000, BEATS_TO_WAIT * SETTINGS.heartbeat_ms)


class Copies:
    def __init__(self, world: World) -> None:
        self.world = world
        self._uuids = 0

    def heal(self) -> None:
        for host in self.world.hosts:
            self._end_second(host)
        for clone in self.world.clones:
            self._end_clone(clone)

    def _duration(self, choices: tuple[int, ...]) -> int:
        return int(self.world.rng.choice(choices) * self.world.rng.uniform(0.5, 1.0))

    def _any_host(self) -> SimHost:
        return self.world.faults.any_host()

    @property
    def _may_strike(self) -> bool:
        """While an older journal is there, what hosts have seen has to stay as it was found."""
        return self.world.faults.active and not self.world.coordinator.is_mistaken

    def _wiped(self) -> SimDirectory:
        self._uuids += 1
        return SimDirectory(f"new agent {self._uuids}")

    # one agent, other files

    def change_directory(self) -> None:
        """Wiped, or copied to another place, or brought back from before, perhaps with the whole
        disk of its machine."""
        host = self._any_host()
        how = self.world.rng.choice(("wiped", "copied", "rolled back", "rolled back"))
        if how == "rolled back":
            copy = host.directory.copied()
            self.world.note(f"{host.name} data directory is backed up")
            age_ms = self._duration(AGES_MS)
            self.world.after(age_ms, lambda: self._begin_with(host, copy, "brought back"))
        elif how == "wiped":
            self._begin_with(host, self._wiped(), how)
        else:
            self._begin_with(host, None, how)

    def _begin_with(self, host: SimHost, directory: SimDirectory | None, how: str) -> None:
        if not (self._may_strike and host.powered) or host.second is not None:
            return
        self.world.note(f"{host.name} data directory is {how}")
        host.disturb()
        if host.agent is not None and host.agent.alive:
            host.agent.die(notice_ms=2_000)
        host.change_directory(directory or host.directory.copied())
        if how == "brought back":
            host.rolled_back_ms = self.world.now
        host.lose_output()
        if directory is not None and self.world.chance(0.3):
            host.engine.lose_records()
        if how == "brought back" and self.world.chance(0.3):
            host.power_off()
            host.power_on()
            return
        host.in_this_boot(self._duration(BACK_MS), host.start_agent)

    # one host id, two machines

    def start_clone(self) -> None:
        """From a golden image; it may know as little of its machine as an agent in a container."""
        host = self._any_host()
        if not self._may_strike or any(c.powered for c in self.world.clones):
            return
        clone = Clone(host, knows_its_machine=self.world.chance(0.6))
        self.world.clones.append(clone)
        clone.power_on()
        self.world.after(self._duration(CLONE_MS), lambda: self._end_clone(clone))

    def _end_clone(self, clone: Clone) -> None:
        if clone.powered:
            clone.power_off()

    # one machine, two agents

    def start_second(self) -> None:
        """With files of its own, and for less than its Hello has to wait: one that is believed
        when the first is silent for a while can look at the host before the first starts what it
        has in hand, and that is what the machine's lock is for."""
        host = self._any_host()
        known = self.world.coordinator.machine.state.hosts.get(host.host_id)
        if known is None or known.facts.agent_uuid != host.directory.agent_uuid:
            return  # it would be taken for the first, as it is the first to come
        if not self._may_strike or not host.powered or host.second is not None:
            return
        self.world.note(f"{host.name} second agent comes")
        boot = host.boot
        host.second = SimAgent(self.world, host, self._wiped())

        def end() -> None:
            if host.boot == boot:
                self._end_second(host)

        self.world.after(self._duration(SECOND_MS), end)

    def _end_second(self, host: SimHost) -> None:
        if host.second is not None:
            if host.second.alive:
                self.world.note(f"{host.second.name} is ended")
                host.second.die(notice_ms=2_000)
            host.second = None
