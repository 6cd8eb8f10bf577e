"""A submission over its definition gives a complete job, or is refused with nothing done."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from coordinator.core.container import (
    ContainerOverrides,
    ContainerProperties,
    KeyValuePair,
    LinuxParameters,
    LogConfiguration,
    ResourceRequirement,
    ResourceType,
)
from coordinator.core.definition import (
    DependencyType,
    EvaluateOnExit,
    JobDefinition,
    JobDependency,
    JobSpec,
    JobTimeout,
    NodeOverrides,
    NodePropertyOverride,
    RetryStrategy,
    Submission,
)
from coordinator.core.errors import InvalidArgument
from coordinator.core.submission import merged_node_properties, resolve
from coordinator.core.validation import validate_definition
from tests.core.shapes import (
    PLAIN,
    SUBMISSION,
    VCPU_1,
    multinode,
    node_range,
    single,
)

VCPU_8 = ResourceRequirement(type=ResourceType.VCPU, value="8")


def _overriding(
    *edits: NodePropertyOverride, num_nodes: int | None = None, **members: object
) -> Submission:
    overrides = NodeOverrides(num_nodes=num_nodes, node_property_overrides=edits)
    return replace(SUBMISSION, node_overrides=overrides, **members)  # type: ignore[arg-type]


def _edit(target_nodes: str, **members: object) -> NodePropertyOverride:
    changes = ContainerOverrides(**members)  # type: ignore[arg-type]
    return NodePropertyOverride(target_nodes=target_nodes, container_overrides=changes)


def _resolve(submission: Submission, definition: JobDefinition) -> JobSpec:
    return resolve(submission, validate_definition(definition, 0), 0)


def _refused(submission: Submission, definition: JobDefinition, message: str) -> None:
    """The definition is right, and the submission of it is refused with this text in it."""
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        _resolve(submission, definition)


# --- what comes out ---------------------------------------------------------------------------


def test_defaults() -> None:
    spec = _resolve(SUBMISSION, multinode("0:0", "1:3", main_node=1))
    assert (spec.job_name, spec.definition_name, spec.definition_revision) == ("job", "gang", 3)
    assert (spec.is_multinode, spec.num_nodes, spec.main_node) == (True, 4, 1)
    assert [tuple(group.nodes) for group in spec.groups] == [(0,), (1, 2, 3)]
    assert [(g.vcpus, g.memory_mib, g.gpus) for g in spec.groups] == [(1, 64, 0)] * 2
    assert (spec.attempts, spec.evaluate_on_exit, spec.timeout_seconds) == (1, (), None)
    assert spec.instance_type is None
    assert spec.depends_on == ()


def test_a_container_job_is_a_gang_of_one() -> None:
    changes = ContainerOverrides(command=("go", "Ref::x"), resource_requirements=(VCPU_8,))
    submission = replace(SUBMISSION, container_overrides=changes, parameters={"x": "1"})
    spec = _resolve(submission, single())
    assert (spec.is_multinode, spec.num_nodes, spec.main_node) == (False, 1, 0)
    (group,) = spec.groups
    assert (group.target_nodes, tuple(group.nodes)) == ("0", (0,))
    assert (group.container.command, group.vcpus) == (("go", "1"), 8)


def test_the_submission_replaces_retry_timeout_and_propagation_as_a_whole() -> None:
    rules = (EvaluateOnExit(action="EXIT", on_reason="*"),)
    definition = replace(
        multinode(),
        retry_strategy=RetryStrategy(attempts=5, evaluate_on_exit=rules),
        timeout=JobTimeout(attempt_duration_seconds=100),
        propagate_tags=True,
        scheduling_priority=7,
        tags={"of": "the definition"},
        platform_capabilities=("EC2",),
    )
    plain = _resolve(SUBMISSION, definition)
    assert (plain.attempts, plain.evaluate_on_exit, plain.timeout_seconds) == (5, rules, 100)
    assert (plain.propagate_tags, plain.scheduling_priority, plain.tags) == (True, 7, {})
    assert plain.platform_capabilities == ("EC2",)
    submission = replace(
        SUBMISSION,
        retry_strategy=RetryStrategy(attempts=2),
        timeout=JobTimeout(attempt_duration_seconds=60),
        propagate_tags=False,
        tags={"k": "v"},
    )
    other = _resolve(submission, definition)
    assert (other.attempts, other.evaluate_on_exit, other.timeout_seconds) == (2, (), 60)
    assert (other.propagate_tags, other.tags) == (False, {"k": "v"})


def test_an_override_is_merged_into_its_range_alone() -> None:
    base = replace(
        PLAIN,
        command=("old",),
        environment=(KeyValuePair(name="A", value="1"), KeyValuePair(name="B", value="2")),
    )
    edit = _edit(
        "1:",
        command=("new", "-x"),
        environment=(KeyValuePair(name="B", value="3"), KeyValuePair(name="C")),
        resource_requirements=(VCPU_8,),
    )
    spec = _resolve(_overriding(edit), multinode(node_range("0", base), node_range("1:", base)))
    first, second = spec.groups
    assert (first.container, first.vcpus) == (base, 1)
    assert second.container.command == ("new", "-x")
    pairs = [(pair.name, pair.value) for pair in second.container.environment]
    assert pairs == [("A", "1"), ("B", "3"), ("C", None)]
    assert (second.vcpus, second.memory_mib) == (8, 64)
    assert second.container.image == base.image


def test_an_override_of_an_outer_range_leaves_the_inner_ones_nodes_alone() -> None:
    spec = _resolve(_overriding(_edit("0:", command=("outer",))), multinode("0:", "1:2"))
    commands = {node: g.container.command for g in spec.groups for node in g.nodes}
    assert commands == {0: ("outer",), 1: (), 2: (), 3: ("outer",)}


def test_deprecated_amounts_override_deprecated_amounts_only() -> None:
    old = ContainerProperties(image="x", vcpus=1, memory=64)
    spec = _resolve(_overriding(_edit(":", vcpus=2, memory=128)), multinode(node_range("0:", old)))
    assert (spec.groups[0].vcpus, spec.groups[0].memory_mib) == (2, 128)
    spec = _resolve(_overriding(_edit(":", vcpus=2, memory=128)), multinode("0:"))
    assert (spec.groups[0].vcpus, spec.groups[0].memory_mib) == (1, 64)
    assert (spec.groups[0].container.vcpus, spec.groups[0].container.memory) == (2, 128)


def test_an_override_can_supply_amounts_that_the_definition_left_out() -> None:
    bare = node_range("0:", ContainerProperties(image="x"))
    edit = _edit("0:", resource_requirements=(VCPU_1,), memory=4)
    spec = _resolve(_overriding(edit), multinode(bare))
    assert (spec.groups[0].vcpus, spec.groups[0].memory_mib) == (1, 4)
    message = "nodeRangeProperties[0].container.resourceRequirements has no MEMORY; it must be"
    _refused(_overriding(_edit("0:", vcpus=1)), multinode(bare), message)
    _refused(SUBMISSION, single(ContainerProperties(image="x")), "has no VCPU")


def test_a_shadowed_range_needs_nothing() -> None:
    shadowed = node_range("0:", ContainerProperties(image="x", privileged=True))
    spec = _resolve(SUBMISSION, multinode(shadowed, "0", "1:"))
    assert [tuple(group.nodes) for group in spec.groups] == [(), (0,), (1, 2, 3)]


@pytest.mark.parametrize("num_nodes", [3, 4, 1000])
def test_num_nodes_override(num_nodes: int) -> None:
    spec = _resolve(_overriding(num_nodes=num_nodes), multinode("0:1", "2:", main_node=2))
    assert spec.num_nodes == num_nodes
    assert [len(group.nodes) for group in spec.groups] == [2, num_nodes - 2]


def test_instance_types_of_all_spellings_are_one() -> None:
    typed = replace(node_range("0:"), instance_types=("c5.large",))
    assert _resolve(SUBMISSION, multinode(typed)).instance_type == "c5.large"
    spelled = node_range("0:", replace(PLAIN, instance_type="c5.large"))
    assert _resolve(SUBMISSION, multinode(spelled)).instance_type == "c5.large"
    for edit in (
        _edit("0:", instance_type="c4.large"),
        NodePropertyOverride(target_nodes="0:", instance_types=("c4.large",)),
    ):
        spec = _resolve(_overriding(edit), multinode(typed))
        assert (spec.instance_type, spec.groups[0].instance_types) == ("c4.large", ("c4.large",))
        assert spec.groups[0].container.instance_type == "c4.large"


def test_merged_node_properties_keep_the_definitions_words() -> None:
    command = replace(PLAIN, command=("run", "Ref::size"))
    submission = _overriding(_edit("0:", vcpus=2), num_nodes=9, parameters={"size": "big"})
    merged = merged_node_properties(
        _resolve(submission, multinode(node_range(":", command), "2", main_node=1))
    )
    assert (merged.num_nodes, merged.main_node) == (9, 1)
    outer, inner = merged.node_range_properties
    assert (outer.target_nodes, inner.target_nodes) == (":", "2")
    assert outer.container == replace(PLAIN, command=("run", "big"), vcpus=2)
    assert inner.container == PLAIN


# --- what is refused --------------------------------------------------------------------------

A_JOB = "8d4a8f5e-6ff1-4bd0-9b5f-1b6fa8a8c3a7"
ON_A_JOB = JobDependency(job_id=A_JOB)
OVERRIDE = "nodeOverrides.nodePropertyOverrides[0].containerOverrides"
FAIR_SHARE_ONLY = (
    "Job with shareIdentifier or schedulingPriority can onlybe submitted to job queue "
    "with fair share scheduling policy."
)


@pytest.mark.parametrize(
    ("submission", "message"),
    [
        (replace(SUBMISSION, job_name=""), "Job name should match valid pattern"),
        (replace(SUBMISSION, job_name="a b"), "Job name should match valid pattern"),
        (replace(SUBMISSION, job_name="a" * 129), "Job name should match valid pattern"),
        (
            replace(SUBMISSION, share_identifier="s"),
            FAIR_SHARE_ONLY,
        ),
        (replace(SUBMISSION, scheduling_priority_override=0), FAIR_SHARE_ONLY),
        (replace(SUBMISSION, client_token=""), "clientToken '' must be 1 to 64 printable ASCII"),
        (replace(SUBMISSION, client_token="a" * 65), "must be 1 to 64 printable ASCII characters"),
        (replace(SUBMISSION, client_token="ä"), "must be 1 to 64 printable ASCII characters"),
        (replace(SUBMISSION, client_token="a\n"), "must be 1 to 64 printable ASCII characters"),
        (replace(SUBMISSION, tags={"aws:a": ""}), "tags: the key 'aws:a' is reserved"),
        (
            replace(SUBMISSION, retry_strategy=RetryStrategy()),
            "RetryAttempts must be provided with retry strategy",
        ),
        (
            replace(SUBMISSION, timeout=JobTimeout(attempt_duration_seconds=1)),
            "timeout.attemptDurationSeconds is 1; it must be at least 60 seconds",
        ),
        (
            replace(SUBMISSION, depends_on=(ON_A_JOB,) * 21),
            "Job cannot have more than 20 dependencies",
        ),
        (
            replace(SUBMISSION, depends_on=(ON_A_JOB, JobDependency(job_id="a:3"))),
            "dependsOn[1].jobId 'a:3' is neither a job id",
        ),
        (
            replace(SUBMISSION, depends_on=(JobDependency(job_id=f"{A_JOB}#1"),)),
            f"dependsOn[0].jobId '{A_JOB}#1' is one node; depend on its job, {A_JOB}",
        ),
        (
            replace(SUBMISSION, depends_on=(JobDependency(type=DependencyType.SEQUENTIAL),)),
            "dependsOn[0].jobId is required",
        ),
        (
            replace(SUBMISSION, depends_on=(replace(ON_A_JOB, type=DependencyType.N_TO_N),)),
            "dependsOn[0].type N_TO_N is for array jobs",
        ),
        (
            replace(SUBMISSION, container_overrides=ContainerOverrides(command=("x",))),
            "Container overrides should not be set for multi-node parallel jobs, use nodeOverr",
        ),
        (
            _overriding(_edit("0:0"), _edit("1:"), _edit("2:2"), _edit("3")),
            "NodeOverride targets should match job definition. Non matching targets - 0:0, 3",
        ),
        (
            _overriding(_edit("1:"), _edit("x")),
            "nodeOverrides.nodePropertyOverrides[1].targetNodes 'x' is malformed",
        ),
        (
            _overriding(_edit("0:"), _edit(":")),
            "nodeOverrides.nodePropertyOverrides[1].targetNodes ':' is overridden already",
        ),
        (
            _overriding(_edit("0:", command=("a", ""))),
            f"Command cannot be empty ({OVERRIDE}.command[1])",
        ),
        (
            _overriding(_edit("0:", environment=(KeyValuePair(name="AWS_BATCH_X"),))),
            f"{OVERRIDE}.environment[0].name 'AWS_BATCH_X' is reserved",
        ),
        (
            _overriding(_edit("0:", resource_requirements=(replace(VCPU_8, value="1.0"),))),
            f"Please provide a numeric value. ({OVERRIDE}.resourceRequirements[0].value)",
        ),
        (_overriding(_edit("0:", memory=3)), "containerOverrides.memory is 3; it must be 4 to"),
        (
            _overriding(NodePropertyOverride(target_nodes="1:", instance_types=("a", "b"))),
            "nodePropertyOverrides[0].instanceTypes has 2 elements",
        ),
        (
            _overriding(replace(_edit("1:", instance_type="a"), instance_types=("b",))),
            "must use the same instance type; nodeOverrides.nodePropertyOverrides[0].instanceTyp",
        ),
        (
            _overriding(_edit("0:", instance_type="a"), _edit("1:", instance_type="b")),
            "must use the same instance type; nodeProperties.nodeRangeProperties[0].container",
        ),
        (_overriding(num_nodes=0), "nodeOverrides.numNodes is 0; it must be 1 to 1000"),
        (_overriding(num_nodes=1001), "nodeOverrides.numNodes is 1001; it must be 1 to 1000"),
        (_overriding(num_nodes=1), "numNodes is 1, so there is no node 1, at which the job defi"),
        (_overriding(num_nodes=2), "so there is no node 2, at which the job definition's target"),
        (_overriding(num_nodes=3), "so there is no node 3, the job definition's mainNode"),
    ],
)
def test_a_wrong_submission_is_refused(submission: Submission, message: str) -> None:
    _refused(submission, multinode("0:", "1:", "2", main_node=3), message)


def test_num_nodes_override_needs_an_open_range() -> None:
    message = (
        "NumNodes override can only be applied if the job definition has at least 1 target node "
        "without a range_end i.e (:) or (range_start:)."
    )
    _refused(_overriding(num_nodes=4), multinode("0:0", "1:3"), message)


def test_num_nodes_override_cannot_leave_a_closed_range_behind() -> None:
    message = "targetNodes 1:2 goes beyond the last node, 1"
    _refused(_overriding(num_nodes=2), multinode("0:", "1:2"), message)


def test_node_overrides_are_not_for_container_jobs() -> None:
    _refused(_overriding(num_nodes=1), single(), "use containerOverrides.")


def test_container_overrides_are_judged() -> None:
    submission = replace(SUBMISSION, container_overrides=ContainerOverrides(command=("",)))
    _refused(submission, single(), "Command cannot be empty (containerOverrides.command[0])")


def test_a_submission_may_have_30_kib() -> None:
    assert resolve(SUBMISSION, single(), 30 * 1024).job_name == "job"
    message = "^Job size must be less than 30 KiB, got 47 KiB$"
    with pytest.raises(InvalidArgument, match=message):
        resolve(SUBMISSION, single(), 47 * 1024)


def test_dependencies_become_plain_job_ids() -> None:
    given = (
        JobDependency(job_id=f"arn:aws:batch:us-east-1:123456789012:job/{A_JOB}"),
        JobDependency(job_id=A_JOB, type=DependencyType.SEQUENTIAL),
    )
    spec = _resolve(replace(SUBMISSION, depends_on=given * 10), multinode())
    plain = (ON_A_JOB, replace(ON_A_JOB, type=DependencyType.SEQUENTIAL))
    assert spec.depends_on == plain * 10


@pytest.mark.parametrize("driver", ["splunk", "syslog"])
def test_a_log_driver_that_would_take_output_elsewhere_is_refused(driver: str) -> None:
    log = LogConfiguration(log_driver=driver)
    wants = replace(PLAIN, log_configuration=log)
    with pytest.raises(InvalidArgument) as refusal:
        _resolve(SUBMISSION, multinode("0", node_range("1:", wants)))
    where = "nodeProperties.nodeRangeProperties[1].container.logConfiguration.logDriver"
    assert str(refusal.value).startswith(f"Not supported: {where} {driver}: Muster captures output")


@pytest.mark.parametrize("driver", ["awslogs", "json-file"])
def test_members_that_ask_for_nothing_are_taken(driver: str) -> None:
    container = replace(
        PLAIN,
        readonly_root_filesystem=False,
        privileged=False,
        linux_parameters=LinuxParameters(init_process_enabled=False),
        log_configuration=LogConfiguration(log_driver=driver, options={"awslogs-group": "g"}),
        job_role_arn="arn:aws:iam::123456789012:role/r",
        user="nobody",
    )
    spec = _resolve(SUBMISSION, multinode(node_range("0:", container)))
    assert spec.groups[0].container == container
