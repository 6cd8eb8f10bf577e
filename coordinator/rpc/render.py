"""What users are shown of jobs, nodes, definitions, queues and hosts.

Which members are there is a contract of its own: AWS Batch's clients tell a multi-node job from
its nodes by it (aws-batch-spec section 11). Everything is copied, so that a rendering made
between two steps stays as it is. Must not import a service.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from coordinator.core.arn import Arns
from coordinator.core.definition import RetryStrategy
from coordinator.core.derive import desired
from coordinator.core.effects import Stamped
from coordinator.core.ending import STOPPED_WITH_MAIN
from coordinator.core.events import JobEvent
from coordinator.core.explain import clock, quarantine_reason
from coordinator.core.hello import waits_since_ms
from coordinator.core.ids import HostId
from coordinator.core.leftovers import Leftover, may_run_on
from coordinator.core.lineage import kept_because
from coordinator.core.names import clip
from coordinator.core.settings import COMPUTE_ENVIRONMENT
from coordinator.core.state import Attempt, ClusterState, Job, NodeRun, Queue, Revision
from coordinator.core.states import Desired, NodeState
from coordinator.core.story import tell
from coordinator.core.submission import merged_node_properties
from coordinator.rpc.convert import to_proto
from muster.v1 import host_service_pb2, job_pb2, job_service_pb2

_DEFINITION_NAME_CHARS = 200
_REASON_CHARS = 255
_TOLD_CHARS = 500
"""How much of a text `watch` shows: a response has many, and what an agent says may be long."""


def newest_run(job: Job, node_index: int) -> tuple[Attempt, NodeRun] | None:
    """The newest attempt that the node was launched in. There is a node record from the first
    launch on; between two attempts it keeps what the last one made of it."""
    for attempt in reversed(job.attempts):
        node = attempt.nodes.get(node_index)
        if node is not None and node.state.is_launched:
            return attempt, node
    return None


@dataclass(frozen=True, slots=True)
class Renderer:
    """`waiting` is what `explain.status_reason` says of a job that has not ended, else None."""

    arns: Arns

    def job(
        self, job: Job, waiting: str | None, left: Sequence[Leftover] = ()
    ) -> job_pb2.JobDetail:
        """The job itself: of a multi-node job the parent, which has no container. `left` is what
        `leftovers` found of it."""
        detail = self._detail(job)
        spec = job.spec
        detail.status = job_pb2.JobStatus.Value(job.state)
        detail.created_at = job.created_at_ms
        detail.started_at = job.started_at_ms
        detail.tags.update(spec.tags)
        strategy = RetryStrategy(attempts=spec.attempts, evaluate_on_exit=spec.evaluate_on_exit)
        detail.retry_strategy.CopyFrom(to_proto(strategy, job_pb2.RetryStrategy))
        status_reason = job.status_reason or waiting
        if status_reason:
            detail.status_reason = status_reason
        if job.stopped_at_ms:
            detail.stopped_at = job.stopped_at_ms
        if job.terminated:
            detail.is_terminated = True
        for each in left:
            if each.is_silent:
                detail.may_still_run.add(
                    host_id=each.host_id,
                    node_index=each.node_index,
                    attempt=each.attempt,
                    until=each.until_ms,
                )
        if spec.is_multinode:
            properties = to_proto(merged_node_properties(spec), job_pb2.NodeProperties)
            detail.node_properties.CopyFrom(properties)
            detail.attempts.extend(
                self._attempt_of_main(job, attempt) for attempt in job.attempts if attempt.over
            )
        else:
            detail.container.CopyFrom(self._single_container(job))
            detail.attempts.extend(self._attempts_of_node(job, spec.main_node))
        return detail

    def node(self, job: Job, node_index: int) -> job_pb2.JobDetail | None:
        """The record `id#N`; None before the node was launched for the first time."""
        run = newest_run(job, node_index) if job.spec.is_multinode else None
        if run is None:
            return None
        attempt, node = run
        detail = self._detail(job)
        detail.job_id = f"{job.job_id}#{node_index}"
        detail.job_arn = self.arns.job(detail.job_id)
        detail.status = job_pb2.JobStatus.Value(node.state)
        detail.created_at = _first_launch_ms(job, node_index)
        detail.started_at = node.started_at_ms
        if node.state.is_terminal:
            detail.stopped_at = node.stopped_at_ms
            detail.status_reason = _status_reason(job, attempt, node)
        if job.terminated or node.stop_reason is not None:
            detail.is_terminated = True
        detail.node_details.node_index = node_index
        detail.node_details.is_main_node = node_index == job.spec.main_node
        detail.container.CopyFrom(self._container(job, node_index))
        self._add_run(detail.container, job, attempt, node)
        detail.attempts.extend(self._attempts_of_node(job, node_index))
        return detail

    def job_summary(self, job: Job, waiting: str | None) -> job_pb2.JobSummary:
        """A row of a listing of jobs."""
        spec = job.spec
        summary = job_pb2.JobSummary(
            job_arn=self.arns.job(job.job_id),
            job_id=job.job_id,
            job_name=spec.job_name,
            created_at=job.created_at_ms,
            scheduled_at=job.attempts[-1].reserved_at_ms if job.attempts else None,
            status=job_pb2.JobStatus.Value(job.state),
            status_reason=job.status_reason or waiting,
            started_at=job.started_at_ms or None,
            stopped_at=job.stopped_at_ms or None,
            job_definition=self._definition_arn(job),
            container=_container_summary(job),
        )
        vcpus = sum(len(group.nodes) * group.vcpus for group in spec.groups)
        summary.capacity_usage.add(capacity_unit="VCPU", quantity=vcpus)
        if spec.is_multinode:
            summary.node_properties.num_nodes = spec.num_nodes
        return summary

    def node_summary(self, job: Job, node_index: int) -> job_pb2.JobSummary | None:
        """A row of a listing of nodes; None before the node was launched for the first time."""
        run = newest_run(job, node_index)
        if run is None:
            return None
        attempt, node = run
        node_id = f"{job.job_id}#{node_index}"
        summary = job_pb2.JobSummary(
            job_arn=self.arns.job(node_id),
            job_id=node_id,
            job_name=job.spec.job_name,
            created_at=_first_launch_ms(job, node_index),
            scheduled_at=attempt.reserved_at_ms,
            status=job_pb2.JobStatus.Value(node.state),
            started_at=node.started_at_ms or None,
            stopped_at=node.stopped_at_ms or None,
            job_definition=self._definition_arn(job),
        )
        if node.state.is_terminal:
            summary.status_reason = _status_reason(job, attempt, node)
        if node.state is not NodeState.STARTING:
            end = job_pb2.ContainerSummary(exit_code=node.exit_code, reason=_reason(node.reason))
            summary.container.CopyFrom(end)
        summary.node_properties.node_index = node_index
        summary.node_properties.is_main_node = node_index == job.spec.main_node
        return summary

    def definition(self, revision: Revision) -> job_pb2.JobDefinition:
        detail = to_proto(revision.definition, job_pb2.JobDefinition)
        detail.job_definition_arn = self.arns.job_definition(
            detail.job_definition_name, detail.revision
        )
        detail.status = "ACTIVE" if revision.active else "INACTIVE"
        detail.container_orchestration_type = "ECS"
        return detail

    def queue(self, queue: Queue) -> job_pb2.JobQueueDetail:
        detail = job_pb2.JobQueueDetail(
            job_queue_name=queue.name,
            job_queue_arn=self.arns.job_queue(queue.name),
            state=job_pb2.ENABLED if queue.enabled else job_pb2.DISABLED,
            status=job_pb2.DELETING if queue.deleting else job_pb2.VALID,
            status_reason="JobQueue Healthy",
            priority=queue.priority,
            job_queue_type="ECS",
            tags=queue.tags,
            job_state_time_limit_actions=[
                to_proto(limit, job_pb2.JobStateTimeLimitAction) for limit in queue.time_limits
            ],
        )
        detail.compute_environment_order.add(
            order=1, compute_environment=self.arns.compute_environment(COMPUTE_ENVIRONMENT)
        )
        return detail

    def _detail(self, job: Job) -> job_pb2.JobDetail:
        """What a job and its nodes have in common."""
        spec = job.spec
        return job_pb2.JobDetail(
            job_arn=self.arns.job(job.job_id),
            job_name=spec.job_name,
            job_id=job.job_id,
            job_queue=self.arns.job_queue(job.job_queue),
            scheduling_priority=spec.scheduling_priority,
            depends_on=[to_proto(each, job_pb2.JobDependency) for each in spec.depends_on],
            job_definition=self._definition_arn(job),
            parameters=spec.parameters,
            start_barrier=(
                job_pb2.StartBarrier(timeout_seconds=spec.start_barrier_seconds)
                if spec.start_barrier_seconds is not None
                else None
            ),
            verdict_after_seconds=spec.verdict_after_seconds,
            timeout=(
                job_pb2.JobTimeout(attempt_duration_seconds=spec.timeout_seconds)
                if spec.timeout_seconds is not None
                else None
            ),
            propagate_tags=spec.propagate_tags,
            platform_capabilities=spec.platform_capabilities,
            is_cancelled=job.cancelled or None,
        )

    def _definition_arn(self, job: Job) -> str:
        return self.arns.job_definition(job.spec.definition_name, job.spec.definition_revision)

    def _single_container(self, job: Job) -> job_pb2.ContainerDetail:
        """The container of a job that is not multi-node, with what its newest attempt made of
        it. An attempt that no host could start has a reason and nothing else."""
        container = self._container(job, job.spec.main_node)
        for attempt in reversed(job.attempts):
            node = attempt.nodes.get(job.spec.main_node)
            if node is not None and node.state.is_launched:
                self._add_run(container, job, attempt, node)
                break
            if attempt.over:
                container.reason = attempt.reason[:_REASON_CHARS]
                break
        return container

    def _container(self, job: Job, node_index: int) -> job_pb2.ContainerDetail:
        return to_proto(job.group_of(node_index).container, job_pb2.ContainerDetail)

    def _add_run(
        self,
        container: job_pb2.ContainerDetail | job_pb2.AttemptContainerDetail,
        job: Job,
        attempt: Attempt,
        node: NodeRun,
    ) -> None:
        """Where the container runs or ran, and how it ended."""
        task_id = _task_id(job, attempt, node)
        container.container_instance_arn = self.arns.container_instance(node.host_id)
        container.task_arn = self.arns.task(task_id)
        container.log_stream_name = _log_stream(job, attempt, node)
        if node.private_ipv4:
            container.network_interfaces.add(
                attachment_id=f"eni-{task_id}", private_ipv4_address=node.private_ipv4
            )
        if node.exit_code is not None:
            container.exit_code = node.exit_code
        if node.reason:
            container.reason = node.reason[:_REASON_CHARS]

    def _attempt_of_main(self, job: Job, attempt: Attempt) -> job_pb2.AttemptDetail:
        """A finished attempt of a multi-node job: its main node's end, and no host."""
        main = attempt.nodes.get(job.spec.main_node)
        launched = main is not None and main.state.is_launched
        return job_pb2.AttemptDetail(
            container=job_pb2.AttemptContainerDetail(
                exit_code=attempt.exit_code,
                reason=_reason(attempt.reason),
                log_stream_name=_log_stream(job, attempt, main) if main and launched else None,
            ),
            started_at=attempt.started_at_ms or None,
            stopped_at=attempt.stopped_at_ms,
            status_reason=attempt.status_reason,
        )

    def _attempts_of_node(self, job: Job, node_index: int) -> Iterator[job_pb2.AttemptDetail]:
        """A node's attempt k is the job's attempt k: where it was not launched in one, an attempt
        without an exit code stands in."""
        for attempt in job.attempts:
            node = attempt.nodes.get(node_index)
            if node is not None and node.state.is_terminal:
                detail = job_pb2.AttemptDetail(
                    container=job_pb2.AttemptContainerDetail(),
                    started_at=node.started_at_ms or None,
                    stopped_at=node.stopped_at_ms,
                    status_reason=_status_reason(job, attempt, node),
                )
                self._add_run(detail.container, job, attempt, node)
                yield detail
            elif attempt.over and (node is None or not node.state.is_launched):
                # Of an attempt that never started, the reason is every node's.
                reason = None if attempt.started else _reason(attempt.reason)
                yield job_pb2.AttemptDetail(
                    container=job_pb2.AttemptContainerDetail(reason=reason),
                    stopped_at=attempt.stopped_at_ms,
                    status_reason=attempt.status_reason,
                )


