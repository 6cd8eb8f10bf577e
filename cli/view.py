"""A job as WatchJob tells it, folded into what is true now. Pure: no clock, no stream.

`watch`, `logs -f` and `submit --wait` all stand on it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from muster.v1.job_pb2 import JobStatus, JobSummary
from muster.v1.job_service_pb2 import JobEvent, NodeView, WatchJobResponse

_TOLD_MAX = 50_000
"""More events than the coordinator keeps of the largest job with all its attempts; a job that waits
for days is told more, and this must not grow with them."""

TERMINAL = ("SUCCEEDED", "FAILED")


@dataclass(frozen=True, slots=True)
class Change:
    """What one response brought that was not known before."""

    events: list[JobEvent]
    nodes: list[NodeView]
    status: bool
    """The job has another status, or there is another reason why it is held up as it runs."""
    reset: bool


@dataclass(slots=True)
class View:
    """The newest state of a job and its nodes."""

    job: JobSummary = field(default_factory=JobSummary)
    nodes: dict[int, NodeView] = field(default_factory=dict)
    _told: dict[tuple[float, str, str, int | None], None] = field(default_factory=dict)

    def apply(self, response: WatchJobResponse) -> Change:
        """Take in one response. The same one twice changes nothing, as after a reconnect."""
        before = {} if response.reset else self.nodes
        changed = [
            node
            for node in response.nodes
            if _shown(self.nodes.get(node.node_index)) != _shown(node)
        ]
        self.nodes = dict(sorted({**before, **{n.node_index: n for n in response.nodes}}.items()))
        held_up, status = self.held_up, self.job.status
        self.job = response.job
        events = [event for event in response.events if self._is_new(event)]
        told = status != self.job.status or held_up != self.held_up
        return Change(events, changed, told, response.reset)

    def _is_new(self, event: JobEvent) -> bool:
        # An event has no number of its own, and all that are known come again after a reconnect.
        node = event.node_index if event.HasField("node_index") else None
        key = (event.at, event.kind, event.message, node)
        new = key not in self._told
        self._told[key] = None
        if len(self._told) > _TOLD_MAX:
            del self._told[next(iter(self._told))]
        return new

    @property
    def status(self) -> str:
        return JobStatus.Name(self.job.status)

    @property
    def held_up(self) -> str:
        """Why a job that runs may have to be waited for, such as a host that is silent."""
        return self.job.status_reason if self.status in ("STARTING", "RUNNING") else ""

    @property
    def attempt(self) -> int:
        """The newest attempt that a host was reserved for; 0 before."""
        return max((node.attempt for node in self.nodes.values()), default=0)

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    def counts(self) -> dict[str, int]:
        """How many nodes there are in each state."""
        return dict(sorted(Counter(node.state for node in self.nodes.values()).items()))


def _shown(node: NodeView | None) -> tuple[object, ...] | None:
    """What a person sees of a node: that its host is free of it is told by an event."""
    if node is None:
        return None
    return (node.attempt, node.state, node.host_id, node.private_ipv4_address, node.reason)


def exit_code(job: JobSummary) -> int:
    """What `submit --wait` exits with: main's exit code, but never 0 for a job that FAILED, as
    it does by a timeout, by `terminate`, or when its memory ran out."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    return job.container.exit_code or 1
