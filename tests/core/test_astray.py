"""What hosts run of a job, and an older journal that was accepted does not know: nothing else of
the job starts beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.core import inputs as i
from coordinator.core.errors import Conflict
from coordinator.core.explain import status_reason
from coordinator.core.ids import HostId, JobId, NodeKey
from coordinator.core.leftovers import leftovers
from coordinator.core.states import Desired, Progress
from tests.core.harness import Cluster
from tests.core.test_placing import SOON, is_placed, seen, why

WAITS = "Waiting until nothing of the last attempt runs: node 0 of attempt 2 on h2"


def accepted(cluster: Cluster) -> tuple[JobId, NodeKey]:
    """The journal of attempt 1 is brought back and accepted; attempt 2 runs by now."""
    cluster.hosts(3)
    job = cluster.submit(1, attempts=3)
    cluster.run(job)
    copy = list(cluster.journal)
    cluster.finish(job, exit_code=1)
    cluster.run(job)
    token = cluster.token()
    for host_id, hello in cluster.hellos.items():
        cluster.hellos[host_id] = replace(hello, journal_token=token)
    cluster.bring_back(copy, accepts_older=True)
    return job, NodeKey(job, 2, 0)


def runs_on_h2(cluster: Cluster, progress: Progress = Progress.UP) -> tuple[JobId, NodeKey]:
    job, key = accepted(cluster)
    cluster.hello("h1")
    cluster.hello("h2", seen(key, progress))
    cluster.hello("h3")
    assert cluster.state.may_start
    return job, key


@pytest.mark.parametrize("progress", [Progress.LAUNCHING, Progress.UP, Progress.EXITED])
def test_the_retry_waits_until_the_later_attempt_is_gone(
    cluster: Cluster, progress: Progress
) -> None:
    job, key = runs_on_h2(cluster, progress)
    assert not is_placed(cluster, job)
    assert cluster.wants("h2") is Desired.STOP
    assert why(cluster, job) == f"{WAITS} is being stopped"
    cluster.says("h2", Progress.EXITED, key)
    cluster.wait(60)
    assert not is_placed(cluster, job)
    cluster.says("h2", Progress.RELEASED, key)
    assert cluster.run(job)
    cluster.finish(job)


def test_a_job_in_line_waits_as_well(cluster: Cluster) -> None:
    cluster.hosts(2)
    cluster.drain("h1")
    cluster.drain("h2")
    job = cluster.submit(1)
    copy = list(cluster.journal)
    cluster.bring_back(copy, accepts_older=True)
    key = NodeKey(job, 1, 0)
    cluster.hello("h1", seen(key, Progress.UP))
    cluster.hello("h2")
    cluster.do(i.ResumeHost(host_id=HostId("h2")))
    assert not is_placed(cluster, job)
    cluster.says("h1", Progress.RELEASED, key)
    assert cluster.placed(job) == ["h2"]


def test_what_only_has_a_vote_holds_up_nobody(cluster: Cluster) -> None:
    job, _ = runs_on_h2(cluster, Progress.PREPARED)
    assert is_placed(cluster, job)


def test_every_host_is_waited_for(cluster: Cluster) -> None:
    """Each may be the one that runs it."""
    job, key = accepted(cluster)
    cluster.hello("h1")
    cluster.hello("h3")
    assert not is_placed(cluster, job)
    assert why(cluster, job).startswith(f"{SOON} 1 more")
    cluster.hello("h2", seen(key, Progress.UP))
    assert not is_placed(cluster, job)
    assert why(cluster, job).startswith(WAITS)


def test_a_gang_that_votes_is_handed_back(cluster: Cluster) -> None:
    job, key = accepted(cluster)
    cluster.hello("h1")
    cluster.hello("h3")
    cluster.wait(cluster.settings.lost_after_ms / 1000)
    (host,) = cluster.placed(job)
    cluster.hello("h2", seen(key, Progress.UP))
    cluster.prepared(host)
    assert not is_placed(cluster, job)
    assert cluster.wants(host) is Desired.STOP
    cluster.says("h2", Progress.RELEASED, key)
    assert is_placed(cluster, job)


def test_a_host_that_is_silent_then(cluster: Cluster) -> None:
    job, key = runs_on_h2(cluster)
    cluster.wait(40, silent=("h2",))
    assert not is_placed(cluster, job)
    assert f"{WAITS} may still run, as the host is silent" in why(cluster, job)
    (left,) = leftovers(cluster.state, cluster.settings, cluster.job(job))
    assert left.until_ms is not None
    with pytest.raises(Conflict, match="may still run"):
        cluster.do(i.ForgetHost(host_id=HostId("h2")))
    # A session of an agent that has not looked at its host yet proves nothing.
    cluster.hello("h2", is_attached=False)
    assert not is_placed(cluster, job)
    cluster.wait(40, silent=("h2",))
    assert str(key) in cluster.do(i.FenceHost(host_id=HostId("h2")))
    assert is_placed(cluster, job)


def test_its_lease_ends_as_well(cluster: Cluster) -> None:
    job, _ = runs_on_h2(cluster)
    cluster.wait(80_000, silent=("h2",))
    assert not is_placed(cluster, job)
    cluster.wait(7_000, silent=("h2",))
    assert status_reason(cluster.state, cluster.settings, cluster.job(job)) is None
    assert is_placed(cluster, job)


def test_a_host_that_comes_back_without_it(cluster: Cluster) -> None:
    job, _ = runs_on_h2(cluster)
    cluster.hello("h2", is_attached=True)
    assert is_placed(cluster, job)
