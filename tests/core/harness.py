"""Drives the coordinator's machine alone: a test says what users, agents and time do.

After every step the invariants hold, and at the end replay gives the same state; a reply that
refuses is raised. What the coordinator sends is kept as each host's newest list, as an agent would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from coordinator.core import inputs as i
from coordinator.core.container import (
    ContainerProperties,
    KeyValuePair,
    ResourceRequirement,
    ResourceType,
)
from coordinator.core.definition import (
    DefinitionType,
    EvaluateOnExit,
    JobDefinition,
    JobDependency,
    JobTimeout,
    NodeProperties,
    NodeRange,
    RetryStrategy,
    StartBarrier,
    Submission,
)
from coordinator.core.effects import (
    Assignment,
    CloseSession,
    SendAssignments,
    SendGoodbyeAck,
    SendInquiry,
    Stamped,
    Step,
)
from coordinator.core.errors import Rejected
from coordinator.core.identity import MachineId
from coordinator.core.ids import HostId, JobId, NodeKey, SessionId
from coordinator.core.machine import Machine
from coordinator.core.settings import Settings
from coordinator.core.state import Attempt, ClusterState, Job, NodeRun
from coordinator.core.states import Desired, JobState, Progress

T = TypeVar("T")
START_MS = 1_700_000_000_000
SETTINGS = Settings()
_DURABLE = (
    *("jobs", "hosts", "queues", "definitions", "last_revision", "dependents"),
    *("cluster_key", "life_id", "lives", "given_up"),
)


def container(
    vcpus: int = 1, memory_mib: int = 64, gpus: int = 0, **members: Any
) -> ContainerProperties:
    needs = [(ResourceType.VCPU, vcpus), (ResourceType.MEMORY, memory_mib)]
    needs += [(ResourceType.GPU, gpus)] if gpus else []
    members.setdefault("image", "busybox")
    members.setdefault("environment", (KeyValuePair(name="COLOUR", value="red"),))
    return ContainerProperties(
        resource_requirements=tuple(
            ResourceRequirement(type=kind, value=str(value)) for kind, value in needs
        ),
        **members,
    )


def ranges(**groups: ContainerProperties) -> tuple[NodeRange, ...]:
    """`ranges(n0=..., n1_=...)`: n0 is `0`, n1_ is `1:`, n1_3 is `1:3`."""
    return tuple(
        NodeRange(target_nodes=name.removeprefix("n").replace("_", ":"), container=properties)
        for name, properties in groups.items()
    )


class Cluster:
    """One coordinator, hosts that do only what the test says, and a clock."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.now = START_MS
        self.machine = Machine(settings)
        self.journal: list[Stamped] = []
        self.archived: dict[JobId, Job] = {}
        self.sent: dict[HostId, tuple[Assignment, ...]] = {}
        self.generations: list[int] = []
        self.closed: list[CloseSession] = []
        """Sessions that the coordinator closed although no newer hello of the test explains it."""
        self.superseded: list[CloseSession] = []
        """Those that the last hello explains."""
        self.answers = True
        """Whether agents whose Hello has waited are still there."""
        self._inquiries: list[SessionId] = []
        self.last = Step()
        self.hellos: dict[HostId, i.HostHello] = {}
        self._sessions: dict[HostId, SessionId] = {}
        self._count = 0
        self._lives = 0
        self.begin()

    # steps

    def do(self, *inputs: i.Input) -> Any:
        """One step; returns the reply of its last input, or raises it."""
        self._absorb(self.machine.step(inputs, self.now))
        for reply in self.last.replies:
            if isinstance(reply, Rejected):
                raise reply
        return self.last.replies[-1] if self.last.replies else None

    def _absorb(self, step: Step) -> None:
        self.last = step
        self.journal += step.events
        self.archived |= {job.job_id: job for job in step.archived}
        hosts = {session: host for host, session in self._sessions.items()}
        for effect in step.effects:
            match effect:
                case SendAssignments():
                    self.sent[hosts[effect.session_id]] = effect.assignments
                    self.generations.append(effect.generation)
                case SendInquiry():
                    self._inquiries.append(effect.session_id)
                case CloseSession():
                    self.closed.append(effect)
                case _:
                    pass
        self.machine.check()
        while self._inquiries and self.answers:
            session_id = self._inquiries.pop()
            for given in self.hellos.values():
                if given.session_id == session_id:
                    self._absorb(self.machine.step([given], self.now))

    @property
    def state(self) -> ClusterState:
        return self.machine.state

    def facts(self) -> list[str]:
        """The names of the last step's events."""
        return [type(stamped.event).__name__ for stamped in self.last.events]

    def all_facts(self, kind: type[T]) -> list[T]:
        return [stamped.event for stamped in self.journal if isinstance(stamped.event, kind)]

    def replayed(self) -> Machine:
        """Another machine with this journal; it knows exactly what this one knows durably."""
        machine = Machine(self.settings)
        machine.replay(self.journal, [])
        for name in _DURABLE:
            assert getattr(machine.state, name) == getattr(self.state, name), name
        return machine

    def begin(self, *, accepts_older: bool = False) -> None:
        """A new life of the machine that is there."""
        self._lives += 1
        step = self.machine.start(
            self.now,
            life_id=f"{self._lives:04x}",
            new_key="c0ffee",
            position=len(self.journal),
            accepts_older=accepts_older,
        )
        self._absorb(step)

    def restart(self, *, accepts_older: bool = False) -> None:
        """The coordinator dies and comes back with what it had made durable; no host is there."""
        self.machine = self.replayed()
        self.sent.clear()
        self._sessions.clear()
        self.begin(accepts_older=accepts_older)

    def bring_back(self, journal: Sequence[Stamped], *, accepts_older: bool = False) -> None:
        """The coordinator dies and comes back with another journal."""
        self.journal = list(journal)
        self.machine = Machine(self.settings)
        self.machine.replay(self.journal, [])
        self.sent.clear()
        self._sessions.clear()
        self.begin(accepts_older=accepts_older)

    def token(self) -> bytes:
        """What a host is told now."""
        return self.machine.token(len(self.journal))

    # time

    def wait(self, seconds: float, *, silent: tuple[str, ...] = ()) -> None:
        """Time passes; every connected host but the silent ones goes on beating."""
        end = self.now + int(seconds * 1000)
        beat_at = self.now
        while True:
            deadline = self.machine.next_deadline()
            at = min(end, beat_at, max(deadline, self.now) if deadline is not None else end)
            self.now = at
            if at == beat_at:
                beat_at += self.settings.heartbeat_ms
                for host, session in self._sessions.items():
                    if host not in silent:
                        self.do(i.HostHeartbeat(session_id=session, seq=1, wall_ms=self.now))
            self.do(i.Tick())
            if at == end:
                return

    # hosts

    def hosts(self, count: int, **facts: Any) -> list[HostId]:
        """Connect `count` more hosts: h1, h2, ..."""
        first = len(self.hellos) + 1
        names = [HostId(f"h{number}") for number in range(first, first + count)]
        for name in names:
            self.hello(name, **facts)
        return names

    def hello(self, host: str, *observed: i.Observation, waits: bool = True, **facts: Any) -> None:
        """A new session of a host; facts that are not given stay as they were. It is open on
        return, also where it has to wait for the session before, unless `waits` is False."""
        self._count += 1
        host_id, session_id = HostId(host), SessionId(f"s{self._count}")
        number = len(self.hellos) + 1
        base = self.hellos.get(host_id) or i.HostHello(
            session_id=session_id,
            host_id=host_id,
            agent_uuid=f"agent-{host}",
            boot_id="boot-1",
            version="1",
            engine="podman",
            instance_type="generic",
            vcpus=8,
            memory_mib=16_000,
            gpus=0,
            private_ipv4=f"10.0.0.{number}",
            machine=MachineId(os_id=f"machine-{host}"),
            is_attached=True,
            answers_inquiries=True,
        )
        facts.setdefault("previous_boot_id", base.boot_id)
        if "agent_uuid" in facts:
            facts.setdefault("machine", MachineId(os_id=f"machine-{facts['agent_uuid']}"))
        given = replace(base, session_id=session_id, observed=observed, **facts)
        before = self._sessions.get(host_id)
        self._sessions[host_id] = session_id
        try:
            self.do(given)
        except Rejected:
            del self._sessions[host_id]
            if before is not None:
                self._sessions[host_id] = before
            raise
        self.hellos[host_id] = given
        if waits and session_id in self.state.waiting:
            self.wait(2 * self.settings.heartbeat_ms / 1000, silent=(host,))
        self.superseded = [close for close in self.closed if close.session_id == before]
        self.closed = [close for close in self.closed if close.session_id != before]

    def session(self, host: str) -> SessionId:
        return self._sessions[HostId(host)]

    def hang_up(self, host: str) -> None:
        self.do(i.SessionEnded(session_id=self._sessions.pop(HostId(host))))

    def goodbye(self, host: str, *goes_on: NodeKey) -> None:
        """The host's agent stops in order; the stream ends with it."""
        self.do(i.HostGoodbye(session_id=self.session(host), goes_on=goes_on))
        assert SendGoodbyeAck(session_id=self.session(host)) in self.last.effects
        self.hang_up(host)

    def says(
        self, host: str, progress: Progress, key: NodeKey | None = None, **members: Any
    ) -> None:
        """The host's agent reports one node: the one that it was given, or `key`."""
        key = key or self.key(host)
        seen = i.Observation(key=key, progress=progress, **members)
        session_id = self._sessions[HostId(host)]
        self.do(i.HostReport(session_id=session_id, seq=1, observations=(seen,)))

    def key(self, host: str) -> NodeKey:
        """The node that the newest list of this host is about."""
        assignments = self.sent[HostId(host)]
        assert len(assignments) == 1, f"{host} was sent {assignments}"
        return assignments[0].key

    def wants(self, host: str) -> Desired | None:
        """What the newest list wants of the host; None when it is empty."""
        assignments = self.sent.get(HostId(host), ())
        assert len(assignments) <= 1, assignments
        return assignments[0].desired if assignments else None

    def holds(self, host: str) -> bool:
        """Whether the newest list wants the host's command to wait."""
        (assignment,) = self.sent[HostId(host)]
        return assignment.hold

    def environment(self, host: str) -> dict[str, str]:
        (assignment,) = self.sent[HostId(host)]
        assert assignment.container is not None
        return assignment.container.environment()

    def prepared(self, *hosts: str, address: str = "") -> None:
        for host in hosts:
            self.says(host, Progress.PREPARED, private_ipv4=address)

    def refused(self, host: str, reason: str = "no space left", *, permanent: bool = False) -> None:
        self.says(host, Progress.REFUSED, reason=reason, permanent=permanent)

    def up(self, *hosts: str) -> None:
        for host in hosts:
            address = self.hellos[HostId(host)].private_ipv4
            self.says(host, Progress.UP, private_ipv4=address, was_up=True)

    def exited(self, host: str, exit_code: int | None = 0, reason: str = "", **more: Any) -> None:
        more.setdefault("was_up", True)
        self.says(host, Progress.EXITED, exit_code=exit_code, reason=reason, **more)

    def released(self, *hosts: str) -> None:
        for host in hosts:
            self.says(host, Progress.RELEASED, was_up=True)

    # jobs

    def define(self, **members: Any) -> str:
        """Register a definition of its own name; a gang of `nodes` alike unless said otherwise."""
        self._count += 1
        name: str = members.pop("name", f"def{self._count}")
        nodes, main = members.pop("nodes", 2), members.pop("main", 0)
        groups = members.pop("groups", ranges(n0_=container()))
        if members.pop("single", False):
            definition = JobDefinition(
                job_definition_name=name,
                type=DefinitionType.CONTAINER,
                container_properties=container(),
                **members,
            )
        else:
            properties = NodeProperties(
                num_nodes=nodes, main_node=main, node_range_properties=groups
            )
            definition = JobDefinition(
                job_definition_name=name,
                type=DefinitionType.MULTINODE,
                node_properties=properties,
                **members,
            )
        self.do(i.RegisterDefinition(definition=definition, size_bytes=100))
        return name

    def submit(
        self,
        nodes: int = 2,
        *,
        queue: str = "default",
        attempts: int | None = None,
        rules: tuple[EvaluateOnExit, ...] = (),
        timeout: int | None = None,
        after: tuple[JobId, ...] = (),
        token: str | None = None,
        barrier: int | None = None,
        verdict: int | None = None,
        job_id: str | None = None,
        **definition: Any,
    ) -> JobId:
        """Define and submit; what is not about the submission is about the definition."""
        name = definition.pop("definition", None) or self.define(nodes=nodes, **definition)
        self._count += 1
        submission = Submission(
            job_name=name.partition(":")[0],
            job_queue=queue,
            job_definition=name,
            depends_on=tuple(JobDependency(job_id=job_id) for job_id in after),
            retry_strategy=RetryStrategy(attempts=attempts, evaluate_on_exit=rules)
            if attempts is not None
            else None,
            timeout=JobTimeout(attempt_duration_seconds=timeout) if timeout else None,
            client_token=token,
            start_barrier=StartBarrier(timeout_seconds=barrier) if barrier is not None else None,
            verdict_after_seconds=verdict,
        )
        new_job_id = JobId(job_id or f"j{self._count}")
        given = i.Submit(submission=submission, size_bytes=100, new_job_id=new_job_id)
        return cast("JobId", self.do(given))

    def job(self, job_id: JobId) -> Job:
        return self.state.jobs.get(job_id) or self.archived[job_id]

    def is_(self, job_id: JobId) -> JobState:
        return self.job(job_id).state

    def attempt(self, job_id: JobId) -> Attempt:
        return self.job(job_id).attempts[-1]

    def node(self, job_id: JobId, index: int) -> NodeRun:
        return self.attempt(job_id).nodes[index]

    def node_key(self, job_id: JobId, index: int) -> NodeKey:
        return NodeKey(job_id, self.attempt(job_id).number, index)

    def placed(self, job_id: JobId) -> list[HostId]:
        """The hosts of the newest attempt by node index."""
        nodes = self.attempt(job_id).nodes
        return [nodes[index].host_id for index in sorted(nodes)]

    def start_main(self, job_id: JobId) -> list[HostId]:
        """Everybody votes yes; main is launched and not up yet."""
        hosts = self.placed(job_id)
        for host in hosts:
            self.prepared(host)
        return hosts

    def run(self, job_id: JobId) -> list[HostId]:
        """Every node of the gang is up; returns its hosts, by node index."""
        hosts = self.start_main(job_id)
        main = self.job(job_id).spec.main_node
        self.up(hosts[main])
        self.up(*(host for index, host in enumerate(hosts) if index != main))
        return hosts

    def finish(self, job_id: JobId, exit_code: int = 0) -> None:
        """Main exits, everybody stops and lets go."""
        hosts = self.placed(job_id)
        self.exited(hosts[self.job(job_id).spec.main_node], exit_code)
        self.let_go(job_id)

    def let_go(self, job_id: JobId) -> None:
        """Every host of the newest attempt says that nothing is left of it there."""
        for index, node in list(self.attempt(job_id).nodes.items()):
            if not node.released:
                key = self.node_key(job_id, index)
                self.says(node.host_id, Progress.RELEASED, key, was_up=bool(node.started_at_ms))

    def cancel(self, job_id: JobId, index: int | None = None, reason: str = "not wanted") -> None:
        self.do(i.Cancel(job_id=job_id, node_index=index, reason=reason))

    def terminate(self, job_id: JobId, index: int | None = None, reason: str = "enough") -> None:
        self.do(i.Terminate(job_id=job_id, node_index=index, reason=reason))

    def drain(self, host: str, reason: str = "maintenance") -> None:
        self.do(i.DrainHost(host_id=HostId(host), reason=reason))

    def queue(self, name: str, priority: int = 1, **members: Any) -> None:
        self.do(i.CreateQueue(name=name, priority=priority, **members))
