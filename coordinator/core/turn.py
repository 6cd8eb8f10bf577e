"""One step in the making: where policy emits facts and asks for effects.

An emitted event is applied at once, so that later decisions of the same step see it; the shell
makes all of them durable before any effect of the step is visible. No I/O.
"""

from __future__ import annotations

from coordinator.core import events as e
from coordinator.core.effects import Effect, Stamped, Step
from coordinator.core.evolve import evolve
from coordinator.core.ids import HostId, JobId, SessionId
from coordinator.core.listening import Listening
from coordinator.core.settings import Settings
from coordinator.core.state import ClusterState, Job, Presence
from coordinator.core.timers import Timers


class Turn:
    """The state, the time and the outputs of one step.

    `now` decides: it never goes back, counts suspend, and goes on over a restart on the same boot.
    `wall` is what people call now: facts are stamped with it, and nothing that cannot be undone
    follows from it alone.
    """

    def __init__(
        self,
        state: ClusterState,
        settings: Settings,
        timers: Timers,
        listening: Listening,
        *,
        now: int,
        wall: int,
    ) -> None:
        self.state = state
        self.settings = settings
        self.timers = timers
        self.listening = listening
        self.now = now
        self.wall = wall
        self.step = Step()
        self.dirty_hosts: dict[HostId, bool] = {}
        """Hosts whose assignments may have changed; True: send them even when they have not."""
        self.reschedule = False

    def emit(self, event: e.Event) -> None:
        """Make a fact: apply it and keep it for the journal."""
        evolve(self.state, event, self.wall)
        self.step.events.append(Stamped(at_ms=self.wall, event=event))

    def effect(self, effect: Effect) -> None:
        self.step.effects.append(effect)

    def touch_host(self, host_id: HostId) -> None:
        self.dirty_hosts.setdefault(host_id, False)

    def ask_again(self, host_id: HostId) -> None:
        """The host gets its assignments anew, so that it tries again at once what failed."""
        self.dirty_hosts[host_id] = True

    def touch_job(self, job_id: JobId, *node_indices: int) -> None:
        changed = self.step.changed_nodes.setdefault(job_id, {})
        for node_index in node_indices:
            changed[node_index] = None

    def touch_gang(self, job: Job) -> None:
        """Every node of the newest attempt may have to do something else now."""
        if job.attempts:
            for node in job.attempts[-1].nodes.values():
                self.touch_host(node.host_id)
            self.touch_job(job.job_id, *job.attempts[-1].nodes)
        else:
            self.touch_job(job.job_id)

    def presence(self, host_id: HostId) -> Presence:
        return self.state.presence[host_id]

    def host_of(self, session_id: SessionId) -> HostId | None:
        """The host whose newest session this is; None for a session that was superseded."""
        return self.state.sessions.get(session_id)
