"""A job of which a row was set aside: what it runs goes on, and nothing is started beside it."""

from __future__ import annotations

import pytest

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.derive import assignments
from coordinator.core.effects import Stamped
from coordinator.core.errors import Conflict, DuplicateAgent
from coordinator.core.explain import explain, status_reason
from coordinator.core.ids import HostId, JobId, NodeKey
from coordinator.core.machine import Machine
from coordinator.core.settings import DEFAULT_QUEUE
from coordinator.core.states import Desired, JobState, Progress
from tests.core.harness import Cluster

LOST = JobId("lost")
MAIN, CHILD = NodeKey(LOST, 1, 0), NodeKey(LOST, 1, 1)
BECAUSE = "row 7 of the journal (NodeRunning) was set aside: broken"


def repaired(*host_ids: str) -> Cluster:
    """A cluster whose journal names the job `lost`, which may run on these hosts; h1 to h3 have
    not called since the start."""
    c = Cluster()
    c.hosts(3)
    lost = e.JobSetAside(
        job_id=LOST,
        reason=BECAUSE,
        job_queue=DEFAULT_QUEUE,
        host_ids=tuple(map(HostId, host_ids)),
    )
    c.journal.append(Stamped(at_ms=c.now, event=lost))
    c.machine = Machine(c.settings)
    c.machine.replay(c.journal, [])
    c._sessions.clear()
    c._absorb(c.machine.start(c.now))
    return c


def seen(key: NodeKey, progress: Progress) -> i.Observation:
    return i.Observation(key=key, progress=progress)


def wanted(c: Cluster, host: str) -> dict[NodeKey, Desired]:
    found = assignments(c.state, c.settings, HostId(host))
    return {assignment.key: assignment.desired for assignment in found}


def test_what_runs_is_named_and_let_be_also_where_nobody_knew_of_it() -> None:
    c = repaired("h1")
    c.hello("h1", seen(MAIN, Progress.UP))
    c.hello("h2", seen(CHILD, Progress.UP))
    c.hello("h3")
    assert wanted(c, "h1") == {MAIN: Desired.PREPARE}
    assert wanted(c, "h2") == {CHILD: Desired.PREPARE}
    (sent,) = c.sent[HostId("h1")]
    # An agent refuses an assignment without a container, and a lease of 0 never ends.
    assert (sent.container is not None, sent.lease_seconds) == (True, 0)
    assert list(c.job(LOST).may_be_on) == ["h1", "h2"]
    assert c.all_facts(e.JobFoundOnHost) == [e.JobFoundOnHost(job_id=LOST, host_id=HostId("h2"))]
    c.wait(3600)
    assert wanted(c, "h1") == {MAIN: Desired.PREPARE}
    c.replayed()


def test_its_hosts_take_nothing_else_until_nothing_of_it_is_left() -> None:
    c = repaired("h1", "h2")
    for host, key in (("h1", MAIN), ("h2", CHILD)):
        c.hello(host, seen(key, Progress.UP))
    c.hello("h3")
    other = c.submit(2)
    assert c.job(other).current is None
    assert "h1: may still run lost#0" in (status_reason(c.state, c.settings, c.job(other)) or "")
    c.says("h2", Progress.EXITED, CHILD, exit_code=0)
    assert wanted(c, "h2") == {CHILD: Desired.STOP}
    assert c.job(other).current is None
    c.says("h2", Progress.RELEASED, CHILD)
    attempt = c.job(other).current
    assert attempt is not None
    assert {node.host_id for node in attempt.nodes.values()} == {"h2", "h3"}
    assert list(c.job(LOST).may_be_on) == ["h1"]


@pytest.mark.parametrize("progress", [Progress.ASSIGNED, Progress.PREPARED, Progress.REFUSED])
def test_a_vote_for_it_is_let_go(progress: Progress) -> None:
    c = repaired()
    c.hello("h1", seen(MAIN, progress))
    assert wanted(c, "h1") == {MAIN: Desired.STOP}


def test_an_agent_that_does_not_name_it_has_nothing_of_it() -> None:
    c = repaired("h1", "h2")
    c.hello("h1")
    (left,) = c.all_facts(e.JobLeftHost)
    assert (left.host_id, left.proof) == ("h1", "the agent does not know it")
    assert list(c.job(LOST).may_be_on) == ["h2"]


