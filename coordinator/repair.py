"""What to do about rows of the journal that cannot be decoded, or that do not fit what came before.

Pure: entries in, a plan out; `check.py` runs it on a journal that no coordinator has open. Nothing
is deleted: a row is moved out of its stream, and what is known of it may take its place. Of a job
all rows go, since what follows a lost fact cannot be understood, and `JobSetAside` stands for them
at the place of the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from coordinator.core import events as e
from coordinator.core.errors import InvariantViolation
from coordinator.core.evolve import evolve
from coordinator.core.ids import HostId, JobId
from coordinator.core.invariants import check, check_job
from coordinator.core.lineage import ACCEPT
from coordinator.core.settings import DEFAULT_QUEUE
from coordinator.core.state import ClusterState
from coordinator.journal.codec import CodecError
from coordinator.journal.port import Entry, SetAside
from coordinator.shell import CODEC

_NO_STARTS = ("ClusterKeyMade", "OlderJournalAccepted")
"""Other rows of the coordinator than its starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A row that is wrong, why, and what setting it aside means for people."""

    entry: Entry
    reason: str
    consequence: str

    def __str__(self) -> str:
        where = f"row {self.entry.seq} of {self.entry.stream} ({self.entry.kind})"
        return f"{where}: {self.reason}\n    set aside: {self.consequence}"


@dataclass(slots=True)
class Plan:
    faults: list[Fault] = field(default_factory=list)
    rows: list[SetAside] = field(default_factory=list)
    impossible: str = ""
    """Why the state would be impossible all the same: nothing that setting rows aside can mend."""


def plan(entries: Sequence[Entry]) -> Plan:
    """What to set aside so that the rest can be replayed."""
    return _Planner(entries).plan()


class _Planner:
    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._events: dict[int, e.Event] = {}
        """What each row says, or what takes its place. A row that is not here is left out."""
        self._wrong: dict[int, tuple[Entry, str]] = {}
        self._streams: dict[str, list[Entry]] = {}
        for entry in entries:
            self._streams.setdefault(entry.stream, []).append(entry)
        self._lost_jobs: dict[str, str] = {}
        """Streams of jobs of which a row is wrong, and which."""

    def plan(self) -> Plan:
        for entry in self._entries:
            try:
                self._events[entry.seq] = CODEC.decode(entry.kind, entry.body)
            except CodecError as error:
                self._wrong[entry.seq] = entry, str(error)
        self._replace_jobs(entry for entry, _ in self._wrong.values())
        for entry, _ in list(self._wrong.values()):
            self._replace(entry)
        while (found := self._first_that_does_not_fit()) is not None:
            entry, reason = found
            # What took the place of a row may not fit either; then nothing takes its place.
            repeated = entry.seq in self._wrong
            self._wrong.setdefault(entry.seq, (entry, reason))
            self._events.pop(entry.seq)
            if not repeated:
                self._replace_jobs([entry])
                self._replace(entry)
        return self._result()

    def _first_that_does_not_fit(self) -> tuple[Entry, str] | None:
        state = ClusterState()
        for entry in self._entries:
            event = self._events.get(entry.seq)
            if event is None:
                continue
            try:
                evolve(state, event, entry.at_ms)
            except Exception as error:  # evolve refuses what does not fit by many types
                return entry, f"does not fit what came before: {type(error).__name__}: {error}"
        self._state = state
        for job in state.jobs.values():
            try:
                check_job(state, job)
            except InvariantViolation as error:
                newest = self._streams[f"job/{job.job_id}"][-1]
                return newest, f"the rows of the job are impossible together: {error}"
        return None

    def _result(self) -> Plan:
        made = Plan()
        for entry, reason in sorted(self._wrong.values(), key=lambda pair: pair[0].seq):
            made.faults.append(
                Fault(entry=entry, reason=reason, consequence=self._consequence(entry))
            )
        gone = dict(self._wrong)
        for stream, cause in self._lost_jobs.items():
            for entry in self._streams[stream]:
                gone.setdefault(entry.seq, (entry, f"of a job of which {cause} was set aside"))
        for seq, (entry, reason) in sorted(gone.items()):
            instead = self._events.get(seq)
            written = CODEC.encode(instead) if instead is not None else None
            made.rows.append(
                SetAside(
                    seq=seq,
                    reason=reason,
                    instead=replace(entry, kind=written[0], body=written[1]) if written else None,
                )
            )
        try:
            check(self._state, replayed=True)
        except InvariantViolation as error:
            made.impossible = str(error)
        return made

    # jobs

    def _replace_jobs(self, wrong: Iterable[Entry]) -> None:
        for entry in wrong:
            if entry.stream.startswith("job/") and entry.stream not in self._lost_jobs:
                self._lost_jobs[entry.stream] = f"row {entry.seq} ({entry.kind})"
                self._replace_job(entry)

    def _replace_job(self, wrong: Entry) -> None:
        rows = self._streams[wrong.stream]
        readable = [self._events.pop(row.seq) for row in rows if row.seq in self._events]
        submitted = next((each for each in readable if isinstance(each, e.JobSubmitted)), None)
        queue = submitted.job_queue if submitted is not None else ""
        if f"queue/{queue}" not in self._streams:
            queue = self._oldest_queue()
        _, reason = self._wrong[wrong.seq]
        self._events[rows[0].seq] = e.JobSetAside(
            job_id=JobId(wrong.stream.removeprefix("job/")),
            reason=f"row {wrong.seq} of the journal ({wrong.kind}) was set aside: {reason}",
            job_queue=queue,
            spec=submitted.spec if submitted is not None else None,
            client_token=submitted.client_token if submitted is not None else None,
            host_ids=tuple(
                host_id for host_id in _hosts_of(readable) if f"host/{host_id}" in self._streams
            ),
        )

    def _oldest_queue(self) -> str:
        queues = (name for name in self._streams if name.startswith("queue/"))
        return next(queues, f"queue/{DEFAULT_QUEUE}").removeprefix("queue/")

    # other streams

    def _replace(self, entry: Entry) -> None:
        """Put what is known of a row in its place; nothing where the rest goes on without it."""
        kind, _, name = entry.stream.partition("/")
        first = entry is self._streams[entry.stream][0]
        instead: e.Event | None = None
        if kind == "coordinator" and entry.kind not in _NO_STARTS:
            instead = e.CoordinatorStarted(
                epoch=self._epoch_before(entry) + 1, position=entry.seq - 1
            )
        elif kind == "queue" and first:
            instead = e.QueueCreated(name=name, priority=1, enabled=False)
        elif kind == "host" and (first or entry.kind == "HostRegistered"):
            instead = self._host(entry, HostId(name))
        elif kind == "host" and entry.kind == "HostDrained":
            instead = e.HostDrained(host_id=HostId(name), reason="its reason was set aside")
        elif kind == "host" and entry.kind == "HostResumed":
            instead = e.HostResumed(host_id=HostId(name))
        if instead is not None:
            self._events[entry.seq] = instead

    def _epoch_before(self, entry: Entry) -> int:
        """Each start counts one more, so a lost number follows from those before it."""
        epoch = 0
        for row in self._streams["coordinator"]:
            if row is entry:
                break
            if row.kind in _NO_STARTS:
                continue
            started = self._events.get(row.seq)
            epoch = started.epoch if isinstance(started, e.CoordinatorStarted) else epoch + 1
        return epoch

    def _host(self, entry: Entry, host_id: HostId) -> e.HostRegistered:
        """Which agent speaks for the host, and since which boot, is unknown until it is heard."""
        known = [
            event
            for event in (self._events.get(row.seq) for row in self._streams[entry.stream])
            if isinstance(event, e.HostRegistered)
        ]
        if known:
            return replace(known[-1], agent_uuid="", boot_id="")
        return e.HostRegistered(
            host_id=host_id, agent_uuid="", boot_id="", version="", engine="",
            instance_type="generic", vcpus=0, memory_mib=0, gpus=0, private_ipv4="",
        )  # fmt: skip

    def _consequence(self, entry: Entry) -> str:
        kind, _, name = entry.stream.partition("/")
        instead = self._events.get(entry.seq)
        match kind:
            case "job":
                rows = len(self._streams[entry.stream])
                return (
                    f"job {name} becomes UNREADABLE with all its {rows} rows: it is never started "
                    "again, what it runs goes on, and its hosts are held until nothing is left"
                )
            case "definition":
                return f"a revision or a deregistration of {name} is lost; register it again"
            case "queue" if isinstance(instead, e.QueueCreated):
                return f"queue {name} is DISABLED, with priority 1; update it as it should be"
            case "queue":
                return f"a change of queue {name} is lost; look at it and change it again"
            case "host" if isinstance(instead, e.HostRegistered):
                return f"the first agent that calls for host {name} is believed to be its agent"
            case "host":
                return f"look whether host {name} should be drained"
            case "coordinator" if entry.kind == "ClusterKeyMade":
                return (
                    "a new key is made, and what hosts have seen until now proves nothing more: "
                    "look whether this is the newest journal"
                )
            case "coordinator" if entry.kind == "OlderJournalAccepted":
                return f"where nothing is placed, say once more {ACCEPT}"
            case "coordinator":
                return (
                    "the number of that start follows from the others; hosts that were told of it "
                    "seem to have seen a newer journal: when this is the newest, start the "
                    f"coordinator once with {ACCEPT}"
                )
        return "nothing takes its place"


def _hosts_of(events: Sequence[e.Event]) -> dict[HostId, None]:
    """Hosts that, by what can be read, may have something of the job left."""
    held: dict[tuple[int, int], HostId] = {}
    for event in events:
        match event:
            case e.GangReserved():
                held |= {(event.attempt, p.node_index): p.host_id for p in event.placements}
            case e.NodeReplaced():
                held[event.attempt, event.node_index] = event.host_id
            case e.NodeRefused() | e.MainNotStarted() | e.NodeReleased():
                held.pop((event.attempt, event.node_index), None)
            case e.GangAbandoned() | e.AttemptRefused():
                held = {key: host for key, host in held.items() if key[0] != event.attempt}
    return dict.fromkeys(held.values())
