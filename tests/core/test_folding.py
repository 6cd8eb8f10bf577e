"""What a vote that was given up stands for: what is left must replay to the same state."""

from __future__ import annotations

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.effects import Stamped
from coordinator.core.folding import replaced_by
from coordinator.core.ids import HostId, JobId
from coordinator.core.machine import Machine
from coordinator.core.states import JobState, Progress
from tests.core.harness import Cluster


def kept(cluster: Cluster) -> list[Stamped]:
    """What a journal has of the facts, as its contract says."""
    left: list[Stamped] = []
    for stamped in cluster.journal:
        job_id = getattr(stamped.event, "job_id", None)
        gone = replaced_by(stamped.event)
        own = [one for one in left if getattr(one.event, "job_id", None) == job_id]
        for one in own[len(own) - gone :] if gone else []:
            left.remove(one)
        left.append(stamped)
    return left


def of(cluster: Cluster, job: JobId) -> list[str]:
    return [
        type(stamped.event).__name__
        for stamped in kept(cluster)
        if getattr(stamped.event, "job_id", None) == job
    ]


def replays(cluster: Cluster) -> None:
    machine = Machine(cluster.settings)
    machine.replay(kept(cluster), [])
    assert machine.state.jobs == cluster.state.jobs
    assert machine.state.hosts == cluster.state.hosts
    machine.check()


def give_up(cluster: Cluster, job: JobId, *others: str) -> None:
    """h1 votes no, and everybody lets go."""
    keys = {node.host_id: cluster.node_key(job, index)
            for index, node in cluster.attempt(job).nodes.items()}  # fmt: skip
    cluster.refused("h1", "no room")
    for host in ("h1", *others):
        cluster.says(host, Progress.RELEASED, keys[HostId(host)])


def test_votes_leave_one_summary(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    for _ in range(3):
        give_up(cluster, job, "h2")
        replays(cluster)
        assert of(cluster, job) == ["JobSubmitted", "JobQueued", "GangAbandoned"]
        cluster.wait(301)
        replays(cluster)


def test_a_vote_in_which_something_else_happened_is_kept_and_so_is_its_end(
    cluster: Cluster,
) -> None:
    """A child's host rebooted while main was starting: half of that vote must not go later."""
    cluster.hosts(3)
    running = cluster.submit(1)
    (busy,) = cluster.run(running)
    job = cluster.submit(2)
    main, child = cluster.start_main(job)
    cluster.hello(child, boot_id="boot-2")
    key = cluster.key(main)
    for progress in (Progress.EXITED, Progress.RELEASED):
        cluster.says(main, progress, key, reason="busy", not_started=True)
    assert cluster.is_(job) is JobState.RUNNABLE
    whole = of(cluster, job)
    assert whole[-1] == "GangAbandoned"
    assert "GangReserved" in whole
    replays(cluster)
    cluster.queue("first", priority=9)
    other = cluster.submit(1, queue="first")
    cluster.run(other)
    replays(cluster)
    cluster.finish(other)
    cluster.finish(running)
    cluster.wait(301)
    if cluster.job(job).current is not None:
        hosts = cluster.placed(job)
        keys = [cluster.node_key(job, index) for index in range(2)]
        cluster.refused(hosts[0], "no room")
        for host, key in zip(hosts, keys, strict=True):
            cluster.says(host, Progress.RELEASED, key)
        replays(cluster)
        assert of(cluster, job)[: len(whole)] == whole
        assert of(cluster, job)[len(whole) :] == ["GangAbandoned"]
    assert busy


def test_only_the_newest_reason_to_wait_is_kept(cluster: Cluster) -> None:
    limit = e.TimeLimitAction(
        reason="CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY",
        state="RUNNABLE",
        max_time_seconds=86_400,
        action="CANCEL",
    )
    cluster.do(i.UpdateQueue(name="default", time_limits=(limit,)))
    cluster.hosts(1, vcpus=1)
    job = cluster.submit(2)
    for vcpus in (4, 0, 4, 0):
        cluster.hello("h1", vcpus=vcpus)
        replays(cluster)
    assert of(cluster, job) == ["JobSubmitted", "JobQueued", "PlacementBlocked"]
