"""Submitting, ending, depending, and restarts (aws-batch-spec sections 6, 8, 9 and 10)."""

from __future__ import annotations

import pytest

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.definition import JobDependency, Submission
from coordinator.core.errors import Conflict, InvalidArgument, NotFound
from coordinator.core.ids import HostId, JobId
from coordinator.core.states import Desired, JobState, NodeState, Progress
from tests.core.harness import Cluster

# submit


def test_a_job_is_runnable_at_once_and_known_by_its_id(cluster: Cluster) -> None:
    job = cluster.submit(2)
    assert cluster.is_(job) is JobState.RUNNABLE
    assert cluster.job(job).created_at_ms == cluster.now
    assert cluster.facts() == ["JobSubmitted", "JobQueued"]


def test_a_repeated_client_token_returns_the_same_job(cluster: Cluster) -> None:
    cluster.hosts(1)
    name = cluster.define(nodes=1)
    job = cluster.submit(definition=name, token="t")
    assert cluster.submit(definition=name, token="t") == job
    cluster.run(job)
    cluster.finish(job)
    assert job not in cluster.state.jobs
    assert cluster.submit(definition=name, token="t") == job
    assert len(cluster.all_facts(e.JobSubmitted)) == 1


def test_a_client_token_of_another_live_job_is_refused(cluster: Cluster) -> None:
    cluster.submit(2, token="t")
    with pytest.raises(Conflict, match="use a new token for another job"):
        cluster.submit(2, token="t")


def test_a_forgotten_job_takes_its_token_along(cluster: Cluster) -> None:
    cluster.hosts(1)
    name = cluster.define(nodes=1)
    job = cluster.submit(definition=name, token="t")
    cluster.cancel(job)
    cluster.released("h1")
    cluster.machine.forget([job])
    assert cluster.submit(definition=name, token="t") != job
    with pytest.raises(NotFound):
        cluster.cancel(job)


@pytest.mark.parametrize(
    ("queue", "error", "text"),
    [
        ("nowhere", NotFound, "JobQueue nowhere not found."),
        ("closed", Conflict, "JobQueue closed is DISABLED"),
        ("going", NotFound, "JobQueue going not found."),
    ],
)
def test_a_queue_that_takes_no_jobs(
    cluster: Cluster, queue: str, error: type[Exception], text: str
) -> None:
    cluster.queue("closed", enabled=False)
    cluster.queue("going")
    cluster.submit(2, queue="going")
    cluster.hosts(2)
    cluster.do(i.UpdateQueue(name="going", enabled=False))
    cluster.do(i.DeleteQueue(name="going"))
    with pytest.raises(error, match=text):
        cluster.submit(2, queue=queue)


@pytest.mark.parametrize("reference", ["gone", "gone:1", "d:7", "nothing"])
def test_a_definition_that_is_not_active(cluster: Cluster, reference: str) -> None:
    cluster.define(name="d")
    cluster.define(name="gone")
    cluster.do(i.DeregisterDefinition(name="gone", revision=1))
    with pytest.raises(NotFound) as raised:
        cluster.submit(definition=reference)
    expected = f"JobDefinition name {reference} does not exist or is not in ACTIVE status"
    assert str(raised.value) == expected


def test_a_bare_name_means_the_newest_active_revision(cluster: Cluster) -> None:
    for nodes in (1, 2, 3):
        cluster.define(name="d", nodes=nodes)
    cluster.do(i.DeregisterDefinition(name="d", revision=3))
    assert cluster.job(cluster.submit(definition="d")).spec.num_nodes == 2
    assert cluster.job(cluster.submit(definition="d:1")).spec.num_nodes == 1


