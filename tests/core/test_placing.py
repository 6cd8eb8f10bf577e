"""Nothing starts on a journal that is older than what a host has seen, nor too soon after a
start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.effects import SendAck, SendGoodbyeAck
from coordinator.core.explain import explain, status_reason
from coordinator.core.ids import HostId, JobId, NodeKey
from coordinator.core.lineage import ACCEPT, Seen, token
from coordinator.core.states import Desired, JobState, Progress
from tests.core.harness import Cluster

OLDER = "The journal of the coordinator is older than what host h1 has seen"
SOON = "The coordinator has just started: nothing is placed before"


def why(cluster: Cluster, job_id: JobId) -> str:
    return status_reason(cluster.state, cluster.settings, cluster.job(job_id)) or ""


def is_placed(cluster: Cluster, job_id: JobId) -> bool:
    return cluster.job(job_id).current is not None


def acks(cluster: Cluster) -> list[int]:
    return [each.report_seq for each in cluster.last.effects if isinstance(each, SendAck)]


def seen(key: NodeKey, progress: Progress, **members: Any) -> i.Observation:
    return i.Observation(key=key, progress=progress, **members)


def keys_of(job_id: JobId, nodes: int) -> dict[str, NodeKey]:
    """The keys of nodes that were placed on h1, h2, ... in this order."""
    return {f"h{index + 1}": NodeKey(job_id, 1, index) for index in range(nodes)}


def older(cluster: Cluster, *, known: bool = False, accepts_older: bool = False) -> JobId:
    """A job waits; it runs to its end on one of two hosts; the journal of before that is brought
    back. Both hosts remember, and have not called yet. `known`: the journal knows the hosts."""
    if known:
        cluster.hosts(2)
        cluster.hang_up("h1")
        cluster.hang_up("h2")
    job = cluster.submit(1)
    copy = list(cluster.journal)
    for host in ("h1", "h2") if known else cluster.hosts(2):
        cluster.hello(host)
    cluster.run(job)
    cluster.finish(job)
    token = cluster.token()
    for host_id, hello in cluster.hellos.items():
        cluster.hellos[host_id] = replace(hello, journal_token=token)
    cluster.bring_back(copy, accepts_older=accepts_older)
    return job


def test_an_older_journal_runs_no_ended_job_again(cluster: Cluster) -> None:
    job = older(cluster, known=True)
    cluster.hello("h1")
    cluster.hello("h2")
    cluster.wait(100)
    assert not is_placed(cluster, job)
    assert cluster.wants("h1") is cluster.wants("h2") is None
    assert why(cluster, job).startswith(OLDER)
    assert ACCEPT in why(cluster, job)
    assert explain(cluster.state, cluster.settings, cluster.job(job)).summary == why(cluster, job)


def test_also_a_host_that_the_journal_does_not_know_is_believed(cluster: Cluster) -> None:
    job = older(cluster)
    cluster.hello("h1")
    cluster.hello("h2")
    assert not is_placed(cluster, job)
    assert why(cluster, job).startswith(OLDER)


def test_also_a_host_whose_hello_has_to_wait_is_believed(cluster: Cluster) -> None:
    """It has rebooted since the copy; the other, which knows nothing, would be given the job."""
    job = older(cluster, known=True)
    cluster.hello("h1", boot_id="boot-2", waits=False)
    cluster.hello("h2", journal_token=b"")
    assert not is_placed(cluster, job)
    assert why(cluster, job).startswith(OLDER)


def test_no_host_is_told_anything_that_would_hide_what_it_knows(cluster: Cluster) -> None:
    older(cluster)
    assert cluster.token() != b""
    cluster.hello("h1")
    assert cluster.token() == b""


def test_submissions_are_taken_and_wait(cluster: Cluster) -> None:
    older(cluster)
    cluster.hello("h1")
    job = cluster.submit(1)
    assert why(cluster, job).startswith(OLDER)


def test_an_operator_can_say_that_this_journal_counts(cluster: Cluster) -> None:
    job = older(cluster, accepts_older=True)
    cluster.hello("h1")
    (fact,) = cluster.all_facts(e.OlderJournalAccepted)
    assert fact.host_id == "h1"
    cluster.run(job)
    cluster.finish(job)
    # What was given up is given up for good, also by hosts that were away; what is new is not.
    cluster.restart()
    cluster.hello("h1")
    assert cluster.state.may_start
    assert len(cluster.all_facts(e.OlderJournalAccepted)) == 1


def test_a_flag_that_is_left_in_a_unit_takes_no_other_journal(cluster: Cluster) -> None:
    job = older(cluster, accepts_older=True)
    cluster.hello("h1")
    copy = list(cluster.journal)
    cluster.run(job)
    cluster.finish(job)
    token = cluster.token()
    cluster.bring_back(copy, accepts_older=True)
    cluster.hello("h1", journal_token=token)
    assert why(cluster, job).startswith(OLDER)
    # Left out and given again, it is an operator's word.
    cluster.restart()
    cluster.restart(accepts_older=True)
    cluster.hello("h1", journal_token=token)
    assert cluster.state.may_start


def test_the_same_journal_again_is_not_older(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    token = cluster.token()
    cluster.restart()
    cluster.hello("h1", seen(NodeKey(job, 1, 0), Progress.UP), journal_token=token)
    cluster.finish(job)
    token = cluster.token()
    cluster.restart()
    cluster.hello("h1", journal_token=token)
    assert cluster.state.outrun is None
    cluster.run(cluster.submit(1))


def test_a_token_of_another_cluster_proves_nothing(cluster: Cluster) -> None:
    cluster.hosts(1, journal_token=b"aa:7:" + b"0" * 64)
    cluster.run(cluster.submit(1))


def test_what_an_older_journal_does_not_know_goes_on(cluster: Cluster) -> None:
    """A job of after the copy, and another attempt of a job that the copy has in line."""
    job = older(cluster)
    for number, key in enumerate((NodeKey(JobId("later"), 1, 0), NodeKey(job, 1, 0)), 1):
        host = f"h{number}"
        cluster.hello(host, seen(key, Progress.UP))
        (told,) = cluster.sent[HostId(host)]
        assert (told.key, told.desired) == (key, Desired.PREPARE)
        cluster.says(host, Progress.RELEASED, key, exit_code=0)
        assert acks(cluster) == []
        assert cluster.sent[HostId(host)] == ()


def test_a_vote_that_an_older_journal_does_not_know_is_kept(cluster: Cluster) -> None:
    """The newer journal may be about to start it; let go, it would seem to have failed to start."""
    older(cluster)
    key = NodeKey(JobId("later"), 1, 0)
    cluster.hello("h1", seen(key, Progress.PREPARED))
    assert cluster.wants("h1") is Desired.PREPARE
    cluster.says("h1", Progress.REFUSED, key, reason="no space left")
    assert cluster.wants("h1") is None


def test_what_an_older_journal_knows_goes_on_and_ends(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    cluster.run(job)
    copy = list(cluster.journal)
    cluster.drain("h2")
    token = cluster.token()
    keys = keys_of(job, 2)
    cluster.bring_back(copy)
    for host, key in keys.items():
        cluster.hello(host, seen(key, Progress.UP), journal_token=token)
        assert cluster.wants(host) is Desired.RUN
    cluster.says("h1", Progress.EXITED, keys["h1"], exit_code=0, was_up=True)
    assert cluster.is_(job) is JobState.SUCCEEDED
    assert cluster.wants("h2") is Desired.PREPARE, "nothing is stopped by an older journal"
    assert acks(cluster) == []


def test_a_goodbye_is_not_acknowledged(cluster: Cluster) -> None:
    """Its agent would let its lease go, and the newer journal would start the next attempt when it
    counts the lease as over: beside what goes on."""
    job = older(cluster)
    key = NodeKey(job, 2, 0)
    cluster.hello("h1", seen(key, Progress.UP))
    cluster.do(i.HostGoodbye(session_id=cluster.session("h1"), goes_on=(key,)))
    assert not [each for each in cluster.last.effects if isinstance(each, SendGoodbyeAck)]
    assert "AgentStopped" not in cluster.facts(), "its lease runs, and so does the verdict"


def test_accepted_it_stops_what_it_does_not_know(cluster: Cluster) -> None:
    job = older(cluster, accepts_older=True)
    cluster.hello("h1", seen(NodeKey(job, 1, 0), Progress.UP))
    assert cluster.wants("h1") is Desired.STOP
    cluster.hello("h2", seen(NodeKey(JobId("later"), 1, 0), Progress.UP))
    assert cluster.wants("h2") is not Desired.RUN


# after a start


def test_after_a_start_half_of_the_hosts_must_have_called(cluster: Cluster) -> None:
    cluster.hosts(5)
    cluster.restart()
    job = cluster.submit(1)
    for host in ("h1", "h2"):
        cluster.hello(host)
        assert why(cluster, job).startswith(SOON)
    cluster.hello("h2")
    cluster.hello("h6", agent_uuid="new")
    assert not is_placed(cluster, job)
    cluster.hello("h3")
    cluster.run(job)


def test_or_have_had_the_time_to(cluster: Cluster) -> None:
    cluster.hosts(5)
    cluster.restart()
    job = cluster.submit(1)
    cluster.hello("h1")
    cluster.wait(29)
    assert not is_placed(cluster, job)
    cluster.wait(2)
    cluster.run(job)


def test_time_in_which_nobody_listened_does_not_count(cluster: Cluster) -> None:
    cluster.hosts(3)
    cluster.restart()
    job = cluster.submit(1)
    cluster.hello("h1")
    cluster.now += 600_000
    cluster.do(i.Tick())
    assert not is_placed(cluster, job)


def test_after_such_a_time_the_rest_of_the_wait_follows(cluster: Cluster) -> None:
    cluster.hosts(3)
    cluster.restart()
    cluster.hello("h1")
    cluster.now += 60_000
    cluster.do(i.Tick())
    assert not cluster.state.may_start
    cluster.wait(cluster.settings.lost_after_ms / 1000)
    assert cluster.state.may_start


def test_a_vote_that_is_complete_starts_its_main_after_the_wait(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    cluster.prepared("h1")
    cluster.restart()
    keys = keys_of(job, 2)
    cluster.hello("h3", agent_uuid="new")
    cluster.hello("h2", seen(keys["h2"], Progress.PREPARED))
    assert cluster.is_(job) is JobState.STARTING
    assert cluster.wants("h2") is Desired.PREPARE


def test_a_main_that_its_agent_has_not_started_waits_too(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(1)
    (host,) = cluster.start_main(job)
    voted = seen(cluster.key(host), Progress.PREPARED)
    cluster.restart()
    cluster.hello(host, voted)
    assert cluster.wants(host) is Desired.PREPARE
    other = next(name for name in ("h1", "h2", "h3") if name != host)
    cluster.hello(other)
    assert cluster.wants(host) is Desired.RUN


def released_too_soon(cluster: Cluster) -> tuple[JobId, str, str]:
    """After a start the first host to call has reported the end of a job: the job, that host, and a
    host whose call ends the wait."""
    cluster.hosts(3)
    job = cluster.submit(1)
    (host,) = cluster.run(job)
    key = NodeKey(job, 1, 0)
    cluster.restart()
    cluster.hello(host, seen(key, Progress.UP))
    cluster.says(host, Progress.RELEASED, key, exit_code=0, was_up=True)
    return job, host, next(name for name in ("h1", "h2", "h3") if name != host)


def test_reports_are_acknowledged_when_the_wait_is_over(cluster: Cluster) -> None:
    job, _, other = released_too_soon(cluster)
    assert (cluster.is_(job), acks(cluster)) == (JobState.SUCCEEDED, [])
    cluster.hello(other)
    assert acks(cluster) == [1]


def test_a_report_of_a_session_before_is_not_acknowledged_to_the_next(cluster: Cluster) -> None:
    """An agent that was started anew numbers its reports anew, and would forget what it has not
    told."""
    _, host, other = released_too_soon(cluster)
    cluster.hello(host)
    cluster.hello(other)
    assert acks(cluster) == []


def test_also_when_the_others_never_call(cluster: Cluster) -> None:
    released_too_soon(cluster)
    told = []
    while not cluster.state.may_start:
        cluster.wait(1)
        told += acks(cluster)
    assert told == [1]


@pytest.mark.parametrize("calls", [True, False])
def test_never_when_the_journal_is_an_older_one(cluster: Cluster, calls: bool) -> None:
    """The wait is over, by a call or by time, and a host has shown meanwhile that it is older."""
    _, _, other = released_too_soon(cluster)
    newer = token("c0ffee", Seen(life_id="ffff", position=99))
    if not calls:
        cluster.hello("h4", agent_uuid="new", journal_token=newer)
    else:
        cluster.hello(other, journal_token=newer)
    told = list(acks(cluster))
    for _ in range(40):
        cluster.wait(1)
        told += acks(cluster)
    assert (told, cluster.state.hosts_awaited) == ([], 0)
