"""SubmitJob's overrides: which range each edits, and how it is merged into that range's container.

An override edits a range of the definition, never node indices: nodes that an inner range has
taken over do not see what is laid over the outer one (aws-batch-evidence section 5.1). No I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coordinator.core import ranges
from coordinator.core.container import ContainerOverrides, ContainerProperties
from coordinator.core.container_rules import validate_overrides
from coordinator.core.definition import (
    NodeOverrides,
    NodeProperties,
    NodePropertyOverride,
    NodeRange,
)
from coordinator.core.errors import InvalidArgument
from coordinator.core.names import quote
from coordinator.core.ranges import TargetRange
from coordinator.core.validation import one_instance_type, validate_instance_types

_MOST_SHOWN = 20


def apply_node_overrides(nodes: NodeProperties, overrides: NodeOverrides) -> NodeProperties:
    """The definition's nodes as this submission wants them, ranges in the definition's order."""
    targets = [ranges.parse(group.target_nodes) for group in nodes.node_range_properties]
    edits = _by_range(targets, overrides.node_property_overrides)
    groups = [
        group if target not in edits else _apply(group, edits[target])
        for target, group in zip(targets, nodes.node_range_properties, strict=True)
    ]
    num_nodes = nodes.num_nodes
    if overrides.num_nodes is not None:
        num_nodes = overrides.num_nodes
        _check_num_nodes(targets, nodes.main_node, num_nodes)
    return replace(nodes, num_nodes=num_nodes, node_range_properties=tuple(groups))


def apply_container_overrides(
    container: ContainerProperties, overrides: ContainerOverrides
) -> ContainerProperties:
    """Command and instance type replace, environment merges by name and requirements by type; the
    deprecated amounts replace the deprecated amounts only. Nothing else can be overridden."""
    variables = {pair.name: pair for pair in (*container.environment, *overrides.environment)}
    needs = {
        need.type: need
        for need in (*container.resource_requirements, *overrides.resource_requirements)
    }
    return replace(
        container,
        vcpus=container.vcpus if overrides.vcpus is None else overrides.vcpus,
        memory=container.memory if overrides.memory is None else overrides.memory,
        command=overrides.command or container.command,
        instance_type=overrides.instance_type or container.instance_type,
        environment=tuple(variables.values()),
        resource_requirements=tuple(needs.values()),
    )


def _check_num_nodes(targets: Sequence[TargetRange], main_node: int, num_nodes: int) -> None:
    """The three conditions of aws-batch-evidence section 5.1."""
    where = f"nodeOverrides.numNodes is {num_nodes}"
    if not 1 <= num_nodes <= ranges.MAX_NODES:
        raise InvalidArgument(f"{where}; it must be 1 to {ranges.MAX_NODES}")
    if all(target.upper is not None for target in targets):
        raise InvalidArgument(
            "NumNodes override can only be applied if the job definition has at least 1 target "
            "node without a range_end i.e (:) or (range_start:)."
        )
    for target in targets:
        if target.lower >= num_nodes:
            raise InvalidArgument(
                f"{where}, so there is no node {target.lower}, at which the job definition's "
                f"targetNodes {target} begins"
            )
    if main_node >= num_nodes:
        raise InvalidArgument(
            f"{where}, so there is no node {main_node}, the job definition's mainNode"
        )


def _by_range(
    targets: Sequence[TargetRange], overrides: Sequence[NodePropertyOverride]
) -> dict[TargetRange, NodePropertyOverride]:
    """Each override by the definition's range that it means, `:` and `0:` being the same."""
    found: dict[TargetRange, NodePropertyOverride] = {}
    strangers: dict[str, None] = {}
    for index, override in enumerate(overrides):
        path = f"nodeOverrides.nodePropertyOverrides[{index}]"
        target = ranges.parse(override.target_nodes, f"{path}.targetNodes")
        if target in found:
            raise InvalidArgument(
                f"{path}.targetNodes {quote(override.target_nodes)} is overridden already"
            )
        if target not in targets:
            strangers[override.target_nodes] = None
            continue
        _validate(override, path)
        found[target] = override
    if strangers:
        shown = ", ".join(list(strangers)[:_MOST_SHOWN])
        raise InvalidArgument(
            f"NodeOverride targets should match job definition. Non matching targets - {shown}"
        )
    return found


def _validate(override: NodePropertyOverride, path: str) -> None:
    validate_instance_types(override.instance_types, f"{path}.instanceTypes")
    types = {f"{path}.instanceTypes[0]": text for text in override.instance_types}
    if override.container_overrides is not None:
        validate_overrides(override.container_overrides, f"{path}.containerOverrides")
        if override.container_overrides.instance_type is not None:
            types[f"{path}.containerOverrides.instanceType"] = (
                override.container_overrides.instance_type
            )
    one_instance_type(types)


def _apply(group: NodeRange, override: NodePropertyOverride) -> NodeRange:
    """An instance type has two spellings in a definition; an override in either replaces both,
    so that what is left cannot contradict itself."""
    overrides = override.container_overrides or ContainerOverrides()
    wanted = next(iter(override.instance_types), overrides.instance_type)
    container = group.container or ContainerProperties()
    merged = apply_container_overrides(container, replace(overrides, instance_type=wanted))
    return replace(
        group,
        container=merged,
        instance_types=group.instance_types if wanted is None else (wanted,),
    )
