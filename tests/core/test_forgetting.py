"""Hosts that will not come back."""

from __future__ import annotations

import pytest

from coordinator.core import inputs as i
from coordinator.core.errors import Conflict, NotFound
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.states import JobState, Progress
from tests.core.harness import Cluster


def test_a_host_is_forgotten_when_nothing_may_run_there(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(2)
    main, child = cluster.run(job)
    with pytest.raises(NotFound):
        cluster.do(i.ForgetHost(host_id=HostId("h9")))
    with pytest.raises(Conflict, match="stop its agent first"):
        cluster.do(i.ForgetHost(host_id=child))
    cluster.wait(40, silent=(child,))
    with pytest.raises(
        Conflict, match=f"may still run {job}#1 attempt 1; .* off, run first: muster hosts fence"
    ):
        cluster.do(i.ForgetHost(host_id=child))
    cluster.do(i.FenceHost(host_id=child))
    with pytest.raises(Conflict, match=f"is reserved for {job}#1, whose gang has not ended"):
        cluster.do(i.ForgetHost(host_id=child))
    cluster.finish(job)
    cluster.do(i.ForgetHost(host_id=child))
    assert child not in cluster.state.hosts
    assert [closed.message for closed in cluster.closed] == [f"host {child} was forgotten"]
    cluster.closed.clear()
    cluster.wait(600)
    assert cluster.placed(cluster.submit(2)) == [main, "h3"]
    cluster.restart()
    assert child not in cluster.state.hosts


def test_a_fenced_host_is_used_again_when_it_is_back_without_what_it_ran(cluster: Cluster) -> None:
    cluster.hosts(1)
    (host,) = cluster.run(cluster.submit(1, attempts=1))
    cluster.wait(40, silent=(host,))
    cluster.do(i.FenceHost(host_id=HostId(host)))
    cluster.hello(host)
    assert cluster.placed(cluster.submit(1)) == [host]


def test_a_forgotten_host_is_a_new_host_when_it_comes_back(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.do(i.DrainHost(host_id=HostId("h1"), reason="old"))
    cluster.hang_up("h1")
    cluster.do(i.ForgetHost(host_id=HostId("h1")))
    waiting = cluster.submit(1)
    cluster.hello("h1", agent_uuid="successor")
    assert cluster.placed(waiting) == ["h1"]


def test_a_job_that_a_forgotten_host_has_refused_goes_on(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.says("h1", Progress.REFUSED, cluster.key("h1"), reason="no space")
    cluster.says("h1", Progress.RELEASED, NodeKey(job, 1, 0))
    cluster.hang_up("h1")
    cluster.do(i.ForgetHost(host_id=HostId("h1")))
    cluster.hello("h2")
    cluster.run(job)
    cluster.finish(job)
    assert cluster.is_(job) is JobState.SUCCEEDED
