"""No healthy job is hurt: whatever ends an attempt or loses a node has a cause on the hosts.

Each end is held against the ground truth: the main's own exit, a wish, a time that is really over,
a host that was really silent for long enough. What the verdict and the lease should be is worked
out here anew, not asked of the code that is tested.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.core.assignment import NodeKey
from coordinator.core import events as e
from coordinator.core.ending import TIMED_OUT
from tests.sim.knobs import FULL_DISK, SETTINGS, SKEW_MAX

if TYPE_CHECKING:
    from coordinator.core.definition import JobSpec
    from coordinator.core.ids import HostId
    from coordinator.core.settings import Settings
    from tests.sim.sim_engine import Container
    from tests.sim.sim_host import SimHost
    from tests.sim.world import World

Gang = tuple[str, int]
"""Job and attempt."""
SLOWEST = 1 - 3 * SKEW_MAX
"""Two clocks that go apart measure a time at least so long."""


@dataclass(slots=True)
class _Try:
    """What is known of one attempt."""

    spec: JobSpec
    lease_ms: int
    """As its hosts were told; 0 is for ever."""
    grace_seconds: int
    hosts: dict[int, SimHost]
    asked_at_ms: int
    """When its first hosts were asked for their votes: a vote may be older than a reboot."""
    must_end: bool = False
    """Somebody or something has asked for its end, as far as the coordinator has decided."""
    stop_cause: str | None = None
    """What is durable of that."""
    own_exits: dict[int, int] = field(default_factory=dict)
    born_at_ms: dict[int, int] = field(default_factory=dict)
    lost: dict[int, None] = field(default_factory=dict)
    by_lease: dict[int, None] = field(default_factory=dict)


class Blame:
    def __init__(self, world: World) -> None:
        self.world = world
        self._tries: dict[Gang, _Try] = {}
        self._failed_starts: dict[tuple[str, int, str], int] = {}
        self._refused_by_lease: dict[tuple[str, int, str], None] = {}
        self._decided_ms: dict[tuple[str, int, str], int] = {}

    # facts

    def decided(self, event: e.Event) -> None:
        """Before it is durable: what is heard while it is written is no evidence against it."""
        match event:
            case e.AttemptStopRequested():
                self._try(event).must_end = True
            case e.NodeLost():
                self._node_lost(event)
            case e.MainNotStarted():
                self._decided_ms[_where(event)] = self.world.now
            case _:
                pass

    def durable(self, event: e.Event) -> None:
        match event:
            case e.GangReserved():
                spec = self.world.coordinator.machine.state.jobs[event.job_id].spec
                self._tries[event.job_id, event.attempt] = _Try(
                    spec=spec,
                    lease_ms=_lease_ms(self.world.coordinator.settings, spec, event.attempt),
                    grace_seconds=self.world.coordinator.settings.stop_grace_seconds,
                    hosts={p.node_index: self._host(p.host_id) for p in event.placements},
                    asked_at_ms=self.world.now,
                )
            case e.NodeReplaced():
                self._try(event).hosts[event.node_index] = self._host(event.host_id)
            case e.MainNotStarted():
                self._main_not_started(event)
            case e.AttemptStopRequested():
                self._stop_requested(event)
            case e.AttemptRefused():
                self._attempt_refused(event)
            case e.NodeLost():
                self._try(event).lost[event.node_index] = None
            case e.AttemptEnded():
                self._attempt_ended(event)
            case e.HostDrained():
                self._host_drained(event)
            case e.AgentReturned():
                host = self._host(event.host_id)
                if not host.leases_rest:
                    host.goes_on = []  # though its agent may die before it hears that
            case _:
                pass

    def spec(self, key: NodeKey) -> JobSpec:
        return self._tries[key.job_id, key.attempt].spec

    def _try(self, event: e.JobEvent) -> _Try:
        return self._tries[event.job_id, event.attempt]  # type: ignore[union-attr]

    def _host(self, host_id: HostId) -> SimHost:
        """The machine that speaks for it; nobody may have been there to hear the welcome."""
        named = next(host for host in self.world.hosts if host.host_id == host_id)
        return self.world.coordinator.hearing.speakers.get(host_id, named)

    def start_refused(self, host: SimHost, key: NodeKey) -> None:
        """Its agent's newest contact is an old one: a Hello may wait for long before it is read."""
        self._refused_by_lease[key.job_id, key.attempt, str(host.host_id)] = None

    def _stop_requested(self, event: e.AttemptStopRequested) -> None:
        found = self._try(event)
        found.stop_cause = event.cause
        if event.by_user:
            if event.job_id not in self.world.users.asked_to_end:
                self.world.fail(f"{event}: no user has asked for it")
        elif event.cause == TIMED_OUT:
            born_ms = found.born_at_ms[found.spec.main_node]
            wanted_ms = 1000 * (found.spec.timeout_seconds or 0)
            # An agent that died over a start, on a host whose clock was set, knows only when the
            # start began.
            start_ms = 2 * self.world.knobs.engine_ms if self.world.knobs.sets_clocks else 0
            # Who has found it after its files were lost knows the wall clock alone.
            main_host = found.hosts[found.spec.main_node]
            is_guessed = self.world.knobs.sets_clocks and main_host.changed_directory_ms >= 0
            ran_ms = self.world.now - born_ms + start_ms
            if ran_ms < SLOWEST * wanted_ms and not is_guessed:
                self.world.fail(f"{event}: it has run for {self.world.now - born_ms} ms")
        elif self.world.knobs.is_calm:
            self.world.fail(f"{event}: nothing went wrong")

    def _main_not_started(self, event: e.MainNotStarted) -> None:
        """In one attempt once a back-off for each host, so that none is asked again and again."""
        host = self._host(event.host_id)
        where = _where(event)
        is_wrong = host.black_hole or self.world.knobs.start_fails
        is_changed = host.changed_directory_ms >= self._try(event).asked_at_ms
        if not (is_wrong or is_changed or where in self._refused_by_lease):
            self.world.fail(f"{event}: nothing is wrong with the host")
        before_ms = self._failed_starts.get(where)
        # The back-off counts from the decision; a pause or a full disk makes it durable much later.
        decided_ms = self._failed_starts[where] = self._decided_ms[where]
        # The pause is over when the wall clock says so, and a wrong one may say so at once.
        if before_ms is None or self.world.knobs.sets_clocks:
            return
        if decided_ms - before_ms < SLOWEST * SETTINGS.refusal_backoff_ms:
            self.world.fail(f"{event}: it failed there {decided_ms - before_ms} ms before")

    def _attempt_refused(self, event: e.AttemptRefused) -> None:
        knobs = self.world.knobs
        lasting = knobs.refuse or knobs.start_fails or knobs.black_holes or knobs.directory_every_ms
        by_lease = any(
            where[:2] == (event.job_id, event.attempt) for where in self._refused_by_lease
        )
        bad = any(group.container.image == "bad" for group in self._try(event).spec.groups)
        if not (bad or lasting or by_lease):
            self.world.fail(f"{event}: no host has a reason to refuse it")

    def _host_drained(self, event: e.HostDrained) -> None:
        if event.reason != "maintenance" and not (
            self._host(event.host_id).black_hole
            or self.world.knobs.start_fails
            or self._host(event.host_id).changed_directory_ms >= 0
            or any(where[2] == event.host_id for where in self._refused_by_lease)
        ):
            self.world.fail(f"{event}: containers start there")

    # silence

    def _node_lost(self, event: e.NodeLost) -> None:
        found = self._try(event)
        host = found.hosts[event.node_index]
        if host.changed_power_ms >= found.asked_at_ms:
            return
        must_end = found.must_end and event.node_index == found.spec.main_node
        key = NodeKey(job_id=event.job_id, attempt=event.attempt, node_index=event.node_index)
        if host.changed_directory_ms >= found.asked_at_ms and not host.runs(key):
            return  # it is not there, and whether it was is not known
        if key in host.goes_on and not must_end:
            self.world.fail(f"{event}: it goes on without its agent, which has said goodbye")
        known = self.world.coordinator.machine.state.hosts[host.host_id]
        if self._has_stopped(host, found) or (must_end and known.stopped_at_ms):
            return
        lost_after_ms = self.world.coordinator.settings.lost_after_ms
        wanted_ms = lost_after_ms if must_end else self._verdict_ms(found)
        silent_ms = self._silent_ms(host)
        if silent_ms < SLOWEST * wanted_ms:
            self.world.fail(f"{event}: {host.host_id} was silent for {silent_ms} of {wanted_ms} ms")

    def _has_stopped(self, host: SimHost, found: _Try) -> bool:
        """Lease, stop grace and margin are over, whoever slept meanwhile; and after that, and after
        it slept last, the coordinator was awake for a heartbeat: what was sent while it slept comes
        only then. One that sleeps again and again must have listened for long in all."""
        if not found.lease_ms:
            return False
        coordinator = self.world.coordinator
        heard_at_ms = max(
            coordinator.hearing.heard_at_ms.get(host.host_id, 0), coordinator.began_at_ms
        )
        grace_and_margin_ms = 1000 * (found.grace_seconds + SETTINGS.fence_margin_seconds)
        over_at_ms = heard_at_ms + int(SLOWEST * (found.lease_ms + grace_and_margin_ms))
        awake_ms = self.world.now - max(over_at_ms, coordinator.awake_since_ms())
        in_all_ms = coordinator.listened_ms(over_at_ms)
        return (
            awake_ms >= SLOWEST * SETTINGS.heartbeat_ms
            or in_all_ms >= SLOWEST * coordinator.settings.lost_after_ms
        )

    def _verdict_ms(self, found: _Try) -> int:
        settings = self.world.coordinator.settings
        wanted = found.spec.verdict_after_seconds or settings.verdict_after_seconds
        seconds = min(300, settings.lease_seconds // 2) if wanted is None else wanted
        bounded_ms = min(1000 * seconds, found.lease_ms or 1000 * seconds)
        return max(bounded_ms, settings.lost_after_ms)

    def _silent_ms(self, host: SimHost) -> int:
        """How long the coordinator could have heard the host and did not."""
        coordinator = self.world.coordinator
        # Of each pause it may hold two pulses against a host.
        blamed_ms = 2 * coordinator.settings.pulse_ms * coordinator.pauses
        return coordinator.silent_ms(host.host_id) + blamed_ms

    def ended_by_lease(self, host: SimHost, key: NodeKey) -> None:
        """A holder or an agent ends a container because its lease is over."""
        self.lease_over(host, key)
        self.lost_by_lease(key)

    def grace_seconds(self, job_id: str, attempt: int) -> int:
        """Between a request to end and its enforcement, as the attempt's hosts were told."""
        return self._tries[job_id, attempt].grace_seconds

    def lost_by_lease(self, key: NodeKey) -> None:
        """Whatever code it has is none of its own."""
        found = self._tries.get((key.job_id, key.attempt))
        if found is not None:
            found.by_lease[key.node_index] = None

    def lease_over(self, host: SimHost, key: NodeKey) -> None:
        """For want of contact, for as long as its host was told, no less."""
        found = self._tries.get((key.job_id, key.attempt))
        if found is None:
            return
        if key in host.goes_on and host.leases_rest:
            self.world.fail(f"{key.name}: a lease ends that a goodbye has suspended")
        if self.world.knobs == self.world.knobs.calmed(FULL_DISK):
            self.world.fail(f"{key.name}: its lease ends, and nothing is wrong but a full disk")
        silent_ms = self.world.now - host.contact_ms
        # A contact is written down after it was made: who died may know the one before.
        wanted_ms = SLOWEST * found.lease_ms - SETTINGS.heartbeat_ms
        if not found.lease_ms or silent_ms < wanted_ms:
            self.world.fail(
                f"{key.name}: {host.host_id} ends a lease of {found.lease_ms} ms after {silent_ms}"
            )

    # ends

    def container_started(self, key: NodeKey) -> None:
        self._tries[key.job_id, key.attempt].born_at_ms[key.node_index] = self.world.now

    def ended_by_itself(self, container: Container) -> None:
        key = container.key
        assert container.exit_code is not None
        self._tries[key.job_id, key.attempt].own_exits[key.node_index] = container.exit_code

    def _attempt_ended(self, event: e.AttemptEnded) -> None:
        """By a wish, by the main's own exit, or by what certainly happened to its host."""
        found = self._try(event)
        main = found.spec.main_node
        if found.stop_cause is not None or main in found.lost or main in found.by_lease:
            return
        own = found.own_exits.get(main)
        if event.exit_code is not None:
            if event.exit_code != own:
                self.world.fail(f"{event}: the main's own exit is {own}")
            return
        host = found.hosts[main]
        knobs = self.world.knobs
        changed_ms = max(host.changed_power_ms, host.changed_directory_ms)
        if changed_ms < found.asked_at_ms and not (
            host.black_hole or knobs.start_fails or knobs.engine_gone or knobs.unclean
        ):
            self.world.fail(f"{event}: nothing happened to {host.host_id}, its own exit is {own}")


def _where(event: e.MainNotStarted) -> tuple[str, int, str]:
    return event.job_id, event.attempt, str(event.host_id)


def _lease_ms(settings: Settings, spec: JobSpec, attempt: int) -> int:
    if attempt < spec.attempts:
        return 1000 * settings.lease_seconds
    leases = settings.lease_seconds, settings.last_attempt_lease_seconds
    return 0 if 0 in leases else 1000 * max(leases)
