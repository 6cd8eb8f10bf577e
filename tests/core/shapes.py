"""Definitions and submissions for tests: small right ones, and strategies for any, right or wrong.

Right ones are damaged in a few random places, so that most draws get some way into the rules
before they are refused, and many pass.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from coordinator.core.container import (
    ContainerOverrides,
    ContainerProperties,
    KeyValuePair,
    ResourceRequirement,
    ResourceType,
)
from coordinator.core.definition import (
    DefinitionType,
    EvaluateOnExit,
    JobDefinition,
    JobTimeout,
    NodeOverrides,
    NodeProperties,
    NodePropertyOverride,
    NodeRange,
    RetryStrategy,
    Submission,
)

Value = Any
"""A part of a definition or submission: a dataclass, a tuple, a dict or a plain value."""
Hint = Any
"""What a member's annotation says, resolved."""

VCPU_1 = ResourceRequirement(type=ResourceType.VCPU, value="1")
MEMORY_64 = ResourceRequirement(type=ResourceType.MEMORY, value="64")
GPU_1 = ResourceRequirement(type=ResourceType.GPU, value="1")
PLAIN = ContainerProperties(image="busybox", resource_requirements=(VCPU_1, MEMORY_64))


def node_range(target_nodes: str, container: ContainerProperties | None = PLAIN) -> NodeRange:
    return NodeRange(target_nodes=target_nodes, container=container)


def multinode(*ranges: NodeRange | str, num_nodes: int = 4, main_node: int = 0) -> JobDefinition:
    return JobDefinition(
        job_definition_name="gang",
        type=DefinitionType.MULTINODE,
        revision=3,
        node_properties=NodeProperties(
            num_nodes=num_nodes,
            main_node=main_node,
            node_range_properties=tuple(
                node_range(each) if isinstance(each, str) else each for each in ranges or ("0:",)
            ),
        ),
    )


def single(container: ContainerProperties = PLAIN) -> JobDefinition:
    return JobDefinition(
        job_definition_name="one",
        type=DefinitionType.CONTAINER,
        revision=1,
        container_properties=container,
    )


SUBMISSION = Submission(job_name="job", job_queue="default", job_definition="gang")


# --- any definition and submission -----------------------------------------------------------

HOSTILE = st.text(max_size=6) | st.sampled_from(
    [
        *("", "\0", "\n", "-v", "=", "*", "#", ":", "'", "1.0", "-1", "٣", "AWS_BATCH_X"),
        *("0:", "1:", "2", "Ref::a", "Ref::", "job", "EC2", "EXIT", "9" * 5000, "x" * 600),
    ]
)
NUMBERS = st.integers(-2, 70) | st.sampled_from([-(2**63), 999, 1000, 1001, 10_000, 2**31, 10**40])
WORDS = st.sampled_from(["run", "--size", "a b", "$HOME", "Ref::a", "x=Ref::b,Ref::a", "é"])
AMOUNTS = st.sampled_from([(VCPU_1, MEMORY_64), (MEMORY_64,), (VCPU_1,), ()])
VARIABLES = st.builds(KeyValuePair, name=st.sampled_from("ABC"), value=st.sampled_from("xyz"))
INSTANCE_TYPES = st.sampled_from([(), (), ("c5.large",)])
CONTAINERS = st.builds(
    ContainerProperties,
    image=st.sampled_from(["busybox", f"registry.local:5000/team/solver@sha256:{'0' * 64}"]),
    command=st.lists(WORDS, max_size=3).map(tuple),
    vcpus=st.sampled_from([None, 2]),
    memory=st.sampled_from([2048, 2048, None]),
    resource_requirements=st.just((VCPU_1, MEMORY_64)) | AMOUNTS,
    environment=st.lists(VARIABLES, max_size=3).map(tuple),
)
OVERRIDES = st.builds(
    ContainerOverrides,
    command=st.lists(WORDS, max_size=2).map(tuple),
    resource_requirements=AMOUNTS,
    environment=st.lists(VARIABLES, max_size=2).map(tuple),
    instance_type=st.sampled_from([None, None, "c5.large"]),
)
RETRIES = st.builds(
    RetryStrategy,
    attempts=st.integers(1, 10),
    evaluate_on_exit=st.sampled_from([(), (EvaluateOnExit(action="exit", on_exit_code="1*"),)]),
)
TIMEOUTS = st.builds(JobTimeout, attempt_duration_seconds=st.integers(60, 10**6))
PARAMETERS = st.sampled_from([{}, {"a": "1"}, {"b": "two words"}, {"a": "3", "b": "4"}])
COVERS = st.sampled_from(["0:", "0 1:", "0:0 1:3", "0: 1 2:", ": 1:2", ":1 2:2 3:"]).map(str.split)