def _task_id(job: Job, attempt: Attempt, node: NodeRun) -> str:
    return f"{job.job_id}-{attempt.number}-{node.node_index}"


def _log_stream(job: Job, attempt: Attempt, node: NodeRun) -> str:
    name = job.spec.definition_name[:_DEFINITION_NAME_CHARS]
    return f"{name}/default/{_task_id(job, attempt, node)}"


def _reason(text: str) -> str | None:
    return text[:_REASON_CHARS] or None


def _status_reason(job: Job, attempt: Attempt, node: NodeRun) -> str:
    """The main node's is the attempt's, so that the job mirrors it exactly."""
    if attempt.over and node.node_index == job.spec.main_node:
        return attempt.status_reason
    return node.status_reason


def _first_launch_ms(job: Job, node_index: int) -> int:
    """When the node's record came to be."""
    return next(
        attempt.nodes[node_index].launched_at_ms
        for attempt in job.attempts
        if node_index in attempt.nodes and attempt.nodes[node_index].launched_at_ms
    )


def _container_summary(job: Job) -> job_pb2.ContainerSummary | None:
    """Empty while main runs, its end afterwards, absent before."""
    for attempt in reversed(job.attempts):
        if attempt.over:
            return job_pb2.ContainerSummary(
                exit_code=attempt.exit_code, reason=_reason(attempt.reason)
            )
        if attempt.started:
            return job_pb2.ContainerSummary() if attempt.started_at_ms else None
    return None


