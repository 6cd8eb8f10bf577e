"""SubmitJob: a submission laid over its definition gives the job that really runs.

Everything is checked here, once, before there is a job; what the JobSpec says is never asked
again (aws-batch-spec sections 6 and 10). Texts that AWS is known to send are sent verbatim.
No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from coordinator.core import ranges
from coordinator.core.arn import job_ref
from coordinator.core.container import ContainerOverrides, ContainerProperties, ResourceType
from coordinator.core.container_rules import amount, validate_overrides
from coordinator.core.definition import (
    DependencyType,
    JobDefinition,
    JobDependency,
    JobSpec,
    NodeGroup,
    NodeOverrides,
    NodeProperties,
    NodeRange,
    Submission,
)
from coordinator.core.errors import InvalidArgument, InvariantViolation
from coordinator.core.names import is_name, quote
from coordinator.core.overrides import apply_container_overrides, apply_node_overrides
from coordinator.core.parameters import substitute
from coordinator.core.unsupported import unsupported_members
from coordinator.core.validation import (
    one_instance_type,
    validate_retry_strategy,
    validate_size,
    validate_start_barrier,
    validate_tags,
    validate_timeout,
    validate_verdict,
)

_SUBMISSION_KIB = 30
_MOST_DEPENDENCIES = 20
_CLIENT_TOKEN = re.compile(r"[ -~]{1,64}")
_SINGLE_NODE = "0"


def resolve(submission: Submission, definition: JobDefinition, size_bytes: int) -> JobSpec:
    """The job that this submission of this registered definition is, or InvalidArgument.

    `size_bytes` is the submission's size on the wire. The queue, and whether dependencies exist,
    are the caller's to check.
    """
    _check_request(submission, size_bytes)
    depends_on = _dependencies(submission.depends_on)
    nodes = _nodes(submission, definition)
    is_multinode = definition.node_properties is not None
    parameters = definition.parameters | submission.parameters
    groups = _groups(nodes, is_multinode, parameters)
    strategy = submission.retry_strategy or definition.retry_strategy
    timeout = submission.timeout or definition.timeout
    barrier = submission.start_barrier or definition.start_barrier
    verdict = submission.verdict_after_seconds
    propagate_tags = submission.propagate_tags
    return JobSpec(
        job_name=submission.job_name,
        definition_name=definition.job_definition_name,
        definition_revision=definition.revision,
        is_multinode=is_multinode,
        num_nodes=nodes.num_nodes,
        main_node=nodes.main_node,
        groups=groups,
        instance_type=_instance_type(groups, is_multinode),
        attempts=(strategy.attempts if strategy is not None else None) or 1,
        evaluate_on_exit=strategy.evaluate_on_exit if strategy is not None else (),
        timeout_seconds=timeout.attempt_duration_seconds if timeout is not None else None,
        parameters=parameters,
        tags=submission.tags,
        propagate_tags=definition.propagate_tags if propagate_tags is None else propagate_tags,
        platform_capabilities=definition.platform_capabilities,
        scheduling_priority=definition.scheduling_priority,
        depends_on=depends_on,
        start_barrier_seconds=barrier.timeout_seconds if barrier is not None else None,
        verdict_after_seconds=definition.verdict_after_seconds if verdict is None else verdict,
    )


def merged_node_properties(spec: JobSpec) -> NodeProperties:
    """A multi-node job's nodeProperties as DescribeJobs shows them: the definition's ranges as
    written, with this job's numNodes, overrides and parameters in them."""
    return NodeProperties(
        num_nodes=spec.num_nodes,
        main_node=spec.main_node,
        node_range_properties=tuple(
            NodeRange(
                target_nodes=group.target_nodes,
                container=group.container,
                instance_types=group.instance_types,
            )
            for group in spec.groups
        ),
    )


def _check_request(submission: Submission, size_bytes: int) -> None:
    """The rules that need no definition."""
    validate_size(size_bytes, _SUBMISSION_KIB, "Job size")
    if not is_name(submission.job_name):
        raise InvalidArgument("Job name should match valid pattern")
    token = submission.client_token
    if token is not None and not _CLIENT_TOKEN.fullmatch(token):
        raise InvalidArgument(
            f"clientToken {quote(token)} must be 1 to 64 printable ASCII characters"
        )
    priority = submission.scheduling_priority_override
    if submission.share_identifier is not None or priority is not None:
        # "onlybe" is AWS's own.
        raise InvalidArgument(
            "Job with shareIdentifier or schedulingPriority can onlybe submitted to job queue "
            "with fair share scheduling policy."
        )
    if submission.retry_strategy is not None:
        validate_retry_strategy(submission.retry_strategy)
    if submission.timeout is not None:
        validate_timeout(submission.timeout)
    if submission.start_barrier is not None:
        validate_start_barrier(submission.start_barrier)
    if submission.verdict_after_seconds is not None:
        validate_verdict(submission.verdict_after_seconds)
    validate_tags(submission.tags)


