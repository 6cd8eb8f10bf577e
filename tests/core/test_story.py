"""Every event of a job is told in a sentence."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

import pytest

from coordinator.core import events as e
from coordinator.core.ids import HostId, JobId, NodeKey
from coordinator.core.job_events import Placement
from coordinator.core.story import tell, tell_cluster
from coordinator.core.submission import resolve
from tests.core.shapes import SUBMISSION, multinode

JOB = JobId("j")
VALUES: dict[str, Any] = {
    "job_id": JOB,
    "job_queue": "default",
    "spec": resolve(SUBMISSION, multinode("0:", num_nodes=7), 0),
    "dependency": JobId("earlier"),
    "attempt": 2,
    "placements": tuple(
        Placement(node_index=index, host_id=HostId(f"h-{index}")) for index in range(7)
    ),
    "node_index": 3,
    "host_id": HostId("h-3"),
    "reason": "why",
    "status_reason": "Essential container in task exited",
    "private_ipv4": "10.0.0.3",
    "exit_code": 5,
    "proof": "seen",
    "cause": "enough",
    "by_user": True,
    "code": "CAPACITY",
    "boot_id": "boot",
    "boot_ms": 1,
}
SENTENCES = {
    "JobSubmitted": "submitted to job queue default: gang:3, 7 nodes",
    "JobPended": "waits for the jobs it depends on",
    "DependencyEnded": "job earlier has SUCCEEDED",
    "JobQueued": "stands in line for a host for every node",
    "PlacementBlocked": "cannot be placed: CAPACITY",
    "MainNotStarted": "attempt 2: could not be started on host h-3, which is handed back: why",
    "GangReserved": (
        "attempt 2: reserved, and asked to prepare: h-0, h-1, h-2, h-3, h-4 and 2 more"
    ),
    "NodePrepared": "its host is ready",
    "NodeRefused": "host h-3 is handed back: why",
    "NodeReplaced": "host h-3 takes over, and is asked to prepare",
    "GangAbandoned": "attempt 2: all hosts are handed back: why",
    "AttemptRefused": "attempt 2 ended: why; Essential container in task exited",
    "AttemptStarted": "attempt 2: every host is ready, so the main node starts",
    "ChildrenLaunched": "the main node runs, so its children start",
    "NodeRunning": "runs at 10.0.0.3",
    "BarrierLifted": "every node runs, so the children's commands start",
    "NodeStopRequested": "a user stops this node: why",
    "NodeExited": "ended: exit code 5; why; Essential container in task exited",
    "NodeLost": "lost: Essential container in task exited",
    "NodeUnclean": "its host cannot be cleaned up: why",
    "NodeReleased": "its host is free of it: seen",
    "AttemptStopRequested": "attempt 2 is being stopped: enough",
    "AttemptEnded": "attempt 2 ended: exit code 5; why; Essential container in task exited",
    "JobRetried": "is tried again",
    "JobSucceeded": "Essential container in task exited",
    "JobFailed": "Essential container in task exited",
    "JobSetAside": "UNREADABLE: why",
    "JobFoundOnHost": "host h-3 has something of it",
    "JobLeftHost": "host h-3 is free of it: seen",
    "JobArchived": "nothing of it is left on any host",
}


@pytest.mark.parametrize("kind", get_args(e.JobEvent), ids=lambda kind: kind.__name__)
def test_each_event(kind: Any) -> None:
    event = kind(**{m.name: VALUES[m.name] for m in fields(kind) if m.name in VALUES})
    is_of_node = "node_index" in {member.name for member in fields(kind)}
    assert tell(event) == (
        kind.__name__,
        SENTENCES[kind.__name__],
        3 if is_of_node else None,
    )


def test_what_is_not_known_is_not_said() -> None:
    end = e.NodeExited(
        job_id=JOB, attempt=1, node_index=0, exit_code=None, reason="", status_reason="x"
    )
    assert tell(end)[1] == "ended: x"
    running = e.NodeRunning(job_id=JOB, attempt=1, node_index=0, private_ipv4="")
    assert tell(running)[1] == "runs"


OF_THE_CLUSTER: list[tuple[e.ClusterEvent, str]] = [
    (e.CoordinatorStarted(epoch=3), "start 3 with this journal"),
    (e.ClusterKeyMade(key="a secret"), "the cluster has a key from now on"),
    (
        e.OlderJournalAccepted(life_id="aa", host_id=HostId("h-3"), position=57),
        "what host h-3 has seen of start aa, up to entry 57, is given up",
    ),
    (
        e.DefinitionRegistered(definition=multinode("0:", num_nodes=7)),
        "gang:3",
    ),
    (e.DefinitionForgotten(name="train", revision=2), "train:2"),
    (e.QueueCreated(name="slow", priority=2, enabled=False), "queue=slow DISABLED priority=2"),
    (e.QueueDeleted(name="slow"), "queue=slow"),
    (
        e.HostRegistered(
            host_id=HostId("h-3"), agent_uuid="u", boot_id="b", version="1.0", engine="docker",
            instance_type="generic", vcpus=4, memory_mib=512, gpus=0, private_ipv4="10.0.0.3",
        ),
        "host=h-3 at 10.0.0.3, generic, docker, 4 vCPUs, 512 MiB, 0 GPUs; agent 1.0 uuid=u boot=b",
    ),
    (e.HostDrained(host_id=HostId("h-3")), "host=h-3 gets no new work: no reason given"),
    (
        e.AgentStopped(host_id=HostId("h-3"), goes_on=(NodeKey(JOB, 2, 0),)),
        "host=h-3 its agent was stopped in order; what goes on there: j#0 attempt 2",
    ),
    (e.HostForgotten(host_id=HostId("h-3")), "host=h-3"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "said"), OF_THE_CLUSTER)
def test_what_the_log_says_of_the_cluster(event: e.ClusterEvent, said: str) -> None:
    assert tell_cluster(event) == said