@st.composite
def requests(draw: st.DrawFn) -> tuple[JobDefinition, Submission]:
    """Any definition with any submission for it: right ones with up to three places gone wrong."""
    covers = draw(COVERS)
    if draw(st.booleans()):
        ranges = [NodeRange(target_nodes=each, container=draw(CONTAINERS)) for each in covers]
        definition = multinode(*ranges, main_node=draw(st.integers(0, 3)))
    else:
        definition = single(draw(CONTAINERS))
    definition = replace(
        definition,
        parameters=draw(PARAMETERS),
        retry_strategy=draw(st.none() | RETRIES),
        timeout=draw(st.none() | TIMEOUTS),
    )
    submission = replace(
        SUBMISSION,
        parameters=draw(PARAMETERS),
        retry_strategy=draw(st.none() | RETRIES),
        timeout=draw(st.none() | TIMEOUTS),
    )
    if definition.node_properties is None:
        submission = replace(submission, container_overrides=draw(st.none() | OVERRIDES))
    elif draw(st.booleans()):
        edits = [
            NodePropertyOverride(
                target_nodes=each,
                container_overrides=draw(OVERRIDES),
                instance_types=draw(INSTANCE_TYPES),
            )
            for each in covers
        ]
        overrides = NodeOverrides(
            num_nodes=draw(st.sampled_from([None, None, 4, 1000])),
            node_property_overrides=tuple(edits[draw(st.integers(0, len(edits))) :]),
        )
        submission = replace(submission, node_overrides=overrides)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2, 3]))):
        if draw(st.booleans()):
            definition = _damage(draw, definition, JobDefinition)
        else:
            submission = _damage(draw, submission, Submission)
    return definition, submission


def _damage(draw: st.DrawFn, value: Value, hint: Hint) -> Value:
    """The same value with something of the same type in one random place."""
    if is_dataclass(value) and not isinstance(value, type):
        name = draw(st.sampled_from([member.name for member in fields(value)]))
        hint = get_type_hints(type(value))[name]
        return replace(value, **{name: _damage(draw, getattr(value, name), hint)})
    if isinstance(value, tuple) and value:
        index = draw(st.integers(0, len(value)))
        if index == len(value):
            return value * draw(st.integers(0, 21))
        element = _damage(draw, value[index], get_args(hint)[0])
        return (*value[:index], element, *value[index + 1 :])
    return draw(_anything(hint))


def _anything(hint: Hint) -> SearchStrategy[Value]:
    """Any value of a type, however wrong in meaning."""
    arguments = get_args(hint)
    origin: object = get_origin(hint)
    if origin is tuple:
        return st.lists(_anything(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(HOSTILE, HOSTILE, max_size=3)
    if arguments:
        return st.one_of([_anything(argument) for argument in arguments])
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.builds(hint, **{name: _anything(hints[name]) for name in hints})
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    plain: dict[Any, SearchStrategy[Any]] = {
        str: HOSTILE,
        int: NUMBERS,
        bool: st.booleans(),
        NoneType: st.none(),
    }
    return plain[hint]
