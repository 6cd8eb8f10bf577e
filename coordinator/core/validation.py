"""May this be registered? The rules of RegisterJobDefinition, and of what other requests share
with it: names, tags, reasons, retry strategies, timeouts.

Each function raises InvalidArgument for the first thing that is wrong, naming its member path.
Texts that AWS is known to send are sent verbatim (aws-batch-evidence section 1.1), with the path
behind them where it is not obvious. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from coordinator.core import ranges
from coordinator.core.container_rules import validate_container, validate_instance_type
from coordinator.core.definition import (
    DefinitionType,
    JobDefinition,
    JobTimeout,
    NodeProperties,
    RetryStrategy,
    StartBarrier,
)
from coordinator.core.errors import InvalidArgument
from coordinator.core.names import NAME_RULE, is_name, quote

_DEFINITION_KIB = 24
_PRIORITIES = range(10_000)
_ATTEMPTS = range(1, 11)
_MOST_RULES = 5
_PATTERN_CHARS = 512
_LEAST_TIMEOUT_SECONDS = 60
_MOST_VERDICT_SECONDS = 2_592_000
_MOST_BARRIER_SECONDS = 86_400
_REASON_CHARS = 1024
_MOST_TAGS = 50
_TAG_KEY_CHARS = 128
_TAG_VALUE_CHARS = 256


def validate_definition(definition: JobDefinition, size_bytes: int) -> JobDefinition:
    """The definition as it was, if it may be registered. `size_bytes` is its size on the wire."""
    validate_size(size_bytes, _DEFINITION_KIB, "Job definition size")
    if not is_name(definition.job_definition_name):
        raise InvalidArgument(
            f"jobDefinitionName {quote(definition.job_definition_name)} is not valid; "
            f"it must be {NAME_RULE}"
        )
    for index, capability in enumerate(definition.platform_capabilities):
        if capability != "EC2":
            raise InvalidArgument(
                f"platformCapabilities[{index}] is {quote(capability)}; only EC2 is possible"
            )
    _validate_containers(definition)
    priority = definition.scheduling_priority
    if priority is not None and priority not in _PRIORITIES:
        raise InvalidArgument(f"schedulingPriority is {priority}; it must be 0 to 9999")
    if definition.retry_strategy is not None:
        validate_retry_strategy(definition.retry_strategy)
    if definition.timeout is not None:
        validate_timeout(definition.timeout)
    if definition.start_barrier is not None:
        validate_start_barrier(definition.start_barrier)
    if definition.verdict_after_seconds is not None:
        validate_verdict(definition.verdict_after_seconds)
    validate_tags(definition.tags)
    return definition


def _validate_containers(definition: JobDefinition) -> None:
    """Type and members agree, and each container is right."""
    container, nodes = definition.container_properties, definition.node_properties
    match definition.type:
        case DefinitionType.MULTINODE:
            if container is not None:
                raise InvalidArgument(
                    "containerProperties is not for type multinode; containers belong into "
                    "nodeProperties.nodeRangeProperties"
                )
            if nodes is None:
                raise InvalidArgument("nodeProperties is required for type multinode")
            _validate_nodes(nodes)
        case DefinitionType.CONTAINER:
            if nodes is not None:
                raise InvalidArgument("nodeProperties is not for type container")
            if container is None:
                raise InvalidArgument("containerProperties is required for type container")
            validate_container(container, "containerProperties")


def _validate_nodes(nodes: NodeProperties) -> None:
    targets = []
    types: dict[str, str] = {}
    for index, group in enumerate(nodes.node_range_properties):
        path = f"nodeProperties.nodeRangeProperties[{index}]"
        targets.append(ranges.parse(group.target_nodes, f"{path}.targetNodes"))
        if group.container is None:
            raise InvalidArgument(f"{path}.container is required")
        validate_container(group.container, f"{path}.container")
        validate_instance_types(group.instance_types, f"{path}.instanceTypes")
        if group.instance_types:
            types[f"{path}.instanceTypes[0]"] = group.instance_types[0]
        if group.container.instance_type is not None:
            types[f"{path}.container.instanceType"] = group.container.instance_type
    ranges.resolve(targets, nodes.num_nodes)
    if not 0 <= nodes.main_node < nodes.num_nodes:
        raise InvalidArgument(
            f"nodeProperties.mainNode is {nodes.main_node}; "
            f"it must be 0 to {nodes.num_nodes - 1}, below numNodes"
        )
    one_instance_type(types)


def validate_instance_types(types: tuple[str, ...], where: str) -> None:
    if len(types) > 1:
        raise InvalidArgument(f"{where} has {len(types)} elements; it must have at most one")
    for text in types:
        validate_instance_type(text, f"{where}[0]")


def one_instance_type(types: Mapping[str, str]) -> str | None:
    """The one type that all paths name, or None if there are none. All node groups of a job must
    use the same instance type (multi-node-parallel-jobs, Node Groups)."""
    first: tuple[str, str] | None = None
    for path, text in types.items():
        if first is None:
            first = path, text
        elif text != first[1]:
            raise InvalidArgument(
                f"All node groups must use the same instance type; {first[0]} is "
                f"{quote(first[1])} and {path} is {quote(text)}"
            )
    return first[1] if first is not None else None


def validate_size(size_bytes: int, limit_kib: int, what: str) -> None:
    if size_bytes > limit_kib * 1024:
        got_kib = ceil(size_bytes / 1024)
        raise InvalidArgument(f"{what} must be less than {limit_kib} KiB, got {got_kib} KiB")


def validate_retry_strategy(strategy: RetryStrategy) -> None:
    """aws-batch-spec section 8. AWS documents a smaller set of characters for reasons than its
    own reasons have, so any character is taken but a `*` that is not at the end."""
    if strategy.attempts is None:
        raise InvalidArgument("RetryAttempts must be provided with retry strategy")
    if strategy.attempts not in _ATTEMPTS:
        raise InvalidArgument(
            f"retryStrategy.attempts is {strategy.attempts}; it must be 1 to {_ATTEMPTS[-1]}"
        )
    if len(strategy.evaluate_on_exit) > _MOST_RULES:
        raise InvalidArgument(
            f"retryStrategy.evaluateOnExit has {len(strategy.evaluate_on_exit)} elements; "
            f"it must have at most {_MOST_RULES}"
        )
    for index, rule in enumerate(strategy.evaluate_on_exit):
        path = f"retryStrategy.evaluateOnExit[{index}]"
        # lower(), since upper() makes an I of the dotless i.
        if rule.action.lower() not in ("retry", "exit"):
            raise InvalidArgument(f"{path}.action {quote(rule.action)} is neither RETRY nor EXIT")
        patterns = {
            "onStatusReason": rule.on_status_reason,
            "onReason": rule.on_reason,
            "onExitCode": rule.on_exit_code,
        }
        if all(pattern is None for pattern in patterns.values()):
            raise InvalidArgument(f"{path} needs at least one of {', '.join(patterns)}")
        for member, pattern in patterns.items():
            if pattern is not None:
                _validate_pattern(pattern, f"{path}.{member}")


def _validate_pattern(pattern: str, where: str) -> None:
    if len(pattern) > _PATTERN_CHARS:
        raise InvalidArgument(
            f"{where} has {len(pattern)} characters; it must have at most {_PATTERN_CHARS}"
        )
    literal = pattern.removesuffix("*")
    only_digits = not literal or (literal.isascii() and literal.isdecimal())
    if "*" in literal or (where.endswith("onExitCode") and not only_digits):
        raise InvalidArgument(
            f"Evaluate on exit condition contains restricted characters ({where})"
        )


def validate_timeout(timeout: JobTimeout) -> None:
    seconds = timeout.attempt_duration_seconds
    if seconds is None or seconds < _LEAST_TIMEOUT_SECONDS:
        raise InvalidArgument(
            f"timeout.attemptDurationSeconds is {'missing' if seconds is None else seconds}; "
            f"it must be at least {_LEAST_TIMEOUT_SECONDS} seconds"
        )


def validate_start_barrier(barrier: StartBarrier) -> None:
    seconds = barrier.timeout_seconds
    if seconds is None or not 1 <= seconds <= _MOST_BARRIER_SECONDS:
        raise InvalidArgument(
            f"startBarrier.timeoutSeconds is {'missing' if seconds is None else seconds}; "
            f"it must be 1 to {_MOST_BARRIER_SECONDS} seconds"
        )


def validate_verdict(seconds: int) -> None:
    if not 1 <= seconds <= _MOST_VERDICT_SECONDS:
        raise InvalidArgument(
            f"verdictAfterSeconds is {seconds}; it must be 1 to {_MOST_VERDICT_SECONDS} seconds"
        )


def validate_tags(tags: Mapping[str, str]) -> None:
    if len(tags) > _MOST_TAGS:
        raise InvalidArgument(f"tags has {len(tags)} entries; it must have at most {_MOST_TAGS}")
    for key, value in tags.items():
        if not 1 <= len(key) <= _TAG_KEY_CHARS:
            raise InvalidArgument(
                f"tags: the key {quote(key)} must have 1 to {_TAG_KEY_CHARS} characters"
            )
        if key.lower().startswith("aws:"):
            raise InvalidArgument(f"tags: the key {quote(key)} is reserved: it begins with aws:")
        if len(value) > _TAG_VALUE_CHARS:
            raise InvalidArgument(
                f"tags: the value of {quote(key)} must have at most {_TAG_VALUE_CHARS} characters"
            )


def validate_queue_name(name: str) -> None:
    if not is_name(name):
        raise InvalidArgument(f"jobQueueName {quote(name)} is not valid; it must be {NAME_RULE}")


def validate_reason(reason: str) -> None:
    """The `reason` of CancelJob and TerminateJob; it becomes the job's statusReason."""
    if not 1 <= len(reason) <= _REASON_CHARS:
        raise InvalidArgument(
            f"reason has {len(reason)} characters; it must have 1 to {_REASON_CHARS}"
        )
