"""What a host is sent, and when: each change of its list once, and the list anew on request."""

from __future__ import annotations

from coordinator.core import inputs as i
from coordinator.core.effects import SendAssignments
from coordinator.core.ids import HostId
from coordinator.core.states import Desired, Progress
from tests.core.harness import Cluster


def _sent(cluster: Cluster) -> int:
    """How many lists the last step sent."""
    return sum(isinstance(effect, SendAssignments) for effect in cluster.last.effects)


def test_a_list_that_a_host_has_is_not_sent_again(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.submit(1)
    assert _sent(cluster) == 1
    cluster.prepared("h1")
    assert _sent(cluster) == 1  # RUN
    cluster.up("h1")
    assert _sent(cluster) == 0
    cluster.exited("h1")
    assert _sent(cluster) == 1  # STOP: clean up
    cluster.says("h1", Progress.EXITED, exit_code=0, was_up=True, unclean_reason="a mount is busy")
    assert cluster.facts() == ["NodeUnclean"]
    assert _sent(cluster) == 0
    cluster.released("h1")
    assert (_sent(cluster), cluster.wants("h1")) == (1, None)


def test_a_new_session_is_sent_the_list_although_it_is_the_same(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.submit(1)
    cluster.hello("h1")
    assert (_sent(cluster), cluster.wants("h1")) == (1, Desired.PREPARE)


def test_a_session_that_comes_back_is_sent_the_list_of_now(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.hang_up("h1")
    cluster.hello("h1")
    assert (_sent(cluster), cluster.wants("h1")) == (1, None)


def test_resume_asks_a_quarantined_host_once_more(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.submit(1)
    cluster.prepared("h1")
    cluster.up("h1")
    cluster.exited("h1", unclean_reason="a mount is busy")
    cluster.do(i.ResumeHost(host_id=HostId("h1")))
    assert (_sent(cluster), cluster.wants("h1")) == (1, Desired.STOP)
