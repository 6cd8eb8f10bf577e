"""Job definitions and submissions: the shapes a user writes, as values.

The rules that judge them are in `validation.py` (definitions) and `submission.py` (SubmitJob).
Member names are AWS's in snake case. No I/O, no protobuf.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from coordinator.core.container import ContainerOverrides, ContainerProperties
from coordinator.core.node_set import NodeSet


class DefinitionType(StrEnum):
    CONTAINER = "container"
    MULTINODE = "multinode"


class DependencyType(StrEnum):
    N_TO_N = "N_TO_N"
    SEQUENTIAL = "SEQUENTIAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRange:
    """A node group: `target_nodes` stays as the user wrote it (`0:`, `:3`, `2:4`, `1`)."""

    target_nodes: str
    container: ContainerProperties | None = None
    instance_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProperties:
    num_nodes: int
    main_node: int
    node_range_properties: tuple[NodeRange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOnExit:
    """`action` is RETRY or EXIT in any case, kept as given."""

    action: str
    on_status_reason: str | None = None
    on_reason: str | None = None
    on_exit_code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryStrategy:
    attempts: int | None = None
    evaluate_on_exit: tuple[EvaluateOnExit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTimeout:
    attempt_duration_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartBarrier:
    """Ours: the children's commands wait until every node runs."""

    timeout_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDependency:
    job_id: str | None = None
    type: DependencyType | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDefinition:
    """What RegisterJobDefinition asks for; `revision` is 0 until the coordinator gives one."""

    job_definition_name: str
    type: DefinitionType
    revision: int = 0
    parameters: dict[str, str] = field(default_factory=dict)
    scheduling_priority: int | None = None
    container_properties: ContainerProperties | None = None
    node_properties: NodeProperties | None = None
    retry_strategy: RetryStrategy | None = None
    timeout: JobTimeout | None = None
    propagate_tags: bool | None = None
    platform_capabilities: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    start_barrier: StartBarrier | None = None
    verdict_after_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePropertyOverride:
    target_nodes: str
    container_overrides: ContainerOverrides | None = None
    instance_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOverrides:
    num_nodes: int | None = None
    node_property_overrides: tuple[NodePropertyOverride, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What SubmitJob asks for. `job_queue` and `job_definition` are a name or an ARN."""

    job_name: str
    job_queue: str
    job_definition: str
    depends_on: tuple[JobDependency, ...] = ()
    parameters: dict[str, str] = field(default_factory=dict)
    container_overrides: ContainerOverrides | None = None
    node_overrides: NodeOverrides | None = None
    retry_strategy: RetryStrategy | None = None
    timeout: JobTimeout | None = None
    propagate_tags: bool | None = None
    tags: dict[str, str] = field(default_factory=dict)
    share_identifier: str | None = None
    scheduling_priority_override: int | None = None
    client_token: str | None = None
    start_barrier: StartBarrier | None = None
    verdict_after_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """A definition range after overrides and parameters: what its nodes really run.

    `nodes` are the indices it serves after nesting is resolved; a range that inner ranges shadow
    completely has none. `vcpus`, `memory_mib` and `gpus` are per node.
    `container.command` has its `Ref::` placeholders replaced.
    """

    target_nodes: str
    nodes: NodeSet
    container: ContainerProperties
    vcpus: int
    memory_mib: int
    gpus: int = 0
    instance_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A submission resolved against its definition: complete, checked, and never changed again.

    A `container` definition gives one group with the single node 0 and `is_multinode` False.
    `attempts` is the total number of tries, 1 to 10. `timeout_seconds` None means no limit.
    `instance_type` is the one type every host of the gang must have, or None for any one type.
    `start_barrier_seconds` None means that children's commands start as soon as they can.
    `verdict_after_seconds` None means the cluster's: how long a silent host is waited for.
    """

    job_name: str
    definition_name: str
    definition_revision: int
    is_multinode: bool
    num_nodes: int
    main_node: int
    groups: tuple[NodeGroup, ...]
    instance_type: str | None
    attempts: int
    evaluate_on_exit: tuple[EvaluateOnExit, ...]
    timeout_seconds: int | None
    parameters: dict[str, str]
    tags: dict[str, str]
    propagate_tags: bool | None
    platform_capabilities: tuple[str, ...]
    scheduling_priority: int | None
    depends_on: tuple[JobDependency, ...]
    start_barrier_seconds: int | None = None
    verdict_after_seconds: int | None = None