def test_it_is_told_as_unreadable_with_its_hosts() -> None:
    c = repaired("h1")
    job = c.job(LOST)
    assert job.state is JobState.SUBMITTED
    expected = (
        f"UNREADABLE: {BECAUSE}; nothing of it is started or stopped, and it may still run on h1"
    )
    assert (status_reason(c.state, c.settings, job) or "").startswith(expected)
    assert explain(c.state, c.settings, job).summary.startswith(expected)
    c.hello("h1")
    # A row that named a host may be among those that cannot be read.
    said = status_reason(c.state, c.settings, job) or ""
    assert "no host that has called since the coordinator started has anything of it" in said
    assert ", but these have not called: h2, h3; to give it up nevertheless, so that " in said
    c.hello("h2")
    c.hello("h3")
    said = status_reason(c.state, c.settings, job) or ""
    assert said.endswith(f"no host has anything of it; to give it up: muster terminate {LOST}")


@pytest.mark.parametrize("kind", [i.Terminate, i.Cancel])
def test_it_is_given_up_when_nothing_of_it_is_left(kind: type[i.Terminate | i.Cancel]) -> None:
    c = repaired("h1")
    c.hello("h1", seen(MAIN, Progress.UP))
    end = kind(job_id=LOST, node_index=None, reason="known to be done")
    with pytest.raises(Conflict, match="is UNREADABLE and may still run on h1; it can be given up"):
        c.do(end)
    dependent = c.submit(1, after=(LOST,))
    c.says("h1", Progress.RELEASED, MAIN)
    c.do(end)
    assert c.is_(LOST) is JobState.FAILED
    assert c.archived[LOST].status_reason == "known to be done"
    assert c.is_(dependent) is JobState.FAILED
    assert LOST not in c.state.jobs
    assert not c.state.set_aside


def test_what_is_found_after_it_was_given_up_is_stopped() -> None:
    """No host had called, and nobody knew of the one that runs it."""
    c = repaired()
    c.do(i.Terminate(job_id=LOST, node_index=None, reason="never mind"))
    assert c.is_(LOST) is JobState.FAILED
    waits = c.submit(3)
    c.hello("h1", seen(MAIN, Progress.UP))
    c.hello("h2")
    c.hello("h3")
    assert wanted(c, "h1") == {MAIN: Desired.STOP}
    assert MAIN in c.state.presence[HostId("h1")].strays
    assert c.job(waits).current is None, "its host takes nothing before it has let go"
    c.says("h1", Progress.RELEASED, MAIN)
    assert c.job(waits).current is not None


def test_a_fence_vouches_for_it() -> None:
    c = repaired("h1")
    c.wait(60)
    c.do(i.FenceHost(host_id=HostId("h1")))
    assert not c.job(LOST).may_be_on
    c.do(i.Terminate(job_id=LOST, node_index=None, reason="off"))
    assert c.is_(LOST) is JobState.FAILED


def test_another_machine_does_not_speak_for_its_host() -> None:
    c = repaired("h1")
    c.wait(60)
    with pytest.raises(DuplicateAgent, match="may still run lost; when that machine is certainly"):
        c.hello("h1", agent_uuid="another")


def test_its_queue_is_deleted_when_it_is_given_up() -> None:
    c = repaired("h1")
    c.do(i.UpdateQueue(name=DEFAULT_QUEUE, enabled=False))
    c.do(i.DeleteQueue(name=DEFAULT_QUEUE))
    assert DEFAULT_QUEUE in c.state.queues
    c.hello("h1")
    c.do(i.Terminate(job_id=LOST, node_index=None, reason="done"))
    assert DEFAULT_QUEUE not in c.state.queues


def test_a_host_whose_facts_were_set_aside_goes_on_with_the_agent_that_calls() -> None:
    c = Cluster()
    c.hosts(1)
    job_id = c.submit(1)
    c.prepared("h1")
    c.up("h1")
    facts = c.state.hosts[HostId("h1")].facts
    unknown = e.HostRegistered(
        host_id=facts.host_id, agent_uuid="", boot_id="", version="", engine="",
        instance_type="generic", vcpus=0, memory_mib=0, gpus=0, private_ipv4="",
    )  # fmt: skip
    c.journal = [
        Stamped(at_ms=each.at_ms, event=unknown) if each.event == facts else each
        for each in c.journal
    ]
    c.machine = Machine(c.settings)
    c.machine.replay(c.journal, [])
    c._absorb(c.machine.start(c.now))
    key = NodeKey(job_id, 1, 0)
    c.hello("h1", i.Observation(key=key, progress=Progress.UP, was_up=True))
    assert c.is_(job_id) is JobState.RUNNING
    assert c.state.hosts[HostId("h1")].facts == facts
    assert wanted(c, "h1") == {key: Desired.RUN}
