"""Records as a coordinator sends them, with what a test does not care about filled in."""

from __future__ import annotations

from muster.v1.host_service_pb2 import Host, HostState
from muster.v1.job_pb2 import JobDetail, JobStatus, JobSummary
from muster.v1.job_service_pb2 import (
    DescribeJobsResponse,
    GetNodeLogResponse,
    JobEvent,
    NodeView,
    WatchJobResponse,
)

JOB = "0b2b4a5e-7b0e-4a5e-9d3f-0c8f6f1c2d3e"
AT = 1_700_000_000_123.0


def summary(status: str, *, exit_code: int | None = None, reason: str = "") -> JobSummary:
    job = JobSummary(
        job_id=JOB,
        job_arn=f"arn:aws:batch:local:000000000000:job/{JOB}",
        job_name="heat",
        status=JobStatus.Value(status),
        created_at=AT,
    )
    job.node_properties.num_nodes = 3
    if exit_code is not None:
        job.container.exit_code = exit_code
    if reason:
        job.status_reason = reason
    return job


def node(index: int, state: str, *, attempt: int = 1, reason: str = "") -> NodeView:
    return NodeView(
        node_index=index,
        is_main_node=index == 0,
        state=state,
        host_id=f"host-{index}",
        private_ipv4_address=f"10.0.0.{index}",
        since=AT,
        attempt=attempt,
        reason=reason or None,
    )


def event(kind: str, message: str, index: int | None = None) -> JobEvent:
    return JobEvent(at=AT, kind=kind, message=message, node_index=index)


def told(
    job: JobSummary, *nodes: NodeView, events: tuple[JobEvent, ...] = (), reset: bool = False
) -> WatchJobResponse:
    return WatchJobResponse(job=job, nodes=nodes, events=events, reset=reset)


def chunk(offset: int, data: bytes, notice: str | None = None) -> GetNodeLogResponse:
    return GetNodeLogResponse(offset=offset, data=data, notice=notice)


def multinode(nodes: int = 3) -> DescribeJobsResponse:
    job = JobDetail(job_id=JOB, job_name="heat", status=JobStatus.RUNNING, created_at=AT)
    job.node_properties.num_nodes = nodes
    return DescribeJobsResponse(jobs=[job])


def host(name: str, state: str = "FREE") -> Host:
    return Host(
        host_id=name,
        state=HostState.Value(state),
        private_ipv4_address="10.0.0.1",
        instance_type="generic",
        vcpus=4,
        memory_mib=2048,
        engine="process",
        last_contact_at=AT,
    )
