"""Hosts: sessions, silence, and what proves that nothing is left on them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.effects import SendAck, SendHeartbeatAck, SendWelcome
from coordinator.core.errors import Conflict, DuplicateAgent, NotFound
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.lineage import cluster_id
from coordinator.core.states import Desired, JobState, NodeState, Progress
from tests.core.harness import SETTINGS, Cluster

LOST = "Host EC2 (instance {}) terminated."
VERDICT_SECONDS = 300
FENCE_AFTER_SECONDS = 600 + 30 + 30 + SETTINGS.heartbeat_ms // 1000


def up(key: NodeKey) -> i.Observation:
    return i.Observation(key=key, progress=Progress.UP, was_up=True, private_ipv4="10.0.0.1")


# sessions


def test_a_hello_is_welcomed_and_gets_its_list(cluster: Cluster) -> None:
    cluster.hosts(1)
    assert cluster.facts() == ["HostRegistered"]
    welcome = cluster.last.effects[0]
    assert welcome == SendWelcome(
        session_id=cluster.session("h1"),
        heartbeat_ms=5_000,
        cluster_id=cluster_id(cluster.state.cluster_key),
    )
    assert cluster.sent[HostId("h1")] == ()


def test_a_hello_with_nothing_new_is_no_fact(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.hello("h1")
    assert cluster.facts() == []
    cluster.hello("h1", vcpus=16)
    assert cluster.facts() == ["HostRegistered"]


def test_the_newest_session_wins(cluster: Cluster) -> None:
    cluster.hosts(1)
    old = cluster.session("h1")
    cluster.hello("h1")
    (closed,) = cluster.superseded
    assert closed.session_id == old
    assert "took over" in closed.message
    cluster.do(i.HostHeartbeat(session_id=old, seq=4))
    assert cluster.last.effects == []
    cluster.do(i.SessionEnded(session_id=old))
    assert cluster.state.presence[HostId("h1")].session_id == cluster.session("h1")


def test_reports_and_heartbeats_are_acknowledged(cluster: Cluster) -> None:
    cluster.hosts(1)
    session = cluster.session("h1")
    cluster.do(i.HostHeartbeat(session_id=session, seq=4))
    assert cluster.last.effects == [SendHeartbeatAck(session_id=session, seq=4)]
    cluster.do(i.HostReport(session_id=session, seq=7, observations=()))
    assert cluster.last.effects == [SendAck(session_id=session, report_seq=7)]


def test_a_report_of_a_superseded_session_is_dropped(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    old = cluster.session("h1")
    key = cluster.key("h1")
    cluster.hello("h1")
    seen = i.Observation(key=key, progress=Progress.PREPARED)
    cluster.do(i.HostReport(session_id=old, seq=1, observations=(seen,)))
    assert cluster.facts() == []
    assert cluster.is_(job) is JobState.RUNNABLE


def test_a_closed_stream_means_nothing_by_itself(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    key = cluster.key("h1")
    cluster.hang_up("h1")
    cluster.wait(29)
    assert cluster.is_(job) is JobState.RUNNING
    cluster.hello("h1", up(key))
    cluster.wait(100)
    assert cluster.is_(job) is JobState.RUNNING


def test_a_host_without_a_session_gets_no_work(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.hang_up("h1")
    job = cluster.submit(1)
    assert cluster.job(job).attempts == []
    cluster.hello("h1")
    assert cluster.placed(job) == ["h1"]


def test_an_unusable_host_gets_no_work(cluster: Cluster) -> None:
    cluster.hosts(1, unusable_reason="podman does not answer")
    job = cluster.submit(1)
    assert cluster.job(job).attempts == []
    cluster.hello("h1", unusable_reason="")
    assert cluster.placed(job) == ["h1"]


# another machine under the same name


def test_another_agent_is_refused_while_the_first_is_there(cluster: Cluster) -> None:
    cluster.hosts(1)
    with pytest.raises(DuplicateAgent, match="belongs to another machine"):
        cluster.hello("h1", agent_uuid="impostor")
    cluster.hang_up("h1")
    with pytest.raises(DuplicateAgent):
        cluster.hello("h1", agent_uuid="impostor")


def test_another_agent_is_taken_when_the_first_is_lost_and_holds_nothing(
    cluster: Cluster,
) -> None:
    cluster.hosts(1)
    cluster.wait(40, silent=("h1",))
    cluster.hello("h1", agent_uuid="successor")
    assert cluster.state.hosts[HostId("h1")].facts.agent_uuid == "successor"


def test_another_agent_waits_while_the_lost_one_may_still_run_something(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.run(cluster.submit(1))
    cluster.wait(40, silent=("h1",))
    with pytest.raises(DuplicateAgent, match="muster hosts fence h1"):
        cluster.hello("h1", agent_uuid="successor")
    cluster.do(i.FenceHost(host_id=HostId("h1")))
    cluster.hello("h1", agent_uuid="successor")


def test_another_agent_need_not_wait_for_a_gang_of_which_nothing_runs_there(
    cluster: Cluster,
) -> None:
    """The host is reserved until the main has ended; its child has ended, and was released."""
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.run(job)
    cluster.exited(child, 0)
    cluster.released(child)
    cluster.wait(40, silent=(child,))
    cluster.hello(child, agent_uuid="successor")
    cluster.exited(main, 0)
    cluster.released(main)
    assert cluster.placed(cluster.submit(2)) == [main, child]


def test_after_a_restart_silence_has_to_be_heard_first(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.restart()
    with pytest.raises(DuplicateAgent):
        cluster.hello("h1", agent_uuid="successor")
    cluster.wait(40)
    cluster.hello("h1", agent_uuid="successor")


# silence


def test_a_lost_main_fails_the_attempt(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2, attempts=1)
    main, child = cluster.run(job)
    cluster.wait(VERDICT_SECONDS - 1, silent=(main,))
    assert cluster.is_(job) is JobState.RUNNING
    cluster.wait(1, silent=(main,))
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).status_reason == LOST.format(main)
    assert cluster.attempt(job).exit_code is None
    assert cluster.wants(child) is Desired.STOP


def test_a_lost_child_fails_alone(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.run(job)
    cluster.wait(VERDICT_SECONDS, silent=(child,))
    assert cluster.is_(job) is JobState.RUNNING
    node = cluster.node(job, 1)
    assert (node.state, node.status_reason) == (NodeState.FAILED, LOST.format(child))
    cluster.exited(main, 0)
    assert cluster.is_(job) is JobState.SUCCEEDED


def test_what_comes_back_after_the_verdict_is_stopped(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    _, child = cluster.run(job)
    cluster.wait(VERDICT_SECONDS, silent=(child,))
    cluster.wait(1)
    assert not cluster.state.presence[child].lost
    assert cluster.wants(child) is Desired.STOP
    cluster.exited(child, 0)
    assert cluster.node(job, 1).state is NodeState.FAILED, "lost is lost"
    cluster.released(child)
    assert cluster.node(job, 1).released


def test_a_restarted_coordinator_waits_for_its_hosts(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    cluster.now += 3_600_000
    cluster.restart()
    cluster.wait(VERDICT_SECONDS - 1)
    assert cluster.is_(job) is JobState.RUNNING
    cluster.wait(1)
    assert cluster.is_(job) is JobState.FAILED


# proof: at most one attempt alive


def lose_main(cluster: Cluster) -> tuple[HostId, NodeKey]:
    """A job of one node runs on h1, which falls silent; h2 is free."""
    cluster.hosts(2)
    job = cluster.submit(1, attempts=2)
    (host,) = cluster.run(job)
    key = cluster.key(host)
    cluster.wait(VERDICT_SECONDS + 1, silent=(host,))
    assert cluster.is_(job) is JobState.RUNNABLE
    assert cluster.job(job).current is None, "a free host is no proof"
    return host, key


def attempt_starts(cluster: Cluster) -> bool:
    (job,) = cluster.state.jobs.values()
    return job.current is not None


def test_the_lease_is_proof_when_it_must_have_ended(cluster: Cluster) -> None:
    host, _ = lose_main(cluster)
    cluster.wait(FENCE_AFTER_SECONDS - VERDICT_SECONDS - 2, silent=(host,))
    assert not attempt_starts(cluster)
    cluster.wait(2, silent=(host,))
    assert attempt_starts(cluster)
    (released,) = cluster.all_facts(e.NodeReleased)
    assert released.proof == "its lease ran out, so it has stopped by itself"


def test_a_restart_counts_the_lease_anew(cluster: Cluster) -> None:
    """It cannot know when the host was heard last: the agent's lease may have been renewed."""
    host, _ = lose_main(cluster)
    cluster.wait(300, silent=(host,))
    cluster.restart()
    cluster.hello("h2")
    cluster.wait(FENCE_AFTER_SECONDS - 1)
    assert not attempt_starts(cluster)
    cluster.wait(2)
    assert attempt_starts(cluster)


