"""No two nodes of a gang have one address: a vote that promises another's counts as a no."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.core import events as e
from coordinator.core.errors import InvariantViolation
from coordinator.core.ids import HostId
from coordinator.core.machine import Machine
from coordinator.core.states import Desired, JobState, NodeState
from tests.core.harness import Cluster

TAKEN = "10.88.0.2"


def test_the_second_host_that_promises_an_address_is_replaced(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(2)
    cluster.prepared("h1", address=TAKEN)
    cluster.prepared("h2", address=TAKEN)
    assert cluster.facts() == ["NodeRefused", "NodeReplaced"]
    (refused,) = cluster.all_facts(e.NodeRefused)
    assert (refused.host_id, refused.permanent) == ("h2", False)
    assert refused.reason.startswith(
        f"MusterAddressError: h2 promised {TAKEN}, which h1 has promised too; each host needs"
    )
    assert cluster.wants("h2") is Desired.STOP
    cluster.prepared("h3", address="10.88.0.3")
    assert cluster.is_(job) is JobState.STARTING
    gang = cluster.attempt(job).gang
    assert gang is not None
    assert gang.addresses == (TAKEN, "10.88.0.3")


def test_with_nobody_to_replace_it_all_hosts_are_handed_back(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    cluster.prepared("h2", address=TAKEN)
    cluster.prepared("h1", address=TAKEN)
    assert cluster.facts() == ["NodeRefused", "GangAbandoned"]
    assert cluster.is_(job) is JobState.RUNNABLE
    assert cluster.job(job).attempts == []
    assert HostId("h1") in cluster.job(job).refusals


def test_an_address_that_is_handed_back_may_be_promised_again(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(2)
    cluster.prepared("h1", address=TAKEN)
    cluster.hang_up("h1")
    cluster.wait(40, silent=("h1",))
    assert "h1" not in cluster.placed(job)
    cluster.prepared("h3", address=TAKEN)
    assert cluster.node(job, 0).state is not NodeState.PREPARING


def test_a_vote_without_an_address_promises_the_hosts_own(cluster: Cluster) -> None:
    cluster.hosts(2, private_ipv4="10.0.0.9")
    cluster.submit(2)
    cluster.prepared("h1", "h2")
    (refused,) = cluster.all_facts(e.NodeRefused)
    assert "h2 promised 10.0.0.9, which h1 has promised too" in refused.reason


def test_a_gang_with_one_address_twice_is_impossible_but_in_an_old_journal(
    cluster: Cluster,
) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    cluster.prepared("h1", address=TAKEN)
    cluster.prepared("h2", address="10.88.0.3")
    journal = [
        replace(stamped, event=replace(stamped.event, private_ipv4=TAKEN))
        if isinstance(stamped.event, e.NodePrepared)
        else stamped
        for stamped in cluster.journal
    ]
    assert cluster.is_(job) is JobState.STARTING
    machine = Machine(cluster.settings)
    machine.replay(journal, [])
    machine.check(replayed=True)
    with pytest.raises(InvariantViolation, match=f"two nodes have one address of .*{TAKEN}"):
        machine.check()