def node_view(job: Job, attempt: Attempt, node: NodeRun) -> job_service_pb2.NodeView:
    """A node as `watch` shows it: from the moment that a host is reserved for it."""
    state: str = node.state
    reason = node.reason or node.status_reason if node.state is NodeState.FAILED else ""
    runs = node.state in (NodeState.STARTING, NodeState.RUNNING)
    if runs and desired(attempt, node) is Desired.STOP:
        state = "STOPPING"
        reason = node.stop_reason or attempt.stop_cause or STOPPED_WITH_MAIN
    if node.unclean_reason:
        reason = "; ".join(filter(None, (reason, f"not clean: {node.unclean_reason}")))
    return job_service_pb2.NodeView(
        node_index=node.node_index,
        is_main_node=node.node_index == job.spec.main_node,
        state=state,
        host_id=node.host_id,
        private_ipv4_address=node.private_ipv4 or None,
        since=node.since_ms,
        attempt=attempt.number,
        exit_code=node.exit_code,
        reason=clip(reason, _TOLD_CHARS) or None,
        released=node.released,
    )


def job_event(stamped: Stamped) -> job_service_pb2.JobEvent:
    """One event of a job's history."""
    kind, message, node_index = tell(cast("JobEvent", stamped.event))
    return job_service_pb2.JobEvent(
        at=stamped.at_ms, kind=kind, message=clip(message, _TOLD_CHARS), node_index=node_index
    )


