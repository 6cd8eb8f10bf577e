"""An agent's machine whose engine, coordinator and clock are the test."""

from __future__ import annotations

from typing import TypeVar

from agent.core import effects as f
from agent.core import inputs as i
from agent.core.assignment import Assignment, ContainerSpec, Desired, NodeKey, Progress
from agent.core.machine import Machine
from agent.core.state import Slot
from agent.ledger.codec import decode, encode

T = TypeVar("T")
KEY = NodeKey(job_id="job", attempt=1, node_index=0)
OTHER = NodeKey(job_id="job", attempt=2, node_index=0)
SPEC = ContainerSpec(image="busybox", command=("run",), environment=(), vcpus=1, memory_mib=64)
LEASE_SECONDS = 600


class Bench:
    """One agent whose engine and coordinator are the test."""

    def __init__(self, *slots: Slot, now: int = 1_000_000, contact: int | None = None) -> None:
        self.now = now
        self.machine = Machine(slots, now if contact is None else contact)
        self.effects: list[f.Effect] = []
        self.generation = 0
        self.ledger: dict[NodeKey, str] = {slot.key: encode(slot) for slot in slots}

    def do(self, given: i.Input) -> list[f.Effect]:
        before = {key: slot.progress for key, slot in self.machine.state.slots.items()}
        self.effects = self.machine.step(given, self.now)
        for effect in self.effects:
            if isinstance(effect, f.KeepSlot):
                self.ledger[effect.slot.key] = encode(effect.slot)
            elif isinstance(effect, f.ForgetSlot):
                self.ledger.pop(effect.key, None)
        for key, slot in self.machine.state.slots.items():
            assert slot.progress >= before.get(key, slot.progress), "progress went back"
        return self.effects

    def asked(self) -> list[str]:
        """What the engine is asked for by the last step."""
        verbs = (f.Prepare, f.CancelPrepare, f.Start, f.Wait, f.Stop, f.EndLease, f.Remove)
        return [type(effect).__name__ for effect in self.effects if isinstance(effect, verbs)]

    def found(self, kind: type[T]) -> list[T]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def reported(self) -> list[Progress]:
        return [slot.progress for report in self.found(f.Report) for slot in report.slots]

    def slot(self, key: NodeKey = KEY) -> Slot:
        return self.machine.state.slots[key]

    # life

    def begin(self, *managed: i.Found, rebooted: bool = False) -> None:
        self.do(i.Started(managed=managed, rebooted=rebooted, wall_ms=7))

    def connect(self) -> None:
        self.do(i.HeartbeatSent(seq=i.HELLO_SEQ, at_ms=self.now))
        self.do(i.LinkUp())
        self.generation = 0

    def assign(
        self, *wanted: tuple[NodeKey, Desired], lease: int = LEASE_SECONDS, hold: bool = False
    ) -> None:
        self.generation += 1
        self.do(
            i.AssignmentsReceived(
                generation=self.generation,
                assignments=tuple(
                    Assignment(
                        key=key,
                        desired=desired,
                        spec=None if desired is Desired.STOP else SPEC,
                        stop_grace_seconds=30,
                        lease_seconds=lease,
                        hold=hold,
                    )
                    for key, desired in wanted
                ),
            )
        )

    def wait(self, ms: int) -> list[str]:
        """Let time pass, tick by tick; returns what the engine was asked for."""
        end, asked = self.now + ms, []
        while (deadline := self.machine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.do(i.Tick())
            asked += self.asked()
        self.now = end
        return asked

    def run(self) -> None:
        """Connected, and the container is up."""
        self.assign((KEY, Desired.PREPARE))
        self.do(i.Prepared(key=KEY))
        self.assign((KEY, Desired.RUN))
        self.do(i.StartedUp(key=KEY, started_at_ms=5, private_ipv4="10.0.0.1"))

    def restarted(self, contact: int | None = None) -> Bench:
        """Another process with what the ledger holds, of the newest contact too."""
        return Bench(*map(decode, self.ledger.values()), now=self.now + 1_000, contact=contact)
