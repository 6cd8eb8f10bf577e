"""People: they submit, cancel, terminate, drain, resume, and fence only what is certainly off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from coordinator.core import inputs as i
from coordinator.core.container import ContainerProperties, ResourceRequirement, ResourceType
from coordinator.core.definition import (
    DefinitionType,
    EvaluateOnExit,
    JobDefinition,
    JobDependency,
    JobTimeout,
    NodeOverrides,
    NodeProperties,
    NodeRange,
    RetryStrategy,
    StartBarrier,
    Submission,
)
from coordinator.core.errors import InvalidArgument, NoRoom, Rejected
from coordinator.core.ids import JobId

if TYPE_CHECKING:
    from tests.sim.world import World

PATIENCE_MS = 20_000


def _container(vcpus: int, image: str = "good") -> ContainerProperties:
    return ContainerProperties(
        image=image,
        resource_requirements=(
            ResourceRequirement(type=ResourceType.VCPU, value=str(vcpus)),
            ResourceRequirement(type=ResourceType.MEMORY, value="64"),
        ),
    )


def _gang(name: str, main_node: int, **ranges: ContainerProperties) -> JobDefinition:
    spans = {"all": "0:", "first": "0", "rest": "1:"}
    return JobDefinition(
        job_definition_name=name,
        type=DefinitionType.MULTINODE,
        node_properties=NodeProperties(
            num_nodes=2,
            main_node=main_node,
            node_range_properties=tuple(
                NodeRange(target_nodes=spans[span], container=container)
                for span, container in ranges.items()
            ),
        ),
    )


DEFINITIONS = (
    _gang("gang", 0, all=_container(1)),
    _gang("groups", 0, first=_container(6), rest=_container(2)),
    _gang("second", 1, all=_container(1)),
    _gang("bad", 0, first=_container(1), rest=_container(1, image="bad")),
    JobDefinition(
        job_definition_name="one",
        type=DefinitionType.CONTAINER,
        container_properties=_container(1),
    ),
)


@dataclass(slots=True)
class Order:
    """One submission, repeated under its token until it is answered."""

    submission: Submission
    possible: bool
    job_id: JobId | None = None


class Users:
    def __init__(self, world: World) -> None:
        self.world = world
        self.orders: list[Order] = []
        self.asked_to_end: dict[str, None] = {}
        self._registered = 0
        self._job_count = 0
        self._ended = False

    def begin(self) -> None:
        self._register()
        rng, knobs = self.world.rng, self.world.knobs
        for _ in range(knobs.jobs):
            self.world.after(int(rng.random() ** 2 * knobs.horizon_ms * 0.8), self._submit)
        if knobs.user_every_ms is not None:
            self._again(knobs.user_every_ms, self._meddle)
        if knobs.operator_every_ms is not None:
            self._again(knobs.operator_every_ms, self._operate)

    def _again(self, every_ms: int, act: Callable[[], None]) -> None:
        def go() -> None:
            if not self._ended:
                act()
                self._again(every_ms, act)

        self.world.after(int(self.world.rng.expovariate(1 / every_ms)) + 1, go)

    def finish(self) -> None:
        """Drains end; what can never run is given up when all else has ended."""
        self._ended = True
        self._give_up()
        self._fence_clones()

    def _fence_clones(self) -> None:
        """A clone that was taken for the host is off for good, and may have held something."""
        speakers = self.world.coordinator.hearing.speakers
        gone = [host_id for host_id, host in speakers.items() if not host.powered]
        if gone:
            self._ask_until_answered(lambda: [i.FenceHost(host_id=host_id) for host_id in gone])
            self.world.after(PATIENCE_MS, self._fence_clones)

    def _give_up(self) -> None:
        """A job that can never run holds up nobody, so what can run ends before."""
        self._ask_until_answered(
            lambda: [
                i.ResumeHost(host_id=host) for host in self.world.coordinator.machine.state.hosts
            ]
        )
        if any(
            order.possible and not self.world.promises.has_ended(order) for order in self.orders
        ):
            self.world.after(PATIENCE_MS, self._give_up)
            return
        hopeless = [order.job_id for order in self.orders if not order.possible and order.job_id]
        self._ask_until_answered(
            lambda: [
                i.Terminate(job_id=job, node_index=None, reason="hopeless") for job in hopeless
            ]
        )
        if any(order.job_id is None for order in self.orders):
            self.world.after(PATIENCE_MS, self._give_up)

    def _ask_until_answered(self, inputs: Callable[[], list[i.Input]]) -> None:
        """Healed, so nothing is lost any more once the coordinator is up."""
        if not self.world.coordinator.is_serving:
            self.world.after(1_000, lambda: self._ask_until_answered(inputs))
            return
        for given in inputs():
            self.world.coordinator.take(given)

    def unrest(self) -> list[str]:
        return [
            f"submission {order.submission.client_token} is not answered"
            for order in self.orders
            if order.job_id is None
        ]

    # definitions and jobs

    def _register(self) -> None:
        """One after another; asked again when nobody answers."""
        if self._registered == len(DEFINITIONS):
            return
        number = self._registered

        def answer(reply: object) -> None:
            if self._registered == number and not isinstance(reply, NoRoom):
                self._registered += 1
                self._register()

        given = i.RegisterDefinition(definition=DEFINITIONS[number], size_bytes=1000)
        self.world.coordinator.take(given, answer)
        self.world.after(
            PATIENCE_MS, lambda: self._register() if self._registered == number else None
        )

    def _submit(self) -> None:
        if self._registered < len(DEFINITIONS):
            self.world.after(PATIENCE_MS, self._submit)
            return
        rng = self.world.rng
        (definition,) = rng.choices(DEFINITIONS, weights=(6, 4, 4, 1, 1))
        name = definition.job_definition_name
        least = 1 if name in ("gang", "one") else 2
        nodes = rng.randint(least, 6)
        if rng.random() < 0.9:
            # Mostly with hosts to spare, so that another attempt need not wait for the last one's.
            nodes = max(least, min(nodes, rng.randint(1, self._most(name))))
        if definition.node_properties is None:
            nodes = 1
        known = [order for order in self.orders if order.job_id is not None]
        depends_on = rng.sample(known, min(len(known), rng.choice((0, 0, 0, 1, 2))))
        rules = (EvaluateOnExit(action="exit", on_exit_code="137"),)
        order = Order(
            submission=Submission(
                job_name=name,
                job_queue="default",
                job_definition=name,
                node_overrides=NodeOverrides(num_nodes=nodes)
                if definition.node_properties
                else None,
                depends_on=tuple(JobDependency(job_id=order.job_id) for order in depends_on),
                retry_strategy=RetryStrategy(
                    attempts=rng.choice((1, 2, 4)), evaluate_on_exit=rng.choice(((), rules))
                ),
                timeout=rng.choice((None, None, JobTimeout(attempt_duration_seconds=60))),
                client_token=f"token-{len(self.orders)}",
                start_barrier=rng.choice((None, None, StartBarrier(timeout_seconds=30))),
                verdict_after_seconds=rng.choice((None, None, 26, 70)),
            ),
            possible=nodes <= self._most(name) and all(order.possible for order in depends_on),
        )
        self.orders.append(order)
        self._place(order)

    def _most(self, name: str) -> int:
        """The largest gang of this definition that these hosts could ever run."""
        types = [host.instance_type for host in self.world.hosts]
        allowed = ("large",) if name == "groups" else ("large", "small")
        return max(types.count(each) for each in allowed)

    def _place(self, order: Order) -> None:
        if order.job_id is not None:
            return
        self._job_count += 1
        job_id = JobId(f"job{self._job_count}")

        def answer(reply: object) -> None:
            if isinstance(reply, NoRoom):
                return  # it is repeated until there is room
            if isinstance(reply, InvalidArgument):
                self.world.fail(f"{order.submission} was refused: {reply}")
            if isinstance(reply, Rejected):
                # Its dependency was never there for a coordinator that lost nothing: our mistake.
                self.world.fail(f"{order.submission} was refused: {reply}")
            accepted = cast("JobId", reply)
            self.world.promises.accepted(cast("str", order.submission.client_token), accepted)
            order.job_id = accepted

        given = i.Submit(submission=order.submission, size_bytes=1000, new_job_id=job_id)
        self.world.coordinator.take(given, answer)
        self.world.after(PATIENCE_MS, lambda: self._place(order))

    # meddling

    def _meddle(self) -> None:
        rng = self.world.rng
        living = list(self.world.coordinator.machine.state.jobs)
        known = living or [order.job_id for order in self.orders if order.job_id is not None]
        if not known:
            return
        job_id = rng.choice(known)
        index = rng.choice((None, 0, 1, 2))
        if rng.random() < 0.3:
            given: i.Input = i.Cancel(job_id=job_id, node_index=index, reason="a user's whim")
        else:
            given = i.Terminate(job_id=job_id, node_index=index, reason="a user's wish")
        self.world.note(f"user: {given}")
        self.asked_to_end[job_id] = None
        self.world.coordinator.take(given)

    def _operate(self) -> None:
        rng = self.world.rng
        host = rng.choice(self.world.hosts)
        off = [host for host in self.world.hosts if not host.powered]
        if off:
            given: i.Input = i.FenceHost(host_id=rng.choice(off).host_id)
        elif rng.random() < 0.5:
            given = i.DrainHost(host_id=host.host_id, reason="maintenance")
        else:
            given = i.ResumeHost(host_id=host.host_id)
        self.world.note(f"operator: {given}")
        self.world.coordinator.take(given)
