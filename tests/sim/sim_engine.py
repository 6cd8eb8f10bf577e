"""The containers of one simulated host, behind verbs that keep the engine port's contract.

Verbs take time and may fail; containers belong to the engine and not to the agent, so they live on
when it dies. A start that was under way when the agent died has happened or it has not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agent.core import effects as f
from agent.core import inputs as i
from agent.core.assignment import ContainerSpec, Gang, NodeKey
from agent.core.marks import Marks
from agent.engine.port import Managed, Started
from tests.sim.sim_leases import LEASE_IS_OVER, Holder
from tests.sim.sim_spool import SimSpool

if TYPE_CHECKING:
    from tests.sim.sim_agent import SimAgent
    from tests.sim.sim_host import SimHost
    from tests.sim.world import World

GONE = "CannotConnectToEngineError: the engine does not answer"
BAD_IMAGE = "CannotPullContainerError: no such image"


@dataclass(slots=True)
class Container:
    key: NodeKey
    spec: ContainerSpec
    address: str
    started_at_ms: int
    gang: Gang | None
    held: bool
    """Its command waits."""
    marks: Marks
    obeys_ms: int | None
    """How long after SIGTERM it ends; None when it waits for SIGKILL."""
    stop_failures: int
    remove_failures: int
    holder: Holder | None = None
    lease_ended: bool = False
    exit_code: int | None = None
    reason: str = ""
    ended_at_ms: int = 0
    waiters: list[Callable[[], None]] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return not self.ended_at_ms


class SimEngine:
    def __init__(self, world: World, host: SimHost) -> None:
        self.world = world
        self.host = host
        self.containers: dict[NodeKey, Container] = {}
        self._births: dict[NodeKey, tuple[SimAgent, Callable[[], None]]] = {}
        self._count = 0

    def _pause(self) -> int:
        """Bounded, since a lease's margin has to cover a verb that is in hand when it ends."""
        return int(self.world.rng.random() * 2 * self.world.knobs.engine_ms)

    def _fails(self, probability: float) -> bool:
        if self.world.faults.active and self.world.chance(probability):
            self.host.disturb()
            return True
        return False

    # what happens to the machine

    def power_off(self) -> None:
        for container in self.containers.values():
            if container.running:
                self._note(container, "is gone with its machine")
                container.ended_at_ms = self.host.wall()
        self.containers.clear()
        self._births.clear()

    def agent_died(self, agent: SimAgent) -> None:
        """What it was starting has started, or never will."""
        for key, (by, birth) in list(self._births.items()):
            if by is agent:
                if self.world.chance(0.5):
                    birth()
                self._births.pop(key, None)

    def _note(self, container: Container, what: str) -> None:
        self.world.note(f"{self.host.name} container {container.key.name} {what}")

    # verbs: each calls `answer` with the next input of the agent `by`, if it lives that long

    def prepare(self, effect: f.Prepare, answer: Callable[[i.Input], None]) -> None:
        address = ""
        if self.world.knobs.own_addresses:
            self._count += 1
            address = f"10.1.{self.host.number}.{self._count}"
        given: i.Input = i.Prepared(key=effect.key, private_ipv4=address)
        if effect.spec.image == "bad":
            given = i.PrepareFailed(key=effect.key, reason=BAD_IMAGE, permanent=True)
        elif self._fails(self.world.knobs.refuse):
            given = i.PrepareFailed(key=effect.key, reason="no space left", permanent=False)
        self.host.in_this_boot(
            self.world.delay(2 * self.world.knobs.engine_ms), lambda: answer(given)
        )

    def start(self, effect: f.Start, by: SimAgent) -> None:
        key, answer = effect.key, by.take
        answers = not self._fails(self.world.knobs.engine_gone)
        is_hole = self.host.black_hole and self.world.faults.active
        fails = key not in self.containers and (
            self._fails(self.world.knobs.start_fails) or is_hole
        )

        def reply() -> None:
            if fails and answers:
                reason = "CannotStartContainerError: no such program"
            elif not answers:
                reason = GONE
            else:
                container = self.containers.get(key)
                if container is None and self._is_over(key, by):
                    self.world.promises.blame.start_refused(self.host, key)
                    answer(self._start_failed(key, LEASE_IS_OVER))
                    return
                if container is None:
                    return  # the agent died meanwhile, and so did its start
                answer(
                    i.StartedUp(
                        key=key,
                        started_at_ms=container.started_at_ms,
                        private_ipv4=container.address,
                    )
                )
                return
            permanent = is_hole and self.world.knobs.black_holes_permanent
            answer(self._start_failed(key, reason, uncertain=not answers, permanent=permanent))

        def birth() -> None:
            if self._births.pop(key, None) is not None and not fails:
                self._give_birth(effect, by)

        first_ms = self._pause() // 2
        if answers or self.world.chance(0.5):
            self._births[key] = by, birth
            self.host.in_this_boot(first_ms, birth)
        self.host.in_this_boot(first_ms + self._pause() // 2, reply)

    def _start_failed(
        self, key: NodeKey, reason: str, *, uncertain: bool = False, permanent: bool = False
    ) -> i.StartFailed:
        return i.StartFailed(
            key=key,
            reason=reason,
            uncertain=uncertain,
            wall_ms=self.host.wall(),
            not_started=not uncertain,
            permanent=permanent,
        )

    def _is_over(self, key: NodeKey, by: SimAgent) -> bool:
        return by.directory.leases.is_over(key.name, self.host.clock())

    def _give_birth(self, effect: f.Start, by: SimAgent) -> None:
        key = effect.key
        if key in self.containers or self._is_over(key, by):
            return
        rng, knobs = self.world.rng, self.world.knobs
        unclean = self.world.faults.active and self.world.chance(knobs.unclean)
        container = Container(
            key=key,
            spec=effect.spec,
            address=effect.spec.address,
            started_at_ms=self.host.wall(),
            gang=effect.gang,
            held=effect.hold,
            marks=by.marks(effect),
            obeys_ms=rng.choice((0, 500, 5_000, None)),
            stop_failures=rng.randint(0, 1) if unclean else 0,
            remove_failures=rng.randint(0, 4) if unclean else 0,
        )
        self.containers[key] = container
        container.holder = Holder(self.host, container, by.directory.leases.file(key.name))
        self.host.spools[key] = SimSpool(key)
        self._note(container, "starts")
        self.world.promises.container_started(self.host, container)
        if not container.held:
            self._run_command(container)

    def _run_command(self, container: Container) -> None:
        rng, knobs = self.world.rng, self.world.knobs
        self.world.promises.command_started(container)
        life_ms = rng.choice((50, knobs.life_ms, 2 * knobs.life_ms))
        code = rng.choice((0, 0, 0, 1, 137))
        reason = "OutOfMemoryError: Container killed due to memory usage" if code == 137 else ""
        life = int(rng.random() * life_ms) + 1
        for _ in range(rng.choice((0, 2, 6))):
            self.host.in_this_boot(int(rng.random() * life), lambda: self._write(container))
        self.host.in_this_boot(life, lambda: self._end(container, code, reason, by_itself=True))

    def _write(self, container: Container) -> None:
        if container.running:
            self.host.spools[container.key].write(self.world.rng.randint(1, 12))

    def lift(self, effect: f.Lift, answer: Callable[[i.Input], None]) -> None:
        def reply() -> None:
            if self._fails(self.world.knobs.engine_gone):
                answer(i.LiftFailed(key=effect.key, reason=GONE))
                return
            container = self.containers.get(effect.key)
            if container is not None and container.held and container.running:
                container.held = False
                self._note(container, "may go on")
                self._run_command(container)
            answer(i.Lifted(key=effect.key))

        self.host.in_this_boot(self._pause() // 4, reply)

    def _end(
        self, container: Container, exit_code: int, reason: str = "", *, by_itself: bool = False
    ) -> None:
        if not container.running:
            return
        container.exit_code, container.reason = exit_code, reason
        container.ended_at_ms = self.host.wall()
        if by_itself:
            self.world.promises.blame.ended_by_itself(container)
        self.host.spools[container.key].finish()
        self._note(container, f"ends with {exit_code}")
        waiters, container.waiters = container.waiters, []
        for waiter in waiters:
            waiter()

    def wait(self, effect: f.Wait, answer: Callable[[i.Input], None]) -> None:
        container = self.containers.get(effect.key)
        if self._fails(self.world.knobs.engine_gone):
            failed = i.WaitFailed(key=effect.key, reason=GONE)
            self.host.in_this_boot(self._pause(), lambda: answer(failed))
            return
        if container is None:
            # A removal that the agent before had begun was done after this agent had looked.
            unseen = i.Ended(
                key=effect.key, exit_code=None, reason="gone", stopped_at_ms=self.host.wall()
            )
            self.host.in_this_boot(self._pause(), lambda: answer(unseen))
            return

        def reply() -> None:
            ended = i.Ended(
                key=effect.key,
                exit_code=container.exit_code,
                reason=container.reason,
                stopped_at_ms=container.ended_at_ms,
                lease_ended=container.lease_ended,
            )
            self.host.in_this_boot(self._pause() // 4, lambda: answer(ended))

        if container.running:
            container.waiters.append(reply)
        else:
            reply()

    def end_lease(self, effect: f.EndLease, by: SimAgent) -> None:
        container = self.containers.get(effect.key)
        if container is not None and container.running:
            self._mark(container)
        self.stop(effect, by)

    def end_by_lease(self, container: Container, grace_ms: int) -> None:
        """Its holder does this, without the agent and past an engine that fails."""
        if not container.running:
            return
        self._mark(container)
        self._note(container, "gets SIGTERM of its holder")
        self._obey(container, grace_ms)
        self.host.in_this_boot(grace_ms, lambda: self._end(container, 137))

    def _mark(self, container: Container) -> None:
        if not container.lease_ended:
            container.lease_ended = True
            # What is being stopped has no new lease, and no other end by the old one.
            if container.key not in self.host.to_stop:
                self.world.promises.blame.ended_by_lease(self.host, container.key)

    def _obey(self, container: Container, grace_ms: int) -> None:
        """It got SIGTERM, and ends before SIGKILL or does not."""
        if container.obeys_ms is not None and container.obeys_ms < grace_ms:
            code = self.world.rng.choice((143, 143, 0))
            self.host.in_this_boot(container.obeys_ms, lambda: self._end(container, code))

    def stop(self, effect: f.Stop | f.EndLease, by: SimAgent) -> None:
        container = self.containers.get(effect.key)

        def stopped() -> None:
            by.take(i.Stopped(key=effect.key, wall_ms=self.host.wall()))

        if container is None or not container.running:
            self.host.in_this_boot(self._pause(), stopped)
            return
        if container.stop_failures:
            container.stop_failures -= 1
            self.host.disturb()
            failed = i.StopFailed(key=effect.key, reason=GONE)
            self.host.in_this_boot(self._pause(), lambda: by.take(failed))
            return
        self._note(container, "gets SIGTERM")
        self.world.promises.is_ended_by(by, container)
        container.waiters.append(lambda: self.host.in_this_boot(self._pause() // 4, stopped))
        grace_ms = 1000 * effect.grace_seconds

        def kill() -> None:
            if by.alive:
                by.when_awake(lambda: self._end(container, 137))

        self._obey(container, grace_ms)
        self.host.in_this_boot(grace_ms, kill)

    def remove(self, effect: f.Remove, by: SimAgent) -> None:
        answer = by.take

        def reply() -> None:
            container = self.containers.get(effect.key)
            if container is not None and container.remove_failures and self.world.faults.active:
                container.remove_failures -= 1
                self.host.disturb()
                answer(i.RemoveFailed(key=effect.key, reason="pid 77 (python3) survives"))
                return
            if container is not None:
                if container.running:
                    self.world.promises.is_ended_by(by, container)
                self._end(container, 137)
                del self.containers[effect.key]
            by.directory.leases.remove(effect.key.name)
            if effect.key in self.host.spools:
                self.host.spools[effect.key].finish()
            answer(i.Removed(key=effect.key))

        self.host.in_this_boot(self._pause(), reply)

    def managed(self, by: SimAgent) -> tuple[Managed, ...]:
        """All that is here, whosever it is; whoever has lost sight of a lease finds its file."""
        for container in self.containers.values():
            if container.holder is not None and container.running:
                by.directory.leases.find(container.key.name, container.holder)
        return tuple(
            Managed(
                key=key,
                started=Started(
                    container_id=key.name,
                    started_at_ms=found.started_at_ms,
                    private_ipv4=found.address,
                ),
                running=found.running,
                marks=found.marks,
            )
            for key, found in sorted(self.containers.items())
        )

    def remember(self, other_host: SimHost) -> None:
        """As ended: its records are on a disk that was copied from where they ran."""
        for other in other_host.engine.containers.values():
            ended_at_ms = other.ended_at_ms or self.host.wall()
            self.containers[other.key] = replace(
                other, ended_at_ms=ended_at_ms, exit_code=other.exit_code, holder=None, waiters=[]
            )
            self.host.spools[other.key] = other_host.spools[other.key].copied()

    def lose_records(self) -> None:
        """What was known of ended containers was in a directory that is gone."""
        for key in [key for key, found in self.containers.items() if not found.running]:
            del self.containers[key]
