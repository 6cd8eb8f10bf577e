"""Who may speak for a host: reboots, copied disks, wiped and restored data directories."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.core import inputs as i
from coordinator.core.effects import CloseSession
from coordinator.core.errors import DuplicateAgent
from coordinator.core.hello import BEATS_TO_WAIT
from coordinator.core.identity import UNKNOWN_MACHINE, MachineId, is_same
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.lineage import cluster_id
from coordinator.core.states import Desired, JobState, NodeState, Progress
from tests.core.harness import Cluster

LOST = "Host EC2 (instance h1) terminated."
MACHINE = MachineId(os_id="a", product_uuid="b", mac_addresses=("c", "d"))


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def up(key: NodeKey) -> i.Observation:
    return i.Observation(key=key, progress=Progress.UP, was_up=True, private_ipv4="10.0.0.1")


def wait_s(cluster: Cluster) -> float:
    return BEATS_TO_WAIT * cluster.settings.heartbeat_ms / 1000


# machines


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (MACHINE, True),
        (MachineId(os_id="a"), True),
        (MachineId(os_id="a", product_uuid="b", mac_addresses=("d", "e")), True),
        (MachineId(os_id="a", product_uuid="b", mac_addresses=("e",)), False),
        (MachineId(os_id="a", product_uuid="x", mac_addresses=("c",)), False),
        (MachineId(os_id="x", product_uuid="b", mac_addresses=("c",)), False),
        (UNKNOWN_MACHINE, None),
    ],
)
def test_machines_are_told_apart_by_what_both_say(other: MachineId, same: bool | None) -> None:
    assert is_same(MACHINE, other) is same
    assert is_same(other, MACHINE) is same


# a session that contradicts the one before


def test_a_reboot_waits_for_the_session_before_and_is_then_proof(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2, attempts=1)
    main, _ = cluster.run(job)
    cluster.hello(main, boot_id="boot-2", waits=False)
    assert cluster.state.sessions.get(cluster.session(main)) is None
    cluster.wait(wait_s(cluster) - 0.1, silent=(main,))
    assert cluster.is_(job) is JobState.RUNNING
    cluster.wait(0.1, silent=(main,))
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).attempts[0].nodes[0].released


def test_a_hello_that_contradicts_a_living_session_is_refused(cluster: Cluster) -> None:
    """A golden image on a machine that looks the same: its boot id is no reboot of the first."""
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    alive = cluster.session("h1")
    cluster.hello("h1", boot_id="boot-2", waits=False)
    copy = cluster.session("h1")
    cluster.do(i.HostHeartbeat(session_id=alive, seq=1))
    assert cluster.closed == []
    cluster.now += 1
    cluster.do(i.HostHeartbeat(session_id=alive, seq=2))
    cluster.wait(wait_s(cluster), silent=("h1",))
    (refused,) = cluster.closed
    assert (refused.session_id, refused.is_refusal) == (copy, True)
    assert "has been heard meanwhile" in refused.message
    assert cluster.is_(job) is JobState.RUNNING
    assert cluster.state.presence[HostId("h1")].session_id == alive
    cluster.closed.clear()


def test_a_late_hello_that_nobody_contradicts_is_not_believed(cluster: Cluster) -> None:
    """Its agent has left the connection, and the session after it is cut off as well."""
    cluster.hosts(1, incarnation=1)
    job = cluster.submit(1)
    cluster.run(job)
    cluster.hello("h1", up(cluster.key("h1")), incarnation=3)
    cluster.answers = False
    cluster.hello("h1", incarnation=2)
    cluster.wait(20, silent=("h1",))
    assert cluster.is_(job) is JobState.RUNNING
    assert len(cluster.state.waiting) == 1


def test_what_counts_is_what_the_agent_says_when_it_is_asked(cluster: Cluster) -> None:
    cluster.hosts(1, incarnation=5)
    job = cluster.submit(1)
    cluster.run(job)
    cluster.answers = False
    cluster.hello("h1", incarnation=2)
    asked = cluster.session("h1")
    cluster.do(replace(cluster.hellos[HostId("h1")], observed=(up(cluster.key("h1")),)))
    assert cluster.is_(job) is JobState.RUNNING
    assert cluster.state.presence[HostId("h1")].session_id == asked


def test_it_may_not_answer_before_it_is_asked(cluster: Cluster) -> None:
    """The session before has not had its time yet."""
    cluster.hosts(1, incarnation=5)
    job = cluster.submit(1)
    cluster.run(job)
    cluster.hello("h1", incarnation=2, waits=False)
    cluster.do(replace(cluster.hellos[HostId("h1")]))
    assert cluster.is_(job) is JobState.RUNNING
    assert cluster.session("h1") in cluster.state.waiting


def test_its_answer_counts_for_nothing_when_the_session_before_was_heard(cluster: Cluster) -> None:
    cluster.hosts(1, incarnation=5)
    job = cluster.submit(1)
    cluster.run(job)
    alive = cluster.session("h1")
    cluster.answers = False
    cluster.hello("h1", incarnation=2)
    asked = cluster.session("h1")
    assert cluster.state.waiting[asked].is_asked
    cluster.do(i.HostHeartbeat(session_id=alive, seq=1))
    cluster.do(replace(cluster.hellos[HostId("h1")]))
    (refused,) = cluster.closed
    assert (refused.session_id, refused.is_refusal) == (asked, True)
    assert cluster.is_(job) is JobState.RUNNING
    assert cluster.state.presence[HostId("h1")].session_id == alive
    cluster.closed.clear()


def test_an_agent_of_an_older_release_is_believed_without_being_asked(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.answers = False
    cluster.hello("h1", boot_id="boot-2", answers_inquiries=False)
    assert cluster.state.hosts[HostId("h1")].facts.boot_id == "boot-2"


def test_neither_is_it_when_the_session_before_was_heard(cluster: Cluster) -> None:
    cluster.hosts(1)
    alive = cluster.session("h1")
    cluster.hello("h1", boot_id="boot-2", answers_inquiries=False, waits=False)
    cluster.wait(1)
    cluster.do(i.HostHeartbeat(session_id=alive, seq=1))
    cluster.wait(wait_s(cluster))
    assert [close.is_refusal for close in cluster.closed] == [True]
    cluster.closed.clear()
    assert cluster.state.presence[HostId("h1")].session_id == alive
    assert cluster.state.hosts[HostId("h1")].facts.boot_id == "boot-1"


@pytest.mark.parametrize("answers", [True, False])
def test_one_that_is_let_in_is_not_refused_for_the_next(cluster: Cluster, answers: bool) -> None:
    """Two reboots in a row."""
    cluster.hosts(1)
    cluster.hello("h1", boot_id="boot-2", answers_inquiries=answers)
    assert not cluster.state.waiting
    cluster.superseded.clear()
    cluster.hello("h1", boot_id="boot-3", answers_inquiries=answers, waits=False)
    assert not [close for close in (*cluster.closed, *cluster.superseded) if close.is_refusal]
    cluster.wait(wait_s(cluster), silent=("h1",))
    assert cluster.state.hosts[HostId("h1")].facts.boot_id == "boot-3"


def test_of_two_that_wait_the_newer_goes_on(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.hello("h1", boot_id="boot-2", waits=False)
    first = cluster.session("h1")
    cluster.hello("h1", boot_id="boot-3", waits=False)
    assert [(c.session_id, c.is_refusal) for c in cluster.superseded] == [(first, True)]
    cluster.wait(wait_s(cluster), silent=("h1",))
    assert cluster.state.presence[HostId("h1")].session_id == cluster.session("h1")
    assert not cluster.state.waiting


def test_one_that_hangs_up_waits_no_more(cluster: Cluster) -> None:
    cluster.hosts(1)
    alive = cluster.session("h1")
    cluster.hello("h1", boot_id="boot-2", waits=False)
    cluster.hang_up("h1")
    assert not cluster.state.waiting
    cluster.wait(wait_s(cluster))
    assert cluster.state.presence[HostId("h1")].session_id == alive


def test_a_coordinator_that_slept_gives_the_session_before_its_time(cluster: Cluster) -> None:
    cluster.hosts(1)
    alive = cluster.session("h1")
    cluster.hello("h1", boot_id="boot-2", waits=False)
    cluster.now += 60_000
    cluster.do(i.Tick())
    assert cluster.state.waiting
    cluster.do(i.HostHeartbeat(session_id=alive, seq=1))
    cluster.wait(wait_s(cluster), silent=("h1",))
    assert [close.is_refusal for close in cluster.closed] == [True]
    cluster.closed.clear()


def test_a_host_that_is_forgotten_meanwhile_is_new(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.hang_up("h1")
    cluster.hello("h1", boot_id="boot-2", waits=False)
    cluster.do(i.ForgetHost(host_id=HostId("h1")))
    cluster.wait(wait_s(cluster))
    assert cluster.state.hosts[HostId("h1")].facts.boot_id == "boot-2"


# what a new boot proves


@pytest.mark.parametrize(
    "facts",
    [
        {"previous_boot_id": ""},
        {"previous_boot_id": "boot-0"},
    ],
    ids=["no ledger", "an older ledger"],
)
def test_a_boot_that_does_not_follow_is_no_proof(cluster: Cluster, facts: dict[str, Any]) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    cluster.hello("h1", boot_id="boot-2", is_attached=False, **facts)
    assert cluster.is_(job) is JobState.RUNNING
    cluster.hello("h1", boot_id="boot-2", previous_boot_id="boot-2", is_attached=True)
    assert cluster.is_(job) is JobState.FAILED
    assert cluster.job(job).status_reason == LOST


def test_another_boot_of_nobody_knows_which_machine_proves_nothing(cluster: Cluster) -> None:
    """It may be the host, and it may be a copy of its disk that does not find what runs there."""
    cluster.hosts(1, machine=UNKNOWN_MACHINE)
    job = cluster.submit(1, attempts=2)
    cluster.run(job)
    with pytest.raises(DuplicateAgent, match="another boot"):
        cluster.hello("h1", boot_id="boot-2")
    cluster.wait(40, silent=("h1",))
    with pytest.raises(DuplicateAgent, match="muster hosts fence h1"):
        cluster.hello("h1", boot_id="boot-2")
    assert cluster.is_(job) is JobState.RUNNING
    cluster.do(i.FenceHost(host_id=HostId("h1")))
    cluster.hello("h1", boot_id="boot-2")
    assert cluster.state.hosts[HostId("h1")].facts.boot_id == "boot-2"


# copied disks


@pytest.mark.parametrize(
    "machine",
    [
        MachineId(os_id="machine-h1", product_uuid="another"),
        MachineId(os_id="machine-h1", mac_addresses=("02:00:00:00:00:02",)),
        MachineId(os_id="another"),
    ],
    ids=["DMI", "MAC", "machine-id"],
)
def test_a_copy_of_the_disk_is_another_machine(cluster: Cluster, machine: MachineId) -> None:
    """The copy has the host id, the agent's uuid, and a ledger that knows the boot before."""
    original = MachineId(
        os_id="machine-h1", product_uuid="first", mac_addresses=("02:00:00:00:00:01",)
    )
    cluster.hosts(1, machine=original)
    job = cluster.submit(1, attempts=3)
    cluster.run(job)
    with pytest.raises(DuplicateAgent, match="belongs to another machine"):
        cluster.hello("h1", machine=machine, boot_id="boot-2")
    cluster.wait(40, silent=("h1",))
    with pytest.raises(DuplicateAgent, match="muster hosts fence h1"):
        cluster.hello("h1", machine=machine, boot_id="boot-2")
    assert cluster.is_(job) is JobState.RUNNING
    assert cluster.job(job).current is not None