def test_a_revision_is_never_used_again(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.define(name="d")
    cluster.do(i.DeregisterDefinition(name="d", revision=1))
    cluster.now += cluster.settings.definition_retention_ms
    cluster.wait(1)
    assert cluster.state.definitions["d"] == {}
    cluster.define(name="d")
    assert list(cluster.state.definitions["d"]) == [2]
    with pytest.raises(InvalidArgument, match="known revisions"):
        cluster.do(i.DeregisterDefinition(name="d", revision=1))


def test_an_inactive_revision_is_kept_for_its_retention_alone(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.define(name="d")
    cluster.do(i.DeregisterDefinition(name="d", revision=1))
    cluster.do(i.DeregisterDefinition(name="d", revision=1))
    cluster.now += cluster.settings.definition_retention_ms - 2000
    cluster.wait(1)
    assert list(cluster.state.definitions["d"]) == [1]
    cluster.wait(3601)
    assert list(cluster.state.definitions["d"]) == []


# cancel and terminate


@pytest.mark.parametrize("act", ["cancel", "terminate"])
@pytest.mark.parametrize("before", ["waiting", "pending", "voting"])
def test_before_starting_both_end_the_job_with_the_reason(
    cluster: Cluster, before: str, act: str
) -> None:
    if before == "voting":
        cluster.hosts(2)
    after = (cluster.submit(5),) if before == "pending" else ()
    job = cluster.submit(2, after=after)
    getattr(cluster, act)(job, reason="my reason")
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).status_reason == "my reason"
    assert cluster.job(job).stopped_at_ms == cluster.now
    assert cluster.job(job).cancelled is (act == "cancel")
    assert cluster.job(job).terminated is (act == "terminate")
    if before == "voting":
        assert [cluster.wants("h1"), cluster.wants("h2")] == [Desired.STOP] * 2


@pytest.mark.parametrize("running", [False, True])
def test_cancel_does_nothing_once_main_is_launched(cluster: Cluster, running: bool) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    (cluster.run if running else cluster.start_main)(job)
    state = cluster.is_(job)
    cluster.cancel(job)
    assert cluster.facts() == []
    assert cluster.is_(job) is state


def test_terminate_stops_every_node_and_the_job_fails_when_main_has_ended(
    cluster: Cluster,
) -> None:
    cluster.hosts(3)
    job = cluster.submit(3, attempts=5)
    main, h2, h3 = cluster.run(job)
    cluster.terminate(job, reason="my reason")
    assert cluster.is_(job) is JobState.RUNNING
    assert cluster.job(job).terminated
    assert [cluster.wants(h) for h in (main, h2, h3)] == [Desired.STOP] * 3
    cluster.exited(h2, 143)
    assert cluster.is_(job) is JobState.RUNNING
    cluster.exited(main, 0)
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).status_reason == "my reason"
    assert cluster.attempt(job).status_reason == "my reason"
    assert cluster.node(job, 1).status_reason == "my reason"


