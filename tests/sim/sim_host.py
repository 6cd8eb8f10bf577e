"""One simulated machine: power, clock, containers, and the disk that the agent's ledger is on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.core.assignment import NodeKey
from agent.host.machine import MachineId
from coordinator.core.ids import HostId
from tests.sim.knobs import SKEW_MAX
from tests.sim.sim_agent import SimAgent
from tests.sim.sim_coordinator import EPOCH_MS
from tests.sim.sim_directory import SimDirectory
from tests.sim.sim_engine import SimEngine
from tests.sim.sim_spool import SimSpool

if TYPE_CHECKING:
    from tests.sim.world import World


class SimHost:
    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.host_id = HostId(f"h{number}")
        self.instance_type = "large" if number % world.knobs.types == 0 else "small"
        self.vcpus = 8 if self.instance_type == "large" else 4
        self.address = f"10.0.0.{number + 1}"
        self.rate = 1 + world.rng.uniform(-SKEW_MAX, SKEW_MAX)
        self.name = str(self.host_id)
        """For the story: clones have the same host id."""
        self.machine = machine(self.name)
        self.directory = SimDirectory(f"agent of {self.name}")
        self.engine = SimEngine(world, self)
        self.powered = False
        self.boot = 0
        self.boot_at_ms = 0
        self.agent: SimAgent | None = None
        self.second: SimAgent | None = None
        """Another one of the same host id, which the machine's lock has not kept away."""
        self.rolled_back_ms = -1
        """When its agent's files were last replaced by an older copy."""
        self.told_to_stop: dict[NodeKey, None] = {}
        """Whose end a coordinator that knows the host has asked for."""
        self.changed_directory_ms = -1
        """When an agent last began with other files than the one before."""
        self.wall_ahead_ms = 0
        """How far what its clock shows is ahead of the truth."""
        self.black_hole = number >= world.knobs.hosts - world.knobs.black_holes
        """No container starts here until all heals."""
        self.changed_power_ms = 0
        self.contact_ms = 0
        """When the newest message was sent of which the agent knows that it arrived."""
        self.tails_read: dict[NodeKey, bool] = {}
        self.spools: dict[NodeKey, SimSpool] = {}
        self.stalled_until_ms = 0
        self.woke_at_ms = 0
        """When its agent last went on, having hung."""
        self.cut_until_ms = 0
        self.goes_on: list[NodeKey] = []
        """What its agent, whose goodbye was acknowledged, has left running; the coordinator has not
        heard that it is back."""
        self.leases_rest = False
        """Since that goodbye, until its agent starts again."""
        self.to_stop: dict[NodeKey, None] = {}
        """What an agent was to stop for another reason than a lease; the next may not know."""
        self.disturbed_at_ms = 0
        """When something last kept this host from doing what it was told at once."""

    @property
    def boot_id(self) -> str:
        return f"{self.name}-boot-{self.boot}"

    @property
    def agents(self) -> list[SimAgent]:
        """Those that live."""
        both = (self.agent, self.second)
        return [agent for agent in both if agent is not None and agent.alive]

    def clock(self) -> int:
        """Monotonic, from the boot, a little fast or slow."""
        return int((self.world.now - self.boot_at_ms) * self.rate)

    def wall(self) -> int:
        return EPOCH_MS + self.world.now + self.wall_ahead_ms

    def world_time(self, clock_ms: int) -> int:
        """When the clock shows `clock_ms`."""
        return self.boot_at_ms + int(clock_ms / self.rate) + 1

    def in_this_boot(self, delay_ms: int, callback: Callable[[], None]) -> None:
        boot = self.boot
        self.world.after(delay_ms, lambda: callback() if self.boot == boot else None)

    def disturb(self, until_ms: int = 0) -> None:
        self.disturbed_at_ms = max(self.disturbed_at_ms, self.world.now, until_ms)

    def session_id(self) -> str | None:
        session = self.agent.session if self.agent is not None else None
        return session.session_id if session is not None else None

    def beating_since_ms(self) -> int | None:
        """Since when all that its agent sends gets through; None when it does not."""
        agent = self.agent
        session = agent.session if agent is not None and agent.alive else None
        if agent is None or agent.hangs or session is None or session.cut:
            return None
        if self.world.now < self.stalled_until_ms:
            return None
        return max(session.opened_at_ms, self.stalled_until_ms, self.woke_at_ms)

    def reads_tail(self, key: NodeKey) -> bool:
        """A spool that cannot be read costs output, never a report."""
        return self.tails_read.setdefault(key, not self.world.chance(self.world.knobs.tail_lost))

    def power_on(self) -> None:
        self.powered = True
        self.boot += 1
        self.boot_at_ms = self.changed_power_ms = self.contact_ms = self.world.now
        self.disturb()
        self.world.note(f"{self.name} boots, boot {self.boot}")
        self.in_this_boot(self.world.delay(500), self.start_agent)

    def power_off(self) -> None:
        """Everything that runs on it is gone at once."""
        self.world.note(f"{self.name} loses power")
        self.disturb()
        self.powered = False
        self.changed_power_ms = self.world.now
        self.boot += 1
        self.engine.power_off()
        for agent in self.agents:
            agent.die(notice_ms=30_000)

    def start_agent(self) -> None:
        if self.powered and (self.agent is None or not self.agent.alive):
            self.disturb()
            if self.leases_rest:
                self.leases_rest = False
                self.contact_ms = self.world.now  # they run anew from its return
            self.agent = SimAgent(self.world, self, self.directory)

    def agent_failed(self, agent: SimAgent) -> None:
        """It has ended by itself, and is started again."""
        if agent is self.agent:
            self.in_this_boot(1_000, self.start_agent)

    def change_directory(self, directory: SimDirectory) -> None:
        """The next start of the agent is with these files."""
        self.directory = directory
        self.changed_directory_ms = self.world.now

    def lose_output(self) -> None:
        """Of what has ended: it was in the directory."""
        for key in self.spools:
            if not self.runs(key):
                self.tails_read[key] = False

    def runs(self, key: NodeKey) -> bool:
        container = self.engine.containers.get(key)
        return container is not None and container.running

    def unrest(self) -> list[str]:
        if self.agent is None or not self.agent.alive:
            return [f"{self.host_id} has no agent"]
        session = self.agent.session
        deliveries = session.streams if session is not None else {}
        return [
            *(f"{self.host_id} delivers {request_id}" for request_id in deliveries),
            *(f"{self.host_id} has the container {key.name}" for key in self.engine.containers),
            *(f"{self.host_id} keeps {name}" for name in self.ledger_slots()),
            *(f"{self.host_id} knows {key.name}" for key in self.agent.machine.state.slots),
        ]

    def ledger_slots(self) -> list[str]:
        return list(self.directory.ledger._slots)


def machine(name: str, *, os_id: str = "") -> MachineId:
    """That of a name; a clone has the `os_id` of another."""
    return MachineId(
        os_id=os_id or f"os of {name}",
        product_uuid=f"product of {name}",
        mac_addresses=(f"mac of {name}",),
    )


UNKNOWN = MachineId(os_id="", product_uuid="", mac_addresses=())
"""An agent in a container may not know where it runs."""


class Clone(SimHost):
    """A copy of a host's disk, started as another machine: the same host id, machine-id and files,
    and what the engine remembers of containers that never ran here."""

    def __init__(self, original: SimHost, *, knows_its_machine: bool) -> None:
        super().__init__(original.world, original.number)
        self.name = f"clone {len(original.world.clones)} of {original.host_id}"
        self.machine = UNKNOWN
        if knows_its_machine:
            self.machine = machine(self.name, os_id=original.machine.os_id)
        self.address = f"10.0.9.{original.number + 1}"
        self.black_hole = original.black_hole
        self.directory = original.directory.copied()
        self.engine.remember(original)
