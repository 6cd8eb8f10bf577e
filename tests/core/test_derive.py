"""What a host is told: what is wanted, and the environment (aws-batch-spec section 14)."""

from __future__ import annotations

from dataclasses import replace

from coordinator.core.container import KeyValuePair
from coordinator.core.ids import HostId
from coordinator.core.states import Desired
from tests.core.harness import SETTINGS, Cluster, container, ranges

STANDARD = {
    "AWS_BATCH_JOB_ATTEMPT": "1",
    "AWS_BATCH_CE_NAME": "default",
    "AWS_BATCH_JQ_NAME": "default",
    "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
}


def test_the_environment_of_every_node(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(3, main=1)
    hosts = cluster.start_main(job)
    cluster.up(hosts[1])
    for index, host in enumerate(hosts):
        expected = {
            "COLOUR": "red",
            **STANDARD,
            "AWS_BATCH_JOB_ID": f"{job}#{index}",
            "AWS_BATCH_JOB_NODE_INDEX": str(index),
            "AWS_BATCH_JOB_MAIN_NODE_INDEX": "1",
            "AWS_BATCH_JOB_NUM_NODES": "3",
        }
        if index != 1:
            expected["AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"] = "10.0.0.2"
        assert cluster.environment(host) == expected


def test_a_job_of_one_container_has_no_node_variables(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(single=True)
    expected = {"COLOUR": "red", **STANDARD, "AWS_BATCH_JOB_ID": str(job)}
    assert cluster.environment("h1") == expected


def test_nobody_overrides_the_standard_variables(cluster: Cluster) -> None:
    cluster.hosts(1)
    mine = KeyValuePair(name="AWS_EXECUTION_ENV", value="mine")
    cluster.submit(1, groups=ranges(n0_=container(environment=(mine,))))
    assert cluster.environment("h1")["AWS_EXECUTION_ENV"] == "AWS_ECS_EC2"


def test_every_node_runs_its_groups_container(cluster: Cluster) -> None:
    cluster.hosts(3)
    groups = ranges(
        n0=container(vcpus=4, memory_mib=100, image="one", command=("a",), user="root"),
        n1_=container(vcpus=2, memory_mib=200, image="two", command=("b", "c")),
    )
    job = cluster.submit(3, groups=groups)
    seen = []
    for host in cluster.placed(job):
        (assignment,) = cluster.sent[host]
        run = assignment.container
        assert run is not None
        asked = run.properties
        seen.append((asked.image, asked.command, run.vcpus, run.memory_mib, asked.user))
    other = ("two", ("b", "c"), 2, 200, None)
    assert seen == [("one", ("a",), 4, 100, "root"), other, other]


def test_stop_names_no_container_and_carries_grace() -> None:
    cluster = Cluster(replace(SETTINGS, stop_grace_seconds=7, lease_seconds=99))
    cluster.hosts(1)
    job = cluster.submit(1, attempts=2)
    cluster.run(job)
    (running,) = cluster.sent[HostId("h1")]
    assert (running.stop_grace_seconds, running.lease_seconds) == (7, 99)
    cluster.terminate(job)
    (stopping,) = cluster.sent[HostId("h1")]
    assert (stopping.desired, stopping.container) == (Desired.STOP, None)
    assert stopping.stop_grace_seconds == 7


def test_what_is_wanted_only_moves_forward(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.placed(job)
    seen = {main: [cluster.wants(main)], child: [cluster.wants(child)]}

    def look() -> None:
        for host in (main, child):
            if cluster.wants(host) is not seen[host][-1]:
                seen[host].append(cluster.wants(host))

    cluster.prepared(main, child)
    look()
    cluster.up(main)
    look()
    cluster.up(child)
    look()
    cluster.exited(main, 0)
    look()
    cluster.exited(child, 143)
    look()
    cluster.released(main, child)
    look()
    forward = [Desired.PREPARE, Desired.RUN, Desired.STOP, None]
    assert seen == {main: forward, child: forward}
