"""What may never happen, whatever goes wrong: checked against the simulated hosts themselves.

A container's start is where most promises would break, so that is where they are looked at, with
the ground truth at hand that no real coordinator has. What ends an attempt is in `blame.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.assignment import NodeKey
from agent.core.lease import UNKNOWN_GRACE_MS
from coordinator.core import events as e
from coordinator.core.effects import Step
from coordinator.core.gang import VERIFIED
from coordinator.core.ids import JobId
from coordinator.core.state import Job
from tests.sim.blame import SLOWEST, Blame

if TYPE_CHECKING:
    from tests.sim.sim_agent import SimAgent
    from tests.sim.sim_engine import Container
    from tests.sim.sim_host import SimHost
    from tests.sim.sim_spool import SimSpool
    from tests.sim.users import Order
    from tests.sim.world import World

Gang = tuple[str, int]
"""Job and attempt."""
MAIN_ADDRESS = "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"


class Promises:
    def __init__(self, world: World) -> None:
        self.world = world
        self.blame = Blame(world)
        self._reserved: dict[Gang, dict[int, str]] = {}
        """Hosts by node index; durable, as are the next five."""
        self._voted: dict[Gang, dict[int, None]] = {}
        self._started: dict[Gang, None] = {}
        self._launched: dict[Gang, None] = {}
        self._terminal: dict[str, tuple[object, ...]] = {}
        self._ended: dict[str, None] = {}
        self._archived: dict[str, None] = {}
        self._main_address: dict[Gang, str] = {}
        """Of main containers that have run."""
        self._up: dict[Gang, dict[int, None]] = {}
        """Nodes whose containers have run."""
        self._newest: dict[str, int] = {}
        self._ran: dict[str, int] = {}
        """When each node's container started."""
        self._known_up: dict[str, None] = {}
        """Of which the coordinator has written down that they have started."""
        self._tokens: dict[str, JobId] = {}
        self._lost: dict[str, None] = {}

    # facts

    def after_step(self, step: Step) -> None:
        """Before it is durable: a terminal job never changes, an archived one never comes back; and
        no host is lost that is there."""
        if self.world.coordinator.is_mistaken:
            return
        state = self.world.coordinator.machine.state
        self._look_for_lost()
        for stamped in step.events:
            self.blame.decided(stamped.event)
        for job_id in step.changed_nodes:
            job = state.jobs.get(job_id)
            if job is None:
                continue
            if job_id in self._archived:
                self.world.fail(f"{job_id} is back from the archive")
            before = self._terminal.get(job_id)
            if before is not None and before != _ending(job):
                self.world.fail(f"{job_id} has ended as {before} and is {_ending(job)}")

    def _look_for_lost(self) -> None:
        """A connected, beating host is never lost, whatever the coordinator itself does."""
        state = self.world.coordinator.machine.state
        for host in self.world.machines:
            presence = state.presence.get(host.host_id)
            stops = presence is not None and state.hosts[host.host_id].stopped_at_ms
            if presence is None or not presence.lost or stops:
                self._lost.pop(host.name, None)
            elif host.name not in self._lost:
                self._lost[host.name] = None
                self.world.readers.host_lost(host)
                since_ms = host.beating_since_ms()
                if since_ms is None or presence.session_id != host.session_id():
                    continue
                coordinator = self.world.coordinator
                silent_ms = coordinator.clock() - presence.last_contact_ms
                if since_ms <= self.world.now - silent_ms:
                    self.world.fail(f"{host.host_id} is lost, and it has been beating")

    def durable(self, step: Step) -> None:
        """These events are in the journal now."""
        if self.world.coordinator.is_mistaken:
            return
        for stamped in step.events:
            event = stamped.event
            self.blame.durable(event)
            match event:
                case e.GangReserved():
                    hosts = {p.node_index: str(p.host_id) for p in event.placements}
                    self._reserved[event.job_id, event.attempt] = hosts
                    self._voted[event.job_id, event.attempt] = {}
                case e.NodeReplaced():
                    hosts = self._reserved[event.job_id, event.attempt]
                    hosts[event.node_index] = event.host_id
                case e.NodeRefused() | e.MainNotStarted():
                    gang = event.job_id, event.attempt
                    del self._reserved[gang][event.node_index]
                    self._voted[gang].pop(event.node_index, None)
                    self._started.pop(gang, None)
                case e.NodePrepared():
                    self._voted[event.job_id, event.attempt][event.node_index] = None
                case e.AttemptStarted():
                    self._gang_starts(event)
                case e.NodeRunning():
                    self._known_up[_key(event).name] = None
                case e.ChildrenLaunched():
                    self._launched[event.job_id, event.attempt] = None
                case e.AttemptEnded():
                    self._watch_leftovers(event.job_id, event.attempt)
                case e.NodeReleased():
                    self._check_tail(event)
                case e.JobSucceeded() | e.JobFailed():
                    self._job_ends(event.job_id)
                case e.JobArchived():
                    self._archived[event.job_id] = None
                case _:
                    pass

    def _gang_starts(self, event: e.AttemptStarted) -> None:
        hosts = self._reserved[event.job_id, event.attempt]
        job = self.world.coordinator.machine.state.jobs.get(event.job_id)
        wanted = job.spec.num_nodes if job is not None else len(hosts)
        if not len(hosts) == len(set(hosts.values())) == wanted:
            self.world.fail(f"{event} with {hosts}: not all or none")
        if len(self._voted[event.job_id, event.attempt]) != wanted:
            self.world.fail(f"{event} before all have voted")
        self._started[event.job_id, event.attempt] = None

    def _job_ends(self, job_id: JobId) -> None:
        if job_id in self._ended:
            self.world.fail(f"{job_id} ends twice")
        self._ended[job_id] = None
        job = self.world.coordinator.machine.state.jobs.get(job_id)
        if job is not None:
            self._terminal[job_id] = _ending(job)

    def accepted(self, token: str, job_id: JobId) -> None:
        """A submission was answered, so the job is durable, and one for its token."""
        before = self._tokens.setdefault(token, job_id)
        if before != job_id:
            self.world.fail(f"{token} made both {before} and {job_id}")
        if not self.world.coordinator.knows_durably(job_id):
            self.world.fail(f"{job_id} was answered and is not in the journal")

    def has_ended(self, order: Order) -> bool:
        return order.job_id in self._ended

    def _check_tail(self, event: e.NodeReleased) -> None:
        """The agent's word that nothing is left is its last of the node, so by then its output is
        kept; unless there was none, or it could not be read."""
        key = _key(event)
        host = self._reserved[event.job_id, event.attempt][event.node_index]
        sent = any(h.tails_read.get(key) for h in self.world.machines if h.host_id == host)
        if event.proof != VERIFIED or not sent:
            return
        tails = self.world.coordinator.journal._facts.tails.get(key.job_id, {})
        tail = tails.get((key.node_index, key.attempt))
        spool = self._spool(key)
        if tail is None or (spool is not None and (tail.offset, tail.data) != spool.tail()):
            self.world.fail(f"{key.name} is released, and of its output is kept {tail}")

    def _spool(self, key: NodeKey) -> SimSpool | None:
        spools = (host.spools.get(key) for host in self.world.machines)
        return next((spool for spool in spools if spool is not None), None)

    # the ground truth

    def container_started(self, host: SimHost, container: Container) -> None:
        key = container.key
        if (key.job_id, key.attempt) not in self._started:
            self.world.fail(f"{key.name} starts, its attempt is no durable fact")
        newest = self._newest.get(key.job_id, 0)
        if key.attempt < newest:
            self.world.fail(f"{key.name} starts after attempt {newest} has started")
        self._newest[key.job_id] = key.attempt
        before_ms = self._ran.get(key.name)
        # Nobody can know of a start that was told to nobody and is in no file any more.
        is_forgotten = key.name not in self._known_up and host.rolled_back_ms >= (before_ms or 0)
        if before_ms is not None and not is_forgotten:
            self.world.fail(f"{key.name} starts a second time")
        self._ran[key.name] = self.world.now
        self._check_alone(host, container)
        self._up.setdefault((key.job_id, key.attempt), {})[key.node_index] = None
        told = container.gang
        if told is None or told.addresses[key.node_index] != (container.address or host.address):
            self.world.fail(f"{key.name} is at {container.address}, its gang is told {told}")
        self._check_order(host, container)
        self.blame.container_started(key)

    def _check_alone(self, host: SimHost, container: Container) -> None:
        """No other on its host, no other attempt of its job, nothing that its job depends on."""
        key = container.key
        job = self.world.coordinator.machine.state.jobs.get(JobId(key.job_id))
        needed = [need.job_id for need in job.spec.depends_on] if job is not None else []
        for other_host in self.world.machines:
            for other in other_host.engine.containers.values():
                if other is container or not other.running:
                    continue
                if other_host is host:
                    self.world.fail(f"{key.name} and {other.key.name} run on {host.host_id}")
                if other.key.job_id == key.job_id and other.key.attempt != key.attempt:
                    self.world.fail(f"two attempts alive: {key.name} and {other.key.name}")
                if other.key.job_id in needed:
                    self.world.fail(f"{key.name} starts and depends on {other.key.name}")

    def is_ended_by(self, agent: SimAgent, container: Container) -> None:
        """Whoever ends what runs was asked to by the coordinator, or is not named it for longer
        than the grace for that, or its lease is over, which is looked at elsewhere."""
        host, key = agent.host, container.key
        slot = agent.machine.state.slots.get(key)
        if (slot is not None and slot.lease_over) or key in host.told_to_stop:
            return
        since_ms = agent.unnamed_since_ms.get(key, self.world.now)
        if self.world.now - since_ms < SLOWEST * UNKNOWN_GRACE_MS:
            self.world.fail(f"{agent.name} ends {key.name}, which is not for it to end")

    def command_started(self, container: Container) -> None:
        """Behind a barrier a child's command runs only once every node of the gang has come."""
        key = container.key
        job = self.world.coordinator.machine.state.jobs.get(JobId(key.job_id))
        if job is None or job.spec.start_barrier_seconds is None:
            return
        up = self._up[key.job_id, key.attempt]
        if key.node_index != job.spec.main_node and len(up) != job.spec.num_nodes:
            self.world.fail(f"{key.name} goes on while only {list(up)} have come")

    def _check_order(self, host: SimHost, container: Container) -> None:
        """Main first, and its address for the children alone."""
        key = container.key
        gang = (key.job_id, key.attempt)
        variables = dict(container.spec.environment)
        told = variables.get(MAIN_ADDRESS)
        if key.node_index == int(variables.get("AWS_BATCH_JOB_MAIN_NODE_INDEX", "0")):
            if told is not None:
                self.world.fail(f"{key.name} is main and is told {told}")
            self._main_address[gang] = container.address or host.address
            return
        if gang not in self._main_address:
            self.world.fail(f"{key.name} starts before its main")
        if gang not in self._launched:
            self.world.fail(f"{key.name} starts, its launch is no durable fact")
        if told != self._main_address[gang]:
            self.world.fail(f"{key.name} is told {told}, main has {self._main_address[gang]}")

    def _watch_leftovers(self, job_id: JobId, attempt: int) -> None:
        """What is left of an attempt that ended is gone after the grace, if nothing goes wrong."""
        ended_at_ms = self.world.now
        knobs = self.world.knobs
        # A list of assignments, a start in hand, a stop and its answer, each at its slowest.
        slack_ms = 30 * knobs.delay_ms + 10 * knobs.engine_ms + 2_000

        def look() -> None:
            for host in self.world.machines:
                agent = host.agent
                if agent is None or not agent.alive or not agent.is_welcome:
                    continue
                if host.disturbed_at_ms >= ended_at_ms - slack_ms:
                    continue
                for container in host.engine.containers.values():
                    key = container.key
                    if container.running and (key.job_id, key.attempt) == (job_id, attempt):
                        self.world.fail(f"{key.name} outlives its attempt on {host.host_id}")

        grace_seconds = self.blame.grace_seconds(job_id, attempt)
        self.world.after(1000 * grace_seconds + slack_ms, look)

    def at_the_end(self) -> None:
        for job_id in self._tokens.values():
            if job_id not in self._archived:
                self.world.fail(f"{job_id} has not ended")
        self.world.coordinator.compare_with_replay()


def _key(event: e.NodeRunning | e.NodeReleased) -> NodeKey:
    return NodeKey(job_id=event.job_id, attempt=event.attempt, node_index=event.node_index)


def _ending(job: Job) -> tuple[object, ...]:
    """The members of a job that may not change once it has ended."""
    last = job.attempts[-1] if job.attempts else None
    return (
        job.state,
        job.status_reason,
        job.started_at_ms,
        job.stopped_at_ms,
        job.cancelled,
        job.terminated,
        len(job.attempts),
        last and (last.exit_code, last.reason, last.status_reason, last.stopped_at_ms),
    )
