"""One simulated machine: power, clock, containers, and the disk that the agent's ledger is on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.core.assignment import Desired, NodeKey
from agent.ledger.memory import MemoryLedger
from coordinator.core.ids import HostId
from tests.sim.knobs import SKEW_MAX
from tests.sim.sim_agent import SimAgent
from tests.sim.sim_coordinator import EPOCH_MS
from tests.sim.sim_engine import SimEngine
from tests.sim.sim_leases import SimLeases
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
        self.ledger = MemoryLedger()
        self.engine = SimEngine(world, self)
        self.leases = SimLeases(self)
        self.powered = False
        self.boot = 0
        self.boot_at_ms = 0
        self.agent: SimAgent | None = None
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
        """What its agent, whose goodbye was acknowledged, has left running; it is not back yet."""
        self.disturbed_at_ms = 0
        """When something last kept this host from doing what it was told at once."""

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
        self.world.note(f"{self.host_id} boots, boot {self.boot}")
        self.in_this_boot(self.world.delay(500), self.start_agent)

    def power_off(self) -> None:
        """Everything that runs on it is gone at once."""
        self.world.note(f"{self.host_id} loses power")
        self.disturb()
        self.powered = False
        self.changed_power_ms = self.world.now
        self.boot += 1
        self.engine.power_off()
        self.leases.power_off()
        if self.agent is not None:
            self.agent.die(notice_ms=30_000)

    def start_agent(self) -> None:
        if self.powered and (self.agent is None or not self.agent.alive):
            self.disturb()
            if self.goes_on:
                self.contact_ms = self.world.now  # leases run anew from its return
            self.agent = SimAgent(self.world, self)

    def is_stopping(self, key: NodeKey) -> bool:
        """Whether its agent, alive or not, was to stop the node for another reason than a lease."""
        slot = self.agent.machine.state.slots.get(key) if self.agent is not None else None
        return slot is not None and slot.desired is Desired.STOP and not slot.lease_over

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
        return list(self.ledger._slots)