def test_a_disk_that_was_moved_is_taken_when_nothing_may_run_on_the_old_machine(
    cluster: Cluster,
) -> None:
    cluster.hosts(1)
    cluster.wait(40, silent=("h1",))
    cluster.hello("h1", machine=MachineId(os_id="successor"), boot_id="boot-2")
    assert cluster.state.hosts[HostId("h1")].facts.machine == MachineId(os_id="successor")


# data directories


def wiped(cluster: Cluster, *observed: i.Observation, **facts: Any) -> None:
    same = MachineId(os_id="machine-h1")
    cluster.hello("h1", *observed, agent_uuid="new", machine=same, previous_boot_id="", **facts)


def test_an_agent_without_its_files_is_the_old_host_back(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    key = cluster.key("h1")
    wiped(cluster, is_attached=False)
    assert cluster.is_(job) is JobState.RUNNING
    wiped(cluster, up(key))
    assert cluster.is_(job) is JobState.RUNNING
    assert cluster.wants("h1") is Desired.RUN
    cluster.wait(1_000)
    cluster.exited("h1", 0)
    cluster.released("h1")
    assert cluster.is_(job) is JobState.SUCCEEDED


def test_what_an_agent_without_its_files_does_not_find_is_gone(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, attempts=2)
    cluster.run(job)
    wiped(cluster)
    node = cluster.job(job).attempts[0].nodes[0]
    assert (node.state, node.released) == (NodeState.FAILED, True)
    assert len(cluster.job(job).attempts) == 2


def test_a_main_whose_start_only_the_lost_files_knew_is_not_started_again(
    cluster: Cluster,
) -> None:
    """It may have run to its end, and its end was written where nothing is left."""
    cluster.hosts(1)
    job = cluster.submit(1, attempts=2)
    cluster.prepared("h1")
    assert cluster.is_(job) is JobState.STARTING
    wiped(cluster)
    assert len(cluster.job(job).attempts) == 2
    assert cluster.wants("h1") is Desired.PREPARE


@pytest.mark.parametrize(
    "files",
    [
        {"boot_id": "boot-3", "previous_boot_id": "boot-0"},
        {"incarnation": 1},
    ],
    ids=["of a boot before", "older"],
)
def test_a_main_whose_start_a_copy_of_the_files_does_not_know_is_not_started_again(
    cluster: Cluster, files: dict[str, Any]
) -> None:
    cluster.hosts(1, incarnation=5)
    job = cluster.submit(1, attempts=2)
    cluster.prepared("h1")
    assert cluster.is_(job) is JobState.STARTING
    cluster.hello("h1", **{"incarnation": 6, **files})
    assert len(cluster.job(job).attempts) == 2


def test_a_restarted_coordinator_starts_no_main_again_whose_vote_its_agent_does_not_know(
    cluster: Cluster,
) -> None:
    """It has forgotten how new the agent's files were. What they say is all there is: they are of
    before the vote, and what came of it may have ended meanwhile."""
    cluster.hosts(1, incarnation=5)
    job = cluster.submit(1, attempts=2)
    cluster.prepared("h1")
    assert cluster.is_(job) is JobState.STARTING
    cluster.restart()
    cluster.hello("h1", incarnation=3)
    assert len(cluster.job(job).attempts) == 2


def test_a_main_that_is_still_being_started_goes_on_without_the_lost_files(
    cluster: Cluster,
) -> None:
    """Its agent has found that it is about to come up."""
    cluster.hosts(1)
    job = cluster.submit(1, attempts=2)
    cluster.prepared("h1")
    coming = i.Observation(key=cluster.key("h1"), progress=Progress.LAUNCHING)
    wiped(cluster, coming)
    assert len(cluster.job(job).attempts) == 1
    assert cluster.wants("h1") is Desired.RUN


def test_a_vote_that_only_the_lost_files_knew_is_none(cluster: Cluster) -> None:
    """The next one may promise another address."""
    cluster.hosts(2)
    job = cluster.submit(2)
    cluster.prepared("h1")
    wiped(cluster)
    cluster.prepared("h2")
    assert cluster.is_(job) is JobState.RUNNABLE


@pytest.mark.parametrize("progress", [Progress.PREPARED, Progress.LAUNCHING])
def test_what_an_older_ledger_names_as_not_up_is_not_started_again(
    cluster: Cluster, progress: Progress
) -> None:
    cluster.hosts(1)
    job = cluster.submit(1, attempts=2)
    cluster.run(job)
    before = i.Observation(key=cluster.key("h1"), progress=progress)
    cluster.hello("h1", before)
    node = cluster.job(job).attempts[0].nodes[0]
    assert (node.state, node.released) == (NodeState.FAILED, True)
    assert cluster.wants("h1") is not Desired.RUN


def test_a_restored_data_directory_speaks_for_the_host_again(cluster: Cluster) -> None:
    """Its incarnation is an older one: a late Hello, or an older copy of the ledger."""
    cluster.hosts(1, incarnation=7 << 32)
    job = cluster.submit(1)
    cluster.run(job)
    key = cluster.key("h1")
    cluster.hello("h1", up(key), incarnation=3 << 32)
    assert cluster.is_(job) is JobState.RUNNING
    assert cluster.state.presence[HostId("h1")].incarnation == 3 << 32


def test_a_late_hello_changes_nothing(cluster: Cluster) -> None:
    cluster.hosts(1, incarnation=1)
    job = cluster.submit(1)
    cluster.run(job)
    key = cluster.key("h1")
    cluster.hello("h1", up(key), incarnation=2)
    alive = cluster.session("h1")
    lates: list[dict[str, Any]] = [{"incarnation": 1}, {"incarnation": 1, "boot_id": "boot-0"}]
    for late in lates:
        cluster.hello("h1", waits=False, **late)
        cluster.now += 1
        cluster.do(i.HostHeartbeat(session_id=alive, seq=1))
        cluster.wait(wait_s(cluster), silent=("h1",))
    assert [type(close) for close in cluster.closed] == [CloseSession]
    cluster.closed.clear()
    assert cluster.is_(job) is JobState.RUNNING


def test_a_hello_before_the_agent_has_looked_proves_no_absence(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    cluster.hello("h1", is_attached=False)
    assert cluster.is_(job) is JobState.RUNNING


def test_an_agent_of_another_cluster_proves_no_absence_in_this_one(cluster: Cluster) -> None:
    """It has looked for the other cluster's nodes, and leaves these alone."""
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    cluster.hello("h1", cluster_id="another")
    assert cluster.is_(job) is JobState.RUNNING
    cluster.hello("h1", cluster_id=cluster_id(cluster.state.cluster_key))
    assert cluster.is_(job) is JobState.FAILED