def host(state: ClusterState, host_id: HostId) -> host_service_pb2.Host:
    """A host, with every reason why it is not simply free."""
    known, presence = state.hosts[host_id], state.presence[host_id]
    facts = known.facts
    word, reasons = _host_state(state, host_id)
    # Of an agent that is not there its last words are not true any more, such as that it starts.
    if presence.unusable_reason and presence.is_here:
        reasons.append(presence.unusable_reason)
    if known.draining:
        why = f": {known.drain_reason}" if known.drain_reason else ""
        reasons.append(f"draining{why} (until: muster hosts resume {host_id})")
    if presence.strays:
        reasons.append(f"is letting go of {next(iter(presence.strays))}")
    if presence.kept:
        kept = next(iter(presence.kept))
        reasons.append(f"may still run {kept}, which {kept_because(state, kept)}")
    held = next(iter([*known.holds, *presence.kept]), None)
    return host_service_pb2.Host(
        host_id=host_id,
        state=word,
        draining=known.draining,
        reason="; ".join(reasons),
        job_id=f"{held.job_id}#{held.node_index}" if held is not None else None,
        private_ipv4_address=facts.private_ipv4,
        instance_type=facts.instance_type,
        vcpus=facts.vcpus,
        memory_mib=facts.memory_mib,
        gpus=facts.gpus,
        engine=facts.engine,
        agent_version=facts.version,
        labels=facts.labels,
        last_contact_at=state.wall_of(presence.last_contact_ms) if presence.seen else 0,
        boot_id=facts.boot_id,
    )


