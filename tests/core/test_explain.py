"""Why a job waits: every obstacle has its sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.core import inputs as i
from coordinator.core.explain import Explanation, explain, status_reason
from coordinator.core.ids import HostId, JobId
from coordinator.core.states import Progress
from tests.core.harness import SETTINGS, Cluster, container, ranges

CAPACITY = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - Service cannot fulfill the capacity requested"
REQUIREMENT = (
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job resource requirement (vCPU/memory/GPU) is "
    "higher than that can be met by the CE(s) attached to the job queue."
)


def explained(cluster: Cluster, job: JobId) -> Explanation:
    return explain(cluster.state, cluster.settings, cluster.job(job))


def reason(cluster: Cluster, job: JobId) -> str:
    found = status_reason(cluster.state, cluster.settings, cluster.job(job))
    assert found is not None
    return found


def verdict(cluster: Cluster, job: JobId, host: str) -> str:
    (found,) = [v for v in explained(cluster, job).hosts if v.host_id == host]
    assert found.usable is (found.reason == "can take a node now")
    return found.reason


def test_too_few_hosts(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(3)
    found = reason(cluster, job)
    assert found.startswith(f"{CAPACITY} for instance type [generic] (")
    assert "needs 3 free hosts; 2 of 2 can take a node" in found
    assert verdict(cluster, job, "h1") == "can take a node now"
    assert explained(cluster, job).needs == (
        "3 hosts of any one instance type, at once",
        'for nodes "0:" 3 hosts with 1 vCPUs, 64 MiB of memory',
    )


def test_no_hosts_at_all(cluster: Cluster) -> None:
    job = cluster.submit(2)
    assert reason(cluster, job).startswith(CAPACITY)
    assert "0 of 0" in reason(cluster, job)


@pytest.mark.parametrize(
    ("asks", "text"),
    [
        ({"vcpus": 9}, "needs 9 vCPUs, the host has 8"),
        ({"memory_mib": 16_001}, "needs 16001 MiB of memory, the host has 16000"),
    ],
)
def test_hosts_that_are_too_small(cluster: Cluster, asks: dict[str, int], text: str) -> None:
    cluster.hosts(2)
    job = cluster.submit(2, groups=ranges(n0_=container(**asks)))
    assert reason(cluster, job).startswith(REQUIREMENT)
    assert verdict(cluster, job, "h1") == text


def test_one_group_that_no_host_could_take(cluster: Cluster) -> None:
    cluster.hosts(2)
    groups = ranges(n0=container(vcpus=99), n1_=container())
    job = cluster.submit(2, groups=groups)
    assert reason(cluster, job).startswith(REQUIREMENT)
    assert verdict(cluster, job, "h1") == "can take a node now"


def test_another_instance_type(cluster: Cluster) -> None:
    cluster.hosts(1, instance_type="small")
    job = cluster.submit(1, groups=ranges(n0_=container(instance_type="large")))
    assert verdict(cluster, job, "h1") == "is of instance type small, the job needs large"
    found = reason(cluster, job)
    assert found.startswith(REQUIREMENT)
    assert "(no host has instance type large; needs 1 free host; 0 of 1 can take a node; " in found
    cluster.hosts(1, instance_type="large", vcpus=0)
    assert "no host has" not in reason(cluster, job)


def test_a_lost_host(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(2)
    cluster.wait(40, silent=("h1",))
    assert verdict(cluster, job, "h1") == "is LOST: silent since 2023-11-14 22:13:20 UTC"


def test_a_host_that_is_not_connected(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(2)
    cluster.hang_up("h1")
    assert verdict(cluster, job, "h1") == "its agent is not connected"


def test_an_unusable_host(cluster: Cluster) -> None:
    cluster.hosts(1, unusable_reason="podman does not answer")
    job = cluster.submit(1)
    assert verdict(cluster, job, "h1") == "podman does not answer"


def test_a_quarantined_host(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.run(cluster.submit(1))
    cluster.exited("h1", 0, unclean_reason="pid 77 survives")
    job = cluster.submit(1)
    assert verdict(cluster, job, "h1") == "is QUARANTINED: pid 77 survives"


def test_a_draining_host(cluster: Cluster) -> None:
    cluster.hosts(2)
    cluster.drain("h1", "new disks")
    cluster.drain("h2", "")
    job = cluster.submit(1)
    assert verdict(cluster, job, "h1") == "is draining: new disks"
    assert verdict(cluster, job, "h2") == "is draining"


def test_a_busy_host(cluster: Cluster) -> None:
    cluster.hosts(1)
    other = cluster.submit(1)
    job = cluster.submit(1)
    assert verdict(cluster, job, "h1") == f"holds node 0 of job {other}"


def test_a_host_that_lets_go(cluster: Cluster) -> None:
    cluster.hosts(1)
    other = cluster.submit(1)
    cluster.cancel(other)
    job = cluster.submit(1)
    assert verdict(cluster, job, "h1") == f"is letting go of {other}#0 attempt 1"


def test_a_host_that_voted_no(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.refused("h1", "no space left")
    cluster.released("h1")
    expected = "voted no: no space left (asked again after 2023-11-14 22:13:50 UTC)"
    assert verdict(cluster, job, "h1") == expected


def test_many_hosts_with_one_reason_are_told_in_short(cluster: Cluster) -> None:
    cluster.hosts(6, vcpus=1)
    cluster.hosts(1)
    job = cluster.submit(2, groups=ranges(n0_=container(vcpus=2)))
    expected = "1 of 7 can take a node; h1, h2, h3 and 3 more: needs 2 vCPUs, the host has 1"
    assert expected in reason(cluster, job)


def test_a_job_behind_another(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.run(cluster.submit(1))
    first, second = cluster.submit(1), cluster.submit(1)
    assert reason(cluster, second) == f"Behind job {first} in job queue default"


def test_a_job_that_depends(cluster: Cluster) -> None:
    first = cluster.submit(1)
    job = cluster.submit(1, after=(first,))
    assert reason(cluster, job) == f"Waiting for the jobs it depends on: {first}"


def test_a_vote_under_way(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    cluster.prepared("h1")
    found = explained(cluster, job)
    assert found.status_reason is None
    assert found.summary == (
        "Hosts are reserved and prepare attempt 1: 1 of 2 are ready; waiting for h2"
    )


def test_an_old_attempt_that_is_being_stopped(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2, attempts=2)
    main, child = cluster.run(job)
    cluster.exited(main, 1)
    cluster.released(main)
    assert reason(cluster, job) == (
        "Waiting until nothing of the last attempt runs: "
        f"node 1 of attempt 1 on {child} is being stopped"
    )


def test_an_old_attempt_whose_host_cannot_be_cleaned(cluster: Cluster) -> None:
    cluster.hosts(2)
    first = cluster.submit(2)
    main, child = cluster.run(first)
    cluster.exited(main, 0)
    cluster.released(main)
    cluster.exited(child, 0, unclean_reason="process 42 is in state D")
    job = cluster.submit(1, after=(first,))
    assert f"on {child} cannot be cleaned up: process 42 is in state D; goes on" in reason(
        cluster, job
    )


@pytest.mark.parametrize("lease", [600, 0])
def test_an_old_attempt_that_may_still_run(lease: int) -> None:
    cluster = Cluster(replace(SETTINGS, lease_seconds=lease))
    cluster.hosts(2)
    job = cluster.submit(1, attempts=2)
    (host,) = cluster.run(job)
    cluster.wait(40, silent=(host,))
    assert reason(cluster, job) == (
        f"The main node's host {host} is silent since 2023-11-14 22:13:20 UTC; the job goes on, "
        "and the attempt fails at 2023-11-14 22:18:20 UTC unless the host is heard before"
    )
    cluster.wait(261, silent=(host,))
    found = reason(cluster, job)
    assert f"node 0 of attempt 1 on {host} may still run, as the host is silent" in found
    assert f"muster hosts fence {host}" in found
    assert found.endswith("; or at 2023-11-14 22:24:25 UTC") is bool(lease)


def test_a_job_that_runs_stops_or_has_ended(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    cluster.run(job)
    assert explained(cluster, job).summary == "The job does not wait: it is RUNNING"
    cluster.terminate(job, reason="enough")
    assert explained(cluster, job).summary == "Stopping: enough"
    cluster.exited("h1", 143)
    assert explained(cluster, job).summary == "The job has ended: enough"


def test_the_reason_goes_when_the_obstacle_goes(cluster: Cluster) -> None:
    cluster.hosts(1)
    cluster.drain("h1")
    job = cluster.submit(1)
    assert "draining" in reason(cluster, job)
    cluster.do(i.ResumeHost(host_id=HostId("h1")))
    assert status_reason(cluster.state, cluster.settings, cluster.job(job)) is None
    cluster.says("h1", Progress.PREPARED)


def test_a_job_that_is_being_stopped_names_the_hosts_that_hold_it_up(cluster: Cluster) -> None:
    cluster.hosts(5)
    job = cluster.submit(5, attempts=2)
    hosts = cluster.run(job)
    assert status_reason(cluster.state, cluster.settings, cluster.job(job)) is None
    cluster.says(hosts[1], Progress.UP, unclean_reason="x" * 400)
    assert status_reason(cluster.state, cluster.settings, cluster.job(job)) is None
    cluster.terminate(job, reason="hang")
    first = f"Stopping: hang; host {hosts[1]} cannot be cleaned up: {'x' * 300}..."
    assert reason(cluster, job) == first
    for host in (hosts[0], *hosts[2:]):
        cluster.says(host, Progress.UP, unclean_reason="pid 7")
    assert reason(cluster, job) == "; ".join(
        [
            f"Stopping: hang; host {hosts[0]} cannot be cleaned up: pid 7",
            first.removeprefix("Stopping: hang; "),
            f"host {hosts[2]} cannot be cleaned up: pid 7",
            "nor can 2 more hosts",
        ]
    )
    cluster.released(hosts[2])
    assert f"host {hosts[2]} " not in reason(cluster, job)
    cluster.exited(hosts[0], 143)
    assert status_reason(cluster.state, cluster.settings, cluster.job(job)) is None
    assert cluster.job(job).status_reason == "hang"
    cluster.released(*hosts[3:])
    assert cluster.job(job).status_reason == "hang"


@pytest.mark.parametrize("way", ["vote", "unusable", "unclean"])
def test_what_a_host_says_is_clipped(cluster: Cluster, way: str) -> None:
    long = "p" * 6000
    cluster.hosts(1)
    job = cluster.submit(1)
    if way == "vote":
        cluster.refused("h1", long)
        cluster.released("h1")
        assert verdict(cluster, job, "h1").endswith(
            "... (asked again after 2023-11-14 22:13:50 UTC)"
        )
    elif way == "unusable":
        cluster.cancel(job)
        cluster.released("h1")
        cluster.hello("h1", unusable_reason=long)
        job = cluster.submit(1)
    else:
        cluster.run(job)
        cluster.exited("h1", 0, unclean_reason=long)
        job = cluster.submit(1)
    assert 300 < len(verdict(cluster, job, "h1")) < 400
    assert f"{'p' * 300}..." in reason(cluster, job)
    assert len(reason(cluster, job)) < 800


def test_of_a_job_that_runs_it_is_told_where_its_nodes_are(cluster: Cluster) -> None:
    cluster.hosts(14)
    job = cluster.submit(13, attempts=2)
    main, *children = cluster.run(job)
    cluster.goodbye(children[11], cluster.key(children[11]))
    cluster.wait(40, silent=(children[8], children[11]))
    found = explain(cluster.state, cluster.settings, cluster.job(job))
    assert (found.needs, found.hosts) == ((), ())
    first, of_main, silent, stopped, *others, more = found.nodes
    assert first == "attempt 1 of 2; the job ends when its main node does"
    assert of_main == f"node 0 (main) is RUNNING on {main}"
    assert silent.startswith(f"node 9 is RUNNING on {children[8]}, which is silent since 2023-")
    assert "; it fails at 2023-11-14 22:18:" in silent
    assert stopped.startswith(f"node 12 is RUNNING on {children[11]}, whose agent was stopped at ")
    assert others[0] == f"node 1 is RUNNING on {children[0]}"
    assert (len(others), more) == (7, "and 3 nodes more")