def test_terminate_while_main_starts_launches_no_child(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.start_main(job)
    cluster.terminate(job)
    assert [cluster.wants(main), cluster.wants(child)] == [Desired.STOP] * 2
    cluster.released(child)
    assert cluster.is_(job) is JobState.STARTING
    cluster.up(main)
    assert "ChildrenLaunched" not in cluster.facts()
    cluster.exited(main, 143)
    cluster.released(main)
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.node(job, 1).state is NodeState.PREPARED
    assert job in cluster.archived


def test_the_first_cause_is_kept(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, timeout=60)
    (host,) = cluster.run(job)
    cluster.terminate(job, reason="first")
    cluster.terminate(job, reason="second")
    cluster.wait(100)
    cluster.exited(host, 143)
    assert cluster.job(job).status_reason == "first"


def test_ending_what_has_ended_changes_nothing(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    cluster.exited("h1", 0)
    for _ in range(2):
        cluster.terminate(job)
        cluster.cancel(job)
        assert cluster.facts() == []
        cluster.let_go(job) if job in cluster.state.jobs else None
    assert cluster.is_(job) is JobState.SUCCEEDED


def test_main_by_its_index_is_the_whole_job(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2, main=1)
    cluster.run(job)
    cluster.terminate(job, 1)
    assert [cluster.wants("h1"), cluster.wants("h2")] == [Desired.STOP] * 2


def test_a_child_by_its_index_is_stopped_alone(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(3)
    main, child, other = cluster.run(job)
    cluster.terminate(job, 1, "not this one")
    assert [cluster.wants(h) for h in (main, child, other)] == [
        Desired.RUN,
        Desired.STOP,
        Desired.RUN,
    ]
    cluster.exited(child, 0)
    node = cluster.node(job, 1)
    assert (node.state, node.status_reason) == (NodeState.FAILED, "not this one")
    cluster.terminate(job, 1, "again")
    assert cluster.facts() == []
    cluster.finish(job)
    assert cluster.is_(job) is JobState.SUCCEEDED


def test_a_child_that_was_not_launched_does_not_exist(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    with pytest.raises(NotFound, match="has not been launched"):
        cluster.terminate(job, 1)
    cluster.start_main(job)
    with pytest.raises(NotFound, match="has not been launched"):
        cluster.terminate(job, 1)


@pytest.mark.parametrize("index", [2, 99])
def test_a_node_beyond_the_gang_does_not_exist(cluster: Cluster, index: int) -> None:
    job = cluster.submit(2)
    for end in (cluster.cancel, cluster.terminate):
        with pytest.raises(NotFound, match=f"{job}#{index} does not exist"):
            end(job, index)


def test_a_job_of_one_container_has_no_nodes_to_name(cluster: Cluster) -> None:
    job = cluster.submit(single=True)
    with pytest.raises(NotFound):
        cluster.terminate(job, 0)


def test_a_job_that_never_was(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match="Job nothing does not exist"):
        cluster.cancel(JobId("nothing"))


# timeout


def test_the_timeout_runs_from_mains_running_and_ends_without_retry(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2, timeout=60, attempts=5)
    main, child = cluster.start_main(job)
    cluster.wait(100)
    assert cluster.wants(main) is Desired.RUN, "preparing and starting do not count"
    cluster.up(main, child)
    cluster.wait(59)
    assert cluster.wants(main) is Desired.RUN
    cluster.wait(1)
    assert [cluster.wants(main), cluster.wants(child)] == [Desired.STOP] * 2
    cluster.exited(main, 143)
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).status_reason == "Job attempt duration exceeded timeout"
    assert not cluster.job(job).terminated


def test_every_attempt_has_the_whole_timeout(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, timeout=60, attempts=2)
    cluster.run(job)
    cluster.wait(50)
    cluster.finish(job, 1)
    cluster.run(job)
    cluster.wait(59)
    assert cluster.wants("h1") is Desired.RUN
    cluster.wait(1)
    assert cluster.wants("h1") is Desired.STOP


def test_a_restart_does_not_stretch_the_timeout(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, timeout=60)
    cluster.run(job)
    key = cluster.key("h1")
    cluster.now += 61_000
    cluster.restart()
    cluster.hello("h1", i.Observation(key=key, progress=Progress.UP, was_up=True, ran_ms=61_000))
    assert cluster.wants("h1") is Desired.STOP


# dependencies


def test_a_job_waits_for_all_that_it_depends_on(cluster: Cluster) -> None:
    cluster.hosts(4)
    first, second = cluster.submit(1), cluster.submit(1)
    job = cluster.submit(1, after=(first, second))
    assert cluster.is_(job) is JobState.PENDING
    for dependency in (first, second):
        assert cluster.is_(job) is JobState.PENDING
        cluster.run(dependency)
        cluster.finish(dependency)
    assert cluster.is_(job) is JobState.RUNNABLE
    assert cluster.placed(job)


def test_a_failure_cascades(cluster: Cluster) -> None:
    first = cluster.submit(1)
    second = cluster.submit(1, after=(first,))
    third = cluster.submit(1, after=(second,))
    both = cluster.submit(1, after=(first, third))
    cluster.cancel(first)
    for job in (second, third, both):
        assert cluster.is_(job) is JobState.FAILED
        assert cluster.job(job).status_reason == "Dependent Job failed"
    assert cluster.state.dependents == {}


def test_a_long_chain_cascades_without_recursion(cluster: Cluster) -> None:
    name = cluster.define(nodes=1)
    chain = [
        i.Submit(
            submission=Submission(
                job_name="link",
                job_queue="default",
                job_definition=name,
                depends_on=(JobDependency(job_id=f"l{number - 1}"),) if number else (),
            ),
            size_bytes=1,
            new_job_id=JobId(f"l{number}"),
        )
        for number in range(1500)
    ]
    last = cluster.do(*chain)
    cluster.cancel(JobId("l0"))
    assert cluster.is_(last) is JobState.FAILED


def test_depending_on_what_has_ended(cluster: Cluster) -> None:
    cluster.hosts(1)
    good = cluster.submit(1)
    cluster.run(good)
    cluster.finish(good)
    bad = cluster.submit(1)
    cluster.cancel(bad)
    assert cluster.is_(cluster.submit(1, after=(good,))) is JobState.RUNNABLE
    failed = cluster.submit(1, after=(good, bad))
    assert cluster.is_(failed) is JobState.FAILED
    assert cluster.job(failed).status_reason == "Dependent Job failed"


def test_depending_on_what_never_was_is_refused(cluster: Cluster) -> None:
    name = cluster.define()
    submission = Submission(
        job_name="j",
        job_queue="default",
        job_definition=name,
        depends_on=(JobDependency(job_id="nothing"),),
    )
    with pytest.raises(NotFound, match="which does not exist"):
        cluster.do(i.Submit(submission=submission, size_bytes=1, new_job_id=JobId("x")))
    assert cluster.state.jobs == {}


# archive


def test_a_job_leaves_memory_when_nothing_of_it_is_left(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.run(job)
    cluster.exited(main, 0)
    cluster.released(main)
    assert job in cluster.state.jobs
    cluster.exited(child, 143)
    cluster.released(child)
    assert cluster.facts() == ["NodeReleased", "JobArchived"]
    assert [ended.job_id for ended in cluster.last.archived] == [job]
    assert cluster.state.ended[job].state is JobState.SUCCEEDED
    assert not any(host.holds for host in cluster.state.hosts.values())


# restarts


def test_a_restart_in_the_middle_loses_and_doubles_nothing(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(3)
    hosts = cluster.run(job)
    keys = {host: cluster.key(host) for host in hosts}
    epoch, generation = cluster.state.epoch, cluster.generations[-1]
    cluster.restart()
    assert cluster.state.epoch == epoch + 1
    assert cluster.is_(job) is JobState.RUNNING
    for host, key in keys.items():
        cluster.hello(host, i.Observation(key=key, progress=Progress.UP, was_up=True))
        assert cluster.wants(host) is Desired.RUN
        assert all("Node" not in fact for fact in cluster.facts())
    assert cluster.generations[-1] > generation
    cluster.finish(job)
    assert cluster.is_(job) is JobState.SUCCEEDED


def test_a_vote_survives_a_restart(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    cluster.prepared("h1")
    vote = i.Observation(key=cluster.key("h1"), progress=Progress.PREPARED)
    cluster.restart()
    cluster.hello("h1", vote)
    cluster.hello("h2")
    cluster.prepared("h2")
    assert cluster.is_(job) is JobState.STARTING


def test_generations_only_grow(cluster: Cluster) -> None:
    cluster.hosts(2)
    for _ in range(3):
        job = cluster.submit(2)
        cluster.run(job)
        cluster.finish(job)
        cluster.restart()
        cluster.hello("h1")
        cluster.hello("h2")
    assert cluster.generations == sorted(set(cluster.generations))


def test_the_default_queue_is_made_at_the_first_start_alone(cluster: Cluster) -> None:
    cluster.do(i.UpdateQueue(name="default", enabled=False))
    cluster.do(i.DeleteQueue(name="default"))
    cluster.restart()
    assert "default" not in cluster.state.queues


def test_an_input_that_is_refused_changes_nothing_and_stops_nothing(cluster: Cluster) -> None:
    good = i.CreateQueue(name="q", priority=1)
    bad = i.DrainHost(host_id=HostId("nowhere"))
    with pytest.raises(NotFound):
        cluster.do(bad, good, bad)
    assert [type(reply) for reply in cluster.last.replies] == [NotFound, type(None), NotFound]
    assert cluster.facts() == ["QueueCreated"]
