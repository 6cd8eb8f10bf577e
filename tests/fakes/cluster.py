"""A coordinator without a daemon: the real machine and a journal in memory, one step at a time.

Time stands still but for what a test does. Hosts are played by the test through `FakeHost`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TypeVar

from coordinator import shell
from coordinator.core import inputs as i
from coordinator.core.effects import Stamped, Step
from coordinator.core.errors import Rejected
from coordinator.core.events import Event
from coordinator.core.ids import HostId, JobId, NodeKey, SessionId
from coordinator.core.machine import Machine
from coordinator.core.settings import Settings
from coordinator.core.state import ClusterState, Job
from coordinator.core.states import Progress
from coordinator.journal.memory import MemoryJournal
from coordinator.journal.port import LogTail, Record, RecordQuery
from coordinator.rpc.ports import Render, Unreachable, Watching
from coordinator.watch import Watches
from tests.fakes.live_objects import refuse_live

T = TypeVar("T")

START_MS = 1_700_000_000_000


class FakeCluster:
    """`rpc.ports.Cluster`. Each step takes one second, unless `now_ms` is moved further."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.machine = Machine(self.settings)
        self.journal = MemoryJournal()
        self.now_ms = START_MS
        self.logs: dict[NodeKey, FakeLog] = {}
        self.before_history: Callable[[], None] | None = None
        """What happens between the beginning of a watch and the reading of the history."""
        self.after_history: Callable[[], None] | None = None
        """What happens between the reading of the history and its telling."""
        self.watches = Watches()
        self._commit(self.machine.start(self.now_ms))

    @property
    def state(self) -> ClusterState:
        return self.machine.state

    def job(self, job_id: str) -> Job:
        return self.state.jobs[JobId(job_id)]

    def feed(self, given: i.Input) -> object:
        """One step, a second after the last; its reply. The state is checked after it. Deadlines
        are looked at only in `tick`: a test says what time does."""
        self.now_ms += 1_000
        step = self.machine.step([given], self.now_ms)
        self.machine.check()
        self._commit(step)
        self.watches.publish(step, self.state)
        return step.replies[0]

    def tick(self, seconds: int) -> None:
        """Let so much time pass, in which the coordinator listens."""
        for _ in range(seconds):
            self.feed(i.Tick())

    def know(self, events: Sequence[Event]) -> None:
        """Facts that are in the journal and have no effect."""
        self._commit(Step(events=[Stamped(at_ms=self.now_ms, event=each) for each in events]))

    def _commit(self, step: Step) -> None:
        batch = shell.batch_of(step)
        if batch is not None:
            self.journal.append_now(batch)

    # rpc.ports.Cluster

    async def ask(self, given: i.Input) -> object:
        reply = self.feed(given)
        if isinstance(reply, Rejected):
            raise reply
        return reply

    async def read(self, query: Callable[[ClusterState], T]) -> T:
        value = query(self.state)
        refuse_live(self.state, value)
        return value

    async def record(self, job_id: JobId) -> Record | None:
        return await self.journal.record(job_id)

    async def records(
        self, query: RecordQuery, *, after: tuple[int, str] | None, limit: int
    ) -> Sequence[Record]:
        return await self.journal.records(query, after=after, limit=limit)

    async def history(
        self, job_id: JobId, *, after: int, limit: int
    ) -> Sequence[tuple[int, Stamped]]:
        if self.before_history is not None:
            self.before_history()
        entries = await self.journal.history(f"job/{job_id}", after=after, limit=limit)
        if self.after_history is not None:
            self.after_history()
        return [(number, shell.stamped(entry)) for number, entry in entries]

    async def log_tail(self, key: NodeKey) -> LogTail | None:
        return await self.journal.log_tail(key.job_id, key.node_index, key.attempt)

    def watch(self, job_id: JobId, render: Render[T]) -> AbstractAsyncContextManager[Watching[T]]:
        return self.watches.open(job_id, render, self.read, lambda: self.journal.position)

    async def read_log(
        self, key: NodeKey, *, offset: int, follow: bool
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        log = self.logs.get(key)
        if log is None:
            raise Unreachable("the host is away")
        for piece in log.from_offset(offset):
            yield piece
        if log.breaks_off:
            raise Unreachable("the host broke it off", is_passing=log.comes_back)

    async def decode_job(self, record: Record) -> Job:
        return shell.job_of(record)


@dataclass
class FakeLog:
    """A node's output as its host delivers it; `dropped` bytes at the beginning are gone."""

    pieces: list[bytes]
    dropped: int = 0
    breaks_off: bool = False
    comes_back: bool = False

    def from_offset(self, offset: int) -> list[tuple[int, bytes]]:
        whole = b"".join(self.pieces)
        start = offset if offset >= 0 else max(len(whole) + offset, 0)
        found, position = [], 0
        for piece in self.pieces:
            first = max(start, position, self.dropped)
            if first < position + len(piece):
                found.append((first, piece[first - position :]))
            position += len(piece)
        return found


@dataclass
class FakeHost:
    """An agent, played by hand."""

    cluster: FakeCluster
    host_id: HostId
    sessions: int = 0
    seq: int = 0
    options: dict[str, object] = field(default_factory=dict)

    @property
    def session_id(self) -> SessionId:
        return SessionId(f"{self.host_id}-{self.sessions}")

    @property
    def address(self) -> str:
        return f"10.0.0.{self.host_id.rpartition('-')[2]}"

    def hello(self, observed: tuple[i.Observation, ...] = (), unusable_reason: str = "") -> None:
        self.sessions += 1
        facts: dict[str, object] = {
            "agent_uuid": f"uuid-{self.host_id}",
            "boot_id": "boot-1",
            "version": "0.1.0",
            "engine": "process",
            "instance_type": "generic",
            "vcpus": 8,
            "memory_mib": 16_384,
            "gpus": 0,
            "private_ipv4": self.address,
            "is_attached": True,
        }
        self.cluster.feed(
            i.HostHello(
                session_id=self.session_id,
                host_id=self.host_id,
                observed=observed,
                unusable_reason=unusable_reason,
                **(facts | self.options),  # type: ignore[arg-type]
            )
        )

    def say(self, key: NodeKey, progress: Progress, **more: object) -> None:
        self.seq += 1
        seen = i.Observation(key=key, progress=progress, **more)  # type: ignore[arg-type]
        self.cluster.feed(
            i.HostReport(session_id=self.session_id, seq=self.seq, observations=(seen,))
        )

    def heartbeat(self) -> None:
        self.cluster.feed(i.HostHeartbeat(session_id=self.session_id, seq=1))

    def disconnect(self) -> None:
        self.cluster.feed(i.SessionEnded(session_id=self.session_id))


class FakeHosts:
    """All hosts, and what those of one job do."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.by_id: dict[str, FakeHost] = {}

    def join(self, *host_ids: str, **options: object) -> None:
        for host_id in host_ids:
            host = FakeHost(self.cluster, HostId(host_id), options=options)
            self.by_id[host_id] = host
            host.hello()

    def key(self, job_id: str, node_index: int, attempt: int | None = None) -> NodeKey:
        job = self.cluster.job(job_id)
        return NodeKey(job.job_id, attempt or len(job.attempts), node_index)

    def host_of(self, key: NodeKey) -> FakeHost:
        node = self.cluster.job(key.job_id).node(key)
        assert node is not None, f"{key} has no host"
        return self.by_id[node.host_id]

    def vote(self, job_id: str) -> None:
        """Every host of the gang votes yes: the main node is launched."""
        for index in sorted(self.cluster.job(job_id).attempts[-1].nodes):
            key = self.key(job_id, index)
            self.host_of(key).say(key, Progress.PREPARED)

    def up(self, job_id: str, node_index: int) -> None:
        key = self.key(job_id, node_index)
        host = self.host_of(key)
        host.say(key, Progress.UP, private_ipv4=host.address)

    def exit(
        self,
        job_id: str,
        node_index: int,
        exit_code: int | None = 0,
        reason: str = "",
        log_tail: bytes | None = None,
        log_tail_offset: int = 0,
    ) -> None:
        key = self.key(job_id, node_index)
        self.host_of(key).say(
            key,
            Progress.EXITED,
            exit_code=exit_code,
            reason=reason,
            log_tail=log_tail,
            log_tail_offset=log_tail_offset,
        )

    def release(self, job_id: str, attempt: int | None = None) -> None:
        """Nothing of the attempt is left anywhere; nodes that still ran were killed."""
        job = self.cluster.job(job_id)
        number = attempt or len(job.attempts)
        for index, node in sorted(job.attempts[number - 1].nodes.items()):
            key = NodeKey(job.job_id, number, index)
            code = node.exit_code if node.state.is_terminal else 137
            if not node.released:
                self.by_id[node.host_id].say(key, Progress.RELEASED, exit_code=code)

    def run(self, job_id: str, exit_code: int = 0) -> None:
        """The job's attempt from the votes to the end, until nothing of it is left."""
        self.vote(job_id)
        main = self.cluster.job(job_id).spec.main_node
        self.up(job_id, main)
        for index in sorted(self.cluster.job(job_id).attempts[-1].nodes):
            if index != main:
                self.up(job_id, index)
        self.exit(job_id, main, exit_code)
        self.release(job_id)
