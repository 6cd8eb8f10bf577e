"""Whose the nodes are that an agent finds at its start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent import whereabouts
from agent.core.assignment import FoundLease, NodeKey
from agent.core.marks import Marks
from agent.engine.port import Managed, Started
from agent.host.nodes import FoundNode
from agent.whereabouts import Found, Whereabouts

KEY = NodeKey(job_id="j", attempt=1, node_index=0)
MARKS = Marks(cluster_id="ours", host_id="h1", machine="here", lease_seconds=600, grace_seconds=30)
RUNNING = Managed(key=KEY, started=None, running=True, marks=MARKS)
ENDED = replace(RUNNING, running=False)
PROCESS = FoundNode(key=KEY, cluster_id="ours", pid=4711)


def sort(
    *managed: Managed, running: tuple[FoundNode, ...] = (), known: tuple[NodeKey, ...] = ()
) -> Whereabouts:
    found = Found(managed, running)
    return whereabouts.sort(found, known, cluster_id="ours", machine="here")


@pytest.mark.parametrize(
    "found",
    [
        RUNNING,
        ENDED,
        replace(RUNNING, marks=None),
    ],
)
def test_what_is_ours_is_taken_over(found: Managed) -> None:
    assert sort(found).ours == (found,)


@pytest.mark.parametrize(
    "found",
    [
        replace(RUNNING, marks=replace(MARKS, cluster_id="theirs")),
        replace(ENDED, marks=replace(MARKS, cluster_id="theirs")),
        replace(ENDED, marks=replace(MARKS, machine="there")),
    ],
)
def test_what_is_anothers_is_left_alone(found: Managed, caplog: pytest.LogCaptureFixture) -> None:
    assert sort(found).ours == ()
    assert "left alone" in caplog.text


def test_what_the_ledger_knows_is_ours_whatever_it_says() -> None:
    found = replace(ENDED, marks=replace(MARKS, machine="there"))
    assert sort(found, known=(KEY,)).ours == (found,)


def test_what_runs_and_the_engine_does_not_have_is_waited_for() -> None:
    found = sort(running=(PROCESS,), known=(KEY,))
    assert found.strange == (KEY,)
    assert "muster-j-1-0 (pid 4711)" in found.words
    assert sort(RUNNING, running=(PROCESS,)).strange == ()
    assert sort(running=(replace(PROCESS, cluster_id="theirs"),)).words == ""


def test_what_runs_of_a_machine_of_another_name_is_neither_taken_nor_ignored() -> None:
    found = sort(replace(RUNNING, marks=replace(MARKS, machine="there")))
    assert (found.ours, found.strange) == ((), (KEY,))


def test_of_all_that_is_here_or_in_the_ledger_the_lease_is_kept() -> None:
    """What is not named has its lease and its kit deleted, and a keeper leaves then."""
    known, theirs = replace(KEY, attempt=2), replace(KEY, attempt=3)
    another = replace(PROCESS, key=theirs, cluster_id="theirs")
    assert set(sort(ENDED, running=(another,), known=(known,)).keys) == {KEY, known, theirs}


def test_a_ledger_that_knows_all_needs_no_coordinator() -> None:
    assert Found((RUNNING,), (PROCESS,)).is_all_in([KEY])
    assert Found((replace(RUNNING, marks=None),), ()).is_all_in([])
    assert not Found((RUNNING,), ()).is_all_in([])
    assert not Found((), (PROCESS,)).is_all_in([])


def test_what_is_taken_over_keeps_the_lease_that_its_holder_has() -> None:
    started = Started(container_id="c", started_at_ms=5, private_ipv4="10.0.0.1")
    found = whereabouts.taken_over(replace(RUNNING, started=started), 77)
    assert (found.started_at_ms, found.private_ipv4) == (5, "10.0.0.1")
    assert found.lease == FoundLease(seconds=600, grace_seconds=30, ends_at_ms=77)


def test_what_an_older_release_began_or_has_not_come_up_has_none() -> None:
    found = whereabouts.taken_over(replace(RUNNING, marks=None), None)
    assert (found.started_at_ms, found.private_ipv4, found.lease) == (0, "", None)
