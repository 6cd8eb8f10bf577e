"""Whatever row of a journal is lost, the rest is replayed and other jobs do not notice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from coordinator import shell
from coordinator.core.events import JobSetAside, stream_of
from coordinator.core.ids import HostId, JobId
from coordinator.core.inputs import CreateQueue
from coordinator.core.machine import Machine
from coordinator.core.settings import Settings
from coordinator.core.states import JobState
from coordinator.journal.port import Entry, Replay
from coordinator.repair import plan
from tests.core.harness import Cluster

SETTINGS = Settings()


def history() -> tuple[Cluster, list[Entry]]:
    """One job runs on h1 and h2, a third host was drained, one job waits in a queue of its own,
    one votes on h3, and one has ended on a host that another job has now."""
    c = Cluster(SETTINGS)
    c.hosts(4)
    c.do(CreateQueue(name="night", priority=2))
    ended = c.submit(1, job_id="ended")
    c.prepared("h1")
    c.up("h1")
    running = c.submit(2, job_id="running", attempts=3, token="t")
    c.exited("h1", 0)
    c.released("h1")
    assert c.is_(ended) is JobState.SUCCEEDED
    c.prepared("h2", "h3")
    c.up("h2", "h3")
    assert c.is_(running) is JobState.RUNNING
    c.submit(2, job_id="votes")
    c.prepared("h1")
    c.submit(9, job_id="waits", queue="night", after=(JobId("running"),))
    entries = []
    for number, stamped in enumerate(c.journal, start=1):
        kind, body = shell.CODEC.encode(stamped.event)
        stream = stream_of(stamped.event)
        if stream != "job/ended":  # it has ended, so its stream is closed
            entries.append(
                Entry(stream=stream, at_ms=stamped.at_ms, kind=kind, body=body, seq=number)
            )
    return c, entries


CLUSTER, ENTRIES = history()


def repaired(entries: Sequence[Entry]) -> list[Entry]:
    found = plan(entries)
    assert not found.impossible
    changes = {row.seq: row for row in found.rows}
    left = []
    for entry in entries:
        change = changes.get(entry.seq)
        if change is None:
            left.append(entry)
        elif change.instead is not None:
            assert change.instead.stream == entry.stream
            left.append(replace(change.instead, seq=entry.seq))
    assert plan(left).rows == []
    return left


def replayed(entries: Sequence[Entry]) -> Machine:
    machine = shell.replayed(SETTINGS, Replay(entries=entries, ended=[]))
    machine.check(replayed=True)
    machine.start(CLUSTER.now)
    return machine


def others(machine: Machine, but: str) -> dict[str, object]:
    return {
        job_id: replace(job, order=0) for job_id, job in machine.state.jobs.items() if job_id != but
    }


def test_a_sound_journal_has_no_fault() -> None:
    assert plan(ENTRIES).faults == []
    assert repaired(ENTRIES) == ENTRIES
    assert set(replayed(ENTRIES).state.jobs) == {"running", "votes", "waits"}


@pytest.mark.parametrize("body", ["{", '{"job_id":1}', '"text"'])
@pytest.mark.parametrize("place", range(len(ENTRIES)))
def test_any_row_may_be_broken(place: int, body: str) -> None:
    bad = ENTRIES[place]
    broken = [*ENTRIES[:place], replace(bad, body=body), *ENTRIES[place + 1 :]]
    with pytest.raises(shell.UnreadableEntry, match=rf"row {bad.seq} of {bad.stream} \({bad.kind}"):
        shell.replayed(SETTINGS, Replay(entries=broken, ended=[]))
    faults = plan(broken).faults
    assert [fault.entry.seq for fault in faults][:1] == [bad.seq]
    machine = replayed(repaired(broken))
    kind, _, name = bad.stream.partition("/")
    if kind == "host":  # with its facts its address is lost, which is where a gang's nodes are
        assert [job.state for job in machine.state.jobs.values()] == [
            "RUNNING",
            "RUNNABLE",
            "PENDING",
        ]
        return
    if kind != "job":
        assert others(machine, "") == others(replayed(ENTRIES), "")
        return
    assert others(machine, name) == others(replayed(ENTRIES), name)
    job = machine.state.jobs[JobId(name)]
    assert job.state is JobState.SUBMITTED
    assert f"row {bad.seq} of the journal ({bad.kind}) was set aside" in job.set_aside
    lines = [queue.runnable for queue in machine.state.queues.values()]
    assert job.job_id not in [job_id for line in lines for _, job_id in line]


@pytest.mark.parametrize("place", range(len(ENTRIES)))
def test_any_row_may_be_missing_or_written_by_a_newer_version(place: int) -> None:
    """What follows a missing row may not fit; then that is what is wrong."""
    replayed(repaired([*ENTRIES[:place], *ENTRIES[place + 1 :]]))
    newer = replace(ENTRIES[place], kind="NodeDreamed")
    assert "unknown event kind" in plan([newer]).faults[0].reason
    replayed(repaired([*ENTRIES[:place], newer, *ENTRIES[place + 1 :]]))


def test_every_row_may_be_broken() -> None:
    machine = replayed(repaired([replace(entry, body="{") for entry in ENTRIES]))
    assert set(machine.state.jobs) == {"running", "votes", "waits"}
    assert set(machine.state.hosts) == {"h1", "h2", "h3", "h4"}
    assert machine.state.epoch == replayed(ENTRIES).state.epoch
    assert not any(queue.enabled for queue in machine.state.queues.values())


def test_what_can_be_read_of_a_job_is_kept() -> None:
    place = next(n for n, entry in enumerate(ENTRIES) if entry.kind == "ChildrenLaunched")
    bad = replace(ENTRIES[place], body="{")
    broken = [*ENTRIES[:place], bad, *ENTRIES[place + 1 :]]
    rows = plan(broken).rows
    assert {row.seq for row in rows} == {e.seq for e in ENTRIES if e.stream == "job/running"}
    machine = replayed(repaired(broken))
    job = machine.state.jobs[JobId("running")]
    assert (job.spec.num_nodes, job.client_token) == (2, "t")
    assert list(job.may_be_on) == [HostId("h2"), HostId("h3")]
    assert machine.state.tokens["t"] == "running"


def test_a_job_of_which_the_submission_is_lost_is_known_by_its_id() -> None:
    place = next(n for n, entry in enumerate(ENTRIES) if entry.kind == "JobSubmitted")
    broken = [*ENTRIES[:place], replace(ENTRIES[place], body=""), *ENTRIES[place + 1 :]]
    instead = next(row.instead for row in plan(broken).rows if row.instead is not None)
    event = shell.CODEC.decode(instead.kind, instead.body)
    assert isinstance(event, JobSetAside)
    assert (event.job_id, event.spec, event.job_queue) == ("running", None, "default")
