"""A gang's life: the vote, main first, what each exit means (aws-batch-spec section 7)."""

from __future__ import annotations

import pytest

from coordinator.core import events as e
from coordinator.core.definition import EvaluateOnExit
from coordinator.core.effects import Tail
from coordinator.core.ids import JobId, NodeKey
from coordinator.core.states import Desired, JobState, NodeState, Progress
from tests.core.harness import Cluster

MAIN_ADDRESS = "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"


# the vote


def test_nobody_starts_before_all_have_voted(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(3)
    h1, h2, h3 = cluster.placed(job)
    cluster.prepared(h1, h2)
    assert [cluster.wants(h) for h in (h1, h2, h3)] == [Desired.PREPARE] * 3
    assert cluster.is_(job) is JobState.RUNNABLE
    cluster.prepared(h3)
    assert cluster.facts() == ["NodePrepared", "AttemptStarted"]
    assert cluster.is_(job) is JobState.STARTING


def test_a_repeated_vote_counts_once(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    h1, _ = cluster.placed(job)
    cluster.prepared(h1, h1, h1)
    assert cluster.attempt(job).prepared == 1
    assert cluster.is_(job) is JobState.RUNNABLE


def test_a_host_that_votes_no_is_replaced_and_no_attempt_is_used(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(2, attempts=1)
    h1, h2 = cluster.placed(job)
    cluster.prepared(h1)
    cluster.refused(h2)
    assert cluster.facts() == ["NodeRefused", "NodeReplaced"]
    assert cluster.placed(job) == [h1, "h3"]
    assert cluster.wants(h2) is Desired.STOP
    cluster.prepared("h3")
    assert cluster.is_(job) is JobState.STARTING
    assert cluster.attempt(job).number == 1


def test_a_gang_that_cannot_be_completed_hands_back_everything(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    h1, h2 = cluster.placed(job)
    cluster.prepared(h1)
    cluster.refused(h2)
    assert cluster.facts() == ["NodeRefused", "GangAbandoned"]
    assert cluster.job(job).attempts == []
    assert [cluster.wants(h1), cluster.wants(h2)] == [Desired.STOP] * 2


def test_a_host_handed_back_gets_nothing_before_it_has_let_go(cluster: Cluster) -> None:
    cluster.hosts(1)
    first = cluster.submit(1)
    key = cluster.key("h1")
    cluster.cancel(first)
    second = cluster.submit(1)
    assert cluster.job(second).attempts == []
    assert cluster.wants("h1") is Desired.STOP
    cluster.says("h1", Progress.RELEASED, key)
    assert cluster.placed(second) == ["h1"]


def test_a_refusing_host_is_asked_again_after_its_pause(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    pause = cluster.settings.refusal_backoff_ms / 1000
    for _ in range(3):
        cluster.refused("h1")
        cluster.released("h1")
        assert cluster.job(job).current is None
        cluster.wait(pause - 1)
        assert cluster.job(job).current is None
        cluster.wait(2)
        assert cluster.placed(job) == ["h1"]
        pause = min(2 * pause, cluster.settings.refusal_backoff_max_ms / 1000)


def test_every_refusing_host_is_asked_again_though_their_pauses_differ(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(1)
    cluster.refused("h1")
    cluster.released("h1")
    cluster.wait(1)
    cluster.refused("h2")
    cluster.released("h2")
    cluster.drain("h1")
    cluster.wait(400)
    assert cluster.placed(job) == ["h2"]


def test_a_host_that_does_not_answer_in_time_is_replaced(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(2)
    cluster.prepared("h1")
    cluster.wait(cluster.settings.vote_timeout_ms / 1000 + 1)
    (refusal,) = cluster.all_facts(e.NodeRefused)
    assert (refusal.host_id, refusal.reason) == ("h2", "did not answer within 1800 s")
    assert cluster.placed(job) == ["h1", "h3"]


def test_a_replacement_has_its_own_time_to_answer(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(2)
    cluster.prepared("h1")
    cluster.wait(cluster.settings.vote_timeout_ms / 1000 - 1)
    cluster.refused("h2")
    cluster.wait(100)
    assert cluster.placed(job) == ["h1", "h3"]


def test_a_host_lost_while_it_votes_is_replaced(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(2)
    cluster.wait(40, silent=("h2",))
    assert cluster.placed(job) == ["h1", "h3"]
    assert cluster.all_facts(e.NodeLost) == []


# main first


@pytest.mark.parametrize("main", [0, 1, 2])
def test_main_alone_is_launched_first(cluster: Cluster, main: int) -> None:
    cluster.hosts(3)
    job = cluster.submit(3, main=main)
    hosts = cluster.start_main(job)
    assert [cluster.wants(host) for host in hosts] == [
        Desired.RUN if index == main else Desired.PREPARE for index in range(3)
    ]
    launched = [node.state.is_launched for node in cluster.attempt(job).nodes.values()]
    assert launched == [index == main for index in range(3)]


def test_children_are_launched_when_main_is_up_and_are_told_its_address(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(3)
    main, *children = cluster.start_main(job)
    assert MAIN_ADDRESS not in cluster.environment(main)
    assert MAIN_ADDRESS not in cluster.environment(children[0])
    cluster.says(main, Progress.UP, private_ipv4="10.9.9.9", was_up=True)
    assert cluster.facts() == ["NodeRunning", "ChildrenLaunched"]
    assert cluster.is_(job) is JobState.RUNNING
    for child in children:
        assert cluster.wants(child) is Desired.RUN
        assert cluster.environment(child)[MAIN_ADDRESS] == "10.9.9.9"
    assert MAIN_ADDRESS not in cluster.environment(main)


def test_a_launching_main_launches_nobody(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.start_main(job)
    cluster.says(main, Progress.LAUNCHING)
    assert cluster.facts() == []
    assert cluster.wants(child) is Desired.PREPARE


def test_there_is_no_barrier_between_children(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(3)
    main, _, h3 = cluster.start_main(job)
    cluster.up(main, h3)
    assert cluster.node(job, 1).state is NodeState.STARTING
    assert cluster.node(job, 2).state is NodeState.RUNNING


def test_an_exit_tells_that_it_was_up(cluster: Cluster) -> None:
    """The report of a short main's RUNNING may be lost; its exit says all."""
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.start_main(job)
    cluster.exited(main, 0, private_ipv4="10.0.0.1")
    assert cluster.facts() == [
        "NodeRunning",
        "ChildrenLaunched",
        "NodeExited",
        "AttemptEnded",
        "JobSucceeded",
    ]
    assert cluster.wants(child) is Desired.STOP


def test_an_exit_code_alone_tells_that_it_was_up(cluster: Cluster) -> None:
    """What an agent leaves out may be wrong, and never ends the coordinator."""
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.start_main(job)
    cluster.exited("h1", 0, was_up=False)
    assert cluster.is_(job) is JobState.SUCCEEDED


# exits


@pytest.mark.parametrize(
    ("exit_code", "state"), [(0, JobState.SUCCEEDED), (1, JobState.FAILED), (137, JobState.FAILED)]
)
def test_mains_exit_decides_and_ends_the_job_at_once(
    cluster: Cluster, exit_code: int, state: JobState
) -> None:
    cluster.hosts(3)
    job = cluster.submit(3)
    main, *children = cluster.run(job)
    cluster.exited(main, exit_code)
    assert cluster.is_(job) is state
    assert cluster.job(job).status_reason == "Essential container in task exited"
    assert cluster.job(job).stopped_at_ms == cluster.now
    assert [cluster.wants(child) for child in children] == [Desired.STOP] * 2


@pytest.mark.parametrize(
    ("exit_code", "state"),
    [(0, NodeState.SUCCEEDED), (1, NodeState.FAILED), (None, NodeState.FAILED)],
)
def test_a_childs_exit_changes_its_own_record_alone(
    cluster: Cluster, exit_code: int | None, state: NodeState
) -> None:
    cluster.hosts(3)
    job = cluster.submit(3, attempts=3)
    _, child, other = cluster.run(job)
    cluster.exited(child, exit_code, "" if exit_code == 0 else "OutOfMemoryError: too much")
    assert cluster.node(job, 1).state is state
    assert cluster.is_(job) is JobState.RUNNING
    assert cluster.wants(other) is Desired.RUN
    cluster.released(child)
    assert cluster.wants(child) is None
    assert cluster.state.hosts[child].holds, "its host stays with the gang"
    assert cluster.attempt(job).number == 1


def test_a_child_that_fails_to_start_harms_nobody(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.start_main(job)
    cluster.up(main)
    cluster.exited(child, None, "CannotStartContainerError: no such device", was_up=False)
    node = cluster.node(job, 1)
    assert (node.state, node.exit_code) == (NodeState.FAILED, None)
    assert node.status_reason == "Task failed to start"
    assert cluster.is_(job) is JobState.RUNNING


def test_a_child_refused_after_its_launch_has_failed_to_start(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.start_main(job)
    cluster.up(main)
    cluster.refused(child, "the disk filled up")
    assert cluster.node(job, 1).state is NodeState.FAILED
    assert cluster.wants(child) is Desired.STOP


def test_children_stopped_with_main_say_so_and_keep_their_exit_codes(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(3)
    main, h2, h3 = cluster.run(job)
    cluster.exited(main, 0)
    cluster.exited(h2, 143)
    cluster.exited(h3, 0)
    first, second = cluster.node(job, 1), cluster.node(job, 2)
    assert (first.state, first.exit_code) == (NodeState.FAILED, 143)
    assert second.state is NodeState.SUCCEEDED
    assert first.status_reason == "Stopped because the main node ended"


def test_a_main_that_fails_to_start_fails_the_attempt(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.start_main(job)
    cluster.exited("h1", None, "CannotStartContainerError: no such program", was_up=False)
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).status_reason == "Task failed to start"
    assert cluster.attempt(job).reason == "CannotStartContainerError: no such program"
    assert cluster.job(job).started_at_ms == 0


def test_children_of_a_main_that_never_came_up_are_let_go_without_a_record(
    cluster: Cluster,
) -> None:
    cluster.hosts(3)
    job = cluster.submit(3, attempts=2)
    main, *children = cluster.start_main(job)
    cluster.exited(main, None, "CannotStartContainerError: no such program", was_up=False)
    assert cluster.is_(job) is JobState.RUNNABLE
    assert [cluster.wants(child) for child in children] == [Desired.STOP] * 2
    cluster.released(*children, main)
    first = cluster.job(job).attempts[0]
    assert [first.nodes[n].state for n in (1, 2)] == [NodeState.PREPARED] * 2
    assert cluster.job(job).refusals == {}
    assert cluster.attempt(job).number == 2


def test_a_child_whose_host_goes_while_main_starts_fails_at_its_launch(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(3)
    main, h2, h3 = cluster.start_main(job)
    cluster.released(h3)
    assert cluster.node(job, 2).state is NodeState.PREPARED
    cluster.wait(40, silent=(h2,))
    assert cluster.node(job, 1).state is NodeState.PREPARED
    cluster.up(main)
    assert cluster.is_(job) is JobState.RUNNING
    lost, gone = cluster.node(job, 1), cluster.node(job, 2)
    assert lost.state is NodeState.STARTING, "it waits for the verdict"
    assert (gone.state, gone.status_reason) == (NodeState.FAILED, "Task failed to start")
    assert gone.launched_at_ms == cluster.now
    cluster.wait(260, silent=(h2,))
    lost = cluster.node(job, 1)
    assert (lost.state, lost.status_reason) == (
        NodeState.FAILED,
        f"Host EC2 (instance {h2}) terminated.",
    )


# the next attempt


def test_the_next_attempt_waits_until_nothing_of_the_last_is_left(cluster: Cluster) -> None:
    cluster.hosts(6)
    job = cluster.submit(3, attempts=2)
    main, h2, h3 = cluster.run(job)
    cluster.exited(main, 1)
    assert cluster.facts() == ["NodeExited", "AttemptEnded", "JobRetried"]
    assert cluster.is_(job) is JobState.RUNNABLE
    cluster.released(main, h2)
    cluster.exited(h3, 143)
    assert cluster.job(job).current is None, "three free hosts are no reason to start"
    cluster.released(h3)
    assert cluster.attempt(job).number == 2
    hosts = cluster.run(job)
    assert cluster.environment(hosts[0])["AWS_BATCH_JOB_ATTEMPT"] == "2"
    cluster.finish(job)
    assert cluster.is_(job) is JobState.SUCCEEDED
    assert [a.exit_code for a in cluster.job(job).attempts] == [1, 0]


def test_attempts_are_the_total_of_tries(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, attempts=3)
    for _ in range(3):
        assert not cluster.is_(job).is_terminal
        cluster.run(job)
        cluster.finish(job, 1)
    assert cluster.is_(job) is JobState.FAILED
    assert len(cluster.job(job).attempts) == 3


@pytest.mark.parametrize(("exit_code", "attempts"), [(3, 1), (4, 2)])
def test_evaluate_on_exit_sees_how_main_ended(
    cluster: Cluster, exit_code: int, attempts: int
) -> None:
    cluster.hosts(1)
    rules = (EvaluateOnExit(action="exit", on_exit_code="3"),)
    job = cluster.submit(1, attempts=2, rules=rules)
    cluster.run(job)
    cluster.finish(job, exit_code)
    assert len(cluster.job(job).attempts) == attempts


def test_evaluate_on_exit_sees_a_lost_host(cluster: Cluster) -> None:
    cluster.hosts(2)
    rules = (
        EvaluateOnExit(action="RETRY", on_status_reason="Host EC2*"),
        EvaluateOnExit(action="EXIT", on_reason="*"),
    )
    job = cluster.submit(1, attempts=3, rules=rules)
    (host,) = cluster.run(job)
    cluster.wait(301, silent=(host,))
    assert cluster.is_(job) is JobState.RUNNABLE


# late, double and foreign reports


def test_what_is_late_or_older_changes_nothing(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.run(job)
    for progress in (Progress.ASSIGNED, Progress.PREPARED, Progress.LAUNCHING, Progress.UP):
        cluster.says(child, progress, private_ipv4="10.7.7.7")
        assert cluster.facts() == []
    cluster.exited(child, 3)
    for code in (3, 0):
        cluster.exited(child, code)
        assert cluster.facts() == []
    assert cluster.node(job, 1).exit_code == 3
    assert cluster.node(job, 0).host_id == main


def test_a_report_of_an_older_attempt_changes_nothing(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, attempts=2)
    old = cluster.key("h1")
    cluster.run(job)
    cluster.finish(job, 1)
    cluster.run(job)
    cluster.says("h1", Progress.EXITED, old, exit_code=0, was_up=True)
    assert cluster.facts() == []
    assert cluster.is_(job) is JobState.RUNNING


def test_a_report_of_a_job_that_never_was_changes_nothing(cluster: Cluster) -> None:
    cluster.hosts(1)
    stranger = NodeKey(JobId("stranger"), 1, 0)
    cluster.says("h1", Progress.UP, stranger)
    assert cluster.facts() == []
    assert cluster.wants("h1") is None, "it is the agent's to stop, after a grace"
    job = cluster.submit(1)
    assert cluster.job(job).attempts == []
    cluster.says("h1", Progress.RELEASED, stranger)
    assert cluster.placed(job) == ["h1"]


def test_the_log_tail_is_kept_with_the_report(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    key = cluster.key("h1")
    cluster.exited("h1", 0, log_tail=b"bye", log_tail_offset=7)
    assert cluster.last.tails == [Tail(key=key, offset=7, data=b"bye")]