def _host_state(
    state: ClusterState, host_id: HostId
) -> tuple[host_service_pb2.HostState.ValueType, list[str]]:
    """The one word for a host, and what there is to say about that. LOST comes before
    QUARANTINED: as long as the host is away, only a fence helps."""
    known, presence = state.hosts[host_id], state.presence[host_id]
    # An agent that is back and cannot look at its host yet says itself what is the matter.
    if known.stopped_at_ms and not presence.is_here:
        goes_on = ", ".join(str(key) for key in known.goes_on if key in known.holds)
        reasons = [f"its agent was stopped at {clock(known.stopped_at_ms)}"]
        calls = _calls(state, host_id)
        if goes_on and calls:
            reasons.append(f"{goes_on} may go on")
        elif goes_on:
            reasons.append(
                f"{goes_on} may go on; start the agent again, or, if the machine is off: muster "
                f"hosts fence {host_id}"
            )
        return host_service_pb2.STOPPED, reasons + calls
    if presence.lost:
        reasons = [f"silent since {clock(state.wall_of(presence.last_contact_ms))}"]
        if presence.verdict_at_ms is not None:
            reasons.append(f"what it runs fails at {clock(state.wall_of(presence.verdict_at_ms))}")
        if may_run := may_run_on(state, host_id):
            held = ", ".join(map(str, may_run))
            reasons.append(f"may still run {held}; if it is off: muster hosts fence {host_id}")
        elif known.holds:
            reasons.append("nothing runs there, and its gang has not ended")
        return host_service_pb2.LOST, reasons + _calls(state, host_id)
    quarantine = quarantine_reason(state, host_id)
    if quarantine:
        return host_service_pb2.QUARANTINED, [quarantine]
    if presence.session_id is not None and presence.unusable_reason:
        return host_service_pb2.UNUSABLE, []
    if presence.session_id is None and not presence.seen:
        return host_service_pb2.UNSEEN, ["its agent has not called since the coordinator started"]
    reasons = ["its agent is not connected"] if presence.session_id is None else []
    if known.holds or presence.strays or presence.kept:
        return host_service_pb2.BUSY, reasons
    return host_service_pb2.FREE, reasons


def _calls(state: ClusterState, host_id: HostId) -> list[str]:
    """On an agent that has called and does not speak for the host yet."""
    since_ms = waits_since_ms(state, host_id)
    if since_ms is None:
        return []
    called = clock(state.wall_of(since_ms))
    return [f"an agent called at {called}, and waits until the session before would be heard"]