def _dependencies(depends_on: tuple[JobDependency, ...]) -> tuple[JobDependency, ...]:
    """The dependencies with plain job ids. Their types have a meaning only for array jobs, but a
    SEQUENTIAL one with a job id is a plain dependency to AWS, and clients use it."""
    if len(depends_on) > _MOST_DEPENDENCIES:
        raise InvalidArgument(f"Job cannot have more than {_MOST_DEPENDENCIES} dependencies")
    plain = []
    for index, dependency in enumerate(depends_on):
        path = f"dependsOn[{index}]"
        if dependency.type is DependencyType.N_TO_N:
            raise InvalidArgument(f"{path}.type N_TO_N is for array jobs, which there are not")
        if dependency.job_id is None:
            raise InvalidArgument(
                f"{path}.jobId is required: without it a dependency is for array jobs, "
                f"which there are not"
            )
        job_id, node_index = job_ref(dependency.job_id, f"{path}.jobId")
        if node_index is not None:
            raise InvalidArgument(
                f"{path}.jobId {quote(dependency.job_id)} is one node; depend on its job, {job_id}"
            )
        plain.append(replace(dependency, job_id=job_id))
    return tuple(plain)


def _nodes(submission: Submission, definition: JobDefinition) -> NodeProperties:
    """The nodes with overrides in them. A `container` job is a gang of one."""
    if definition.node_properties is not None:
        if submission.container_overrides is not None:
            raise InvalidArgument(
                "Container overrides should not be set for multi-node parallel jobs, "
                "use nodeOverrides."
            )
        overrides = submission.node_overrides or NodeOverrides()
        return apply_node_overrides(definition.node_properties, overrides)
    if submission.node_overrides is not None:
        raise InvalidArgument(
            "Node overrides should not be set for jobs of type container, use containerOverrides."
        )
    if definition.container_properties is None:
        raise InvariantViolation(f"{definition.job_definition_name} registered with no container")
    changes = submission.container_overrides or ContainerOverrides()
    validate_overrides(changes, "containerOverrides")
    container = apply_container_overrides(definition.container_properties, changes)
    only = NodeRange(target_nodes=_SINGLE_NODE, container=container)
    return NodeProperties(num_nodes=1, main_node=0, node_range_properties=(only,))


def _container_path(is_multinode: bool, index: int) -> str:
    if is_multinode:
        return f"nodeProperties.nodeRangeProperties[{index}].container"
    return "containerProperties"


def _groups(
    nodes: NodeProperties, is_multinode: bool, parameters: Mapping[str, str]
) -> tuple[NodeGroup, ...]:
    written = nodes.node_range_properties
    served = ranges.resolve([ranges.parse(each.target_nodes) for each in written], nodes.num_nodes)
    groups = []
    refused: list[str] = []
    for index, (each, indices) in enumerate(zip(written, served, strict=True)):
        where = _container_path(is_multinode, index)
        container = each.container or ContainerProperties()
        command = substitute(container.command, parameters, f"{where}.command")
        # A range that inner ranges shadow completely runs nowhere, so it may ask for anything.
        if indices:
            refused += unsupported_members(container, where)
            _check_amounts(container, where)
        groups.append(
            NodeGroup(
                target_nodes=each.target_nodes,
                nodes=indices,
                container=replace(container, command=command),
                vcpus=amount(container, ResourceType.VCPU) or 0,
                memory_mib=amount(container, ResourceType.MEMORY) or 0,
                gpus=amount(container, ResourceType.GPU) or 0,
                instance_types=each.instance_types,
            )
        )
    if refused:
        raise InvalidArgument(f"Not supported: {'; '.join(refused)}")
    return tuple(groups)


def _check_amounts(container: ContainerProperties, where: str) -> None:
    for resource in (ResourceType.VCPU, ResourceType.MEMORY):
        if amount(container, resource) is None:
            raise InvalidArgument(
                f"{where}.resourceRequirements has no {resource}; it must be given for each node, "
                f"in the job definition or in an override"
            )


def _instance_type(groups: tuple[NodeGroup, ...], is_multinode: bool) -> str | None:
    types: dict[str, str] = {}
    for index, group in enumerate(groups):
        wanted = next(iter(group.instance_types), group.container.instance_type)
        if wanted is not None:
            types[f"{_container_path(is_multinode, index)}.instanceType"] = wanted
    return one_instance_type(types)