def test_a_lease_of_zero_is_never_proof() -> None:
    cluster = Cluster(replace(SETTINGS, lease_seconds=0, verdict_after_seconds=300))
    host, _ = lose_main(cluster)
    cluster.wait(100_000, silent=(host,))
    assert not attempt_starts(cluster)
    cluster.do(i.FenceHost(host_id=host))
    assert attempt_starts(cluster)


def test_an_operators_word_is_proof(cluster: Cluster) -> None:
    host, _ = lose_main(cluster)
    cluster.do(i.FenceHost(host_id=host))
    assert attempt_starts(cluster)
    cluster.do(i.FenceHost(host_id=host))
    assert cluster.facts() == []


def test_only_a_lost_host_can_be_fenced(cluster: Cluster) -> None:
    cluster.hosts(1)
    with pytest.raises(Conflict, match="cannot be fenced while its agent is connected"):
        cluster.do(i.FenceHost(host_id=HostId("h1")))
    with pytest.raises(NotFound):
        cluster.do(i.FenceHost(host_id=HostId("nowhere")))


def test_a_new_boot_is_proof(cluster: Cluster) -> None:
    host, _ = lose_main(cluster)
    cluster.hello(host, boot_id="boot-2")
    assert attempt_starts(cluster)


def test_a_reboot_that_nobody_missed_fails_what_ran(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.run(job)
    key = cluster.key(child)
    ended = i.Observation(key=key, progress=Progress.EXITED, was_up=True)
    cluster.hello(child, ended, boot_id="boot-2")
    node = cluster.node(job, 1)
    assert (node.state, node.exit_code) == (NodeState.FAILED, None)
    assert node.status_reason == LOST.format(child)
    assert node.released
    assert cluster.is_(job) is JobState.RUNNING
    cluster.hello(main, boot_id="boot-2")
    assert cluster.is_(job) is JobState.FAILED


def test_the_agents_word_is_proof(cluster: Cluster) -> None:
    host, key = lose_main(cluster)
    cluster.hello(host, up(key))
    assert cluster.wants(host) is Desired.STOP
    assert not attempt_starts(cluster)
    cluster.released(host)
    assert attempt_starts(cluster)


def test_an_agent_that_no_longer_knows_what_ran_is_proof(cluster: Cluster) -> None:
    host, _ = lose_main(cluster)
    cluster.hello(host)
    assert attempt_starts(cluster)


def test_an_agent_that_never_got_the_start_is_sent_it_again(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    main, _ = cluster.start_main(job)
    voted = i.Observation(key=cluster.key(main), progress=Progress.PREPARED)
    cluster.hello(main, voted)
    assert cluster.wants(main) is Desired.RUN
    assert cluster.is_(job) is JobState.STARTING


def test_a_host_freed_by_its_lease_that_still_has_the_node_gets_no_other(
    cluster: Cluster,
) -> None:
    host, key = lose_main(cluster)
    cluster.wait(FENCE_AFTER_SECONDS, silent=(host,))
    cluster.run(next(iter(cluster.state.jobs)))
    other = cluster.submit(1)
    cluster.hello(host, up(key))
    assert cluster.wants(host) is Desired.STOP
    assert cluster.job(other).attempts == []
    cluster.says(host, Progress.RELEASED, key)
    assert cluster.placed(other) == [host]


def test_a_lost_childs_host_that_comes_back_late_is_held_until_it_is_clean(
    cluster: Cluster,
) -> None:
    """Its lease was proof for the job; the host itself still has the container."""
    cluster.hosts(2)
    job = cluster.submit(2, attempts=2)
    main, child = cluster.run(job)
    key = cluster.key(child)
    cluster.wait(FENCE_AFTER_SECONDS + 1, silent=(child,))
    assert cluster.node(job, 1).released
    cluster.hello(child, up(key))
    cluster.exited(main, 0)
    cluster.released(main)
    assert job in cluster.archived
    other = cluster.submit(2)
    assert cluster.job(other).attempts == []
    assert cluster.wants(child) is Desired.STOP
    cluster.says(child, Progress.RELEASED, key)
    assert cluster.placed(other) == [main, child]


# letting go


@pytest.mark.parametrize("fenced", [False, True])
def test_a_host_given_up_that_speaks_again_lets_go_first(cluster: Cluster, fenced: bool) -> None:
    """Its session has lived through the silence, so there is no Hello that would tell."""
    host, key = lose_main(cluster)
    if fenced:
        cluster.do(i.FenceHost(host_id=host))
    cluster.wait(FENCE_AFTER_SECONDS, silent=(host,))
    assert attempt_starts(cluster)
    other = cluster.submit(1)
    cluster.wait(1)
    assert cluster.wants(host) is Desired.STOP
    assert cluster.job(other).attempts == []
    cluster.says(host, Progress.RELEASED, key)
    assert cluster.placed(other) == [host]


def test_silence_on_a_living_connection_forgets_no_leftover(cluster: Cluster) -> None:
    cluster.hosts(1)
    first = cluster.submit(1)
    key = cluster.key("h1")
    cluster.cancel(first)
    second = cluster.submit(1)
    cluster.wait(40, silent=("h1",))
    cluster.wait(10)
    assert cluster.job(second).attempts == []
    cluster.says("h1", Progress.RELEASED, key)
    assert cluster.placed(second) == ["h1"]


def test_what_a_host_brings_along_must_go_first(cluster: Cluster) -> None:
    cluster.hosts(1)
    old = cluster.submit(1)
    key = cluster.key("h1")
    cluster.cancel(old)
    cluster.hello("h1", i.Observation(key=key, progress=Progress.PREPARED))
    job = cluster.submit(1)
    assert cluster.wants("h1") is Desired.STOP
    cluster.says("h1", Progress.RELEASED, key)
    assert cluster.placed(job) == ["h1"]


# unclean


def test_a_host_that_cannot_be_cleaned_is_held_until_it_can(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    cluster.exited("h1", 0)
    cluster.exited("h1", 0, unclean_reason="pid 77 survives")
    assert cluster.facts() == ["NodeUnclean"]
    cluster.exited("h1", 0, unclean_reason="pid 77 survives")
    assert cluster.facts() == []
    other = cluster.submit(1)
    assert cluster.job(other).attempts == []
    cluster.restart()
    key = NodeKey(job, 1, 0)
    ended = i.Observation(key=key, progress=Progress.EXITED, exit_code=0)
    cluster.hello("h1", replace(ended, unclean_reason="pid 77 survives"))
    assert cluster.facts() == []
    cluster.released("h1")
    assert cluster.placed(other) == ["h1"]


# drain


def test_a_drained_host_takes_nothing_new_and_finishes_what_it_has(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.drain("h1", "new disks")
    cluster.run(job)
    cluster.finish(job)
    assert cluster.is_(job) is JobState.SUCCEEDED
    other = cluster.submit(1)
    assert cluster.job(other).attempts == []
    cluster.restart()
    cluster.hello("h1")
    assert cluster.job(other).attempts == []
    cluster.do(i.ResumeHost(host_id=HostId("h1")))
    assert cluster.placed(other) == ["h1"]


def test_drain_and_resume_are_idempotent(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.drain("h1", "a")
    cluster.drain("h1", "a")
    assert cluster.facts() == []
    cluster.drain("h1", "b")
    assert cluster.facts() == ["HostDrained"]
    cluster.do(i.ResumeHost(host_id=HostId("h1")))
    cluster.do(i.ResumeHost(host_id=HostId("h1")))
    assert cluster.facts() == []
    for unknown in (i.DrainHost(host_id=HostId("x")), i.ResumeHost(host_id=HostId("x"))):
        with pytest.raises(NotFound, match="Host x does not exist"):
            cluster.do(unknown)
