"""Each rule of RegisterJobDefinition refuses what breaks it, and names the place."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from coordinator.core.container import (
    ContainerProperties,
    Device,
    KeyValuePair,
    LinuxParameters,
    LogConfiguration,
    MountPoint,
    RepositoryCredentials,
    ResourceRequirement,
    ResourceType,
    Secret,
    Tmpfs,
    Ulimit,
    Volume,
    VolumeHost,
)
from coordinator.core.definition import (
    DefinitionType,
    EvaluateOnExit,
    JobDefinition,
    JobTimeout,
    RetryStrategy,
)
from coordinator.core.errors import InvalidArgument
from coordinator.core.validation import (
    validate_definition,
    validate_queue_name,
    validate_reason,
    validate_tags,
)
from tests.core.shapes import GPU_1, MEMORY_64, PLAIN, VCPU_1, multinode, node_range, single

FULL = ContainerProperties(
    image="registry.local:5000/solver:1",
    vcpus=4,
    memory=2048,
    command=("run", "", "Ref::size"),
    volumes=(
        Volume(name="data", host=VolumeHost(source_path="/data")),
        Volume(name="scratch", host=VolumeHost()),
        Volume(name="s-2_x"),
    ),
    environment=(
        KeyValuePair(name="A", value="x=1\n"),
        KeyValuePair(name="A"),
        KeyValuePair(name="with-hyphen.and.dot", value="with space"),
        KeyValuePair(name="MY_AWS_BATCH"),
    ),
    mount_points=(MountPoint(source_volume="data", container_path="/mnt", read_only=True),),
    ulimits=(
        Ulimit(name="memlock", soft_limit=-1, hard_limit=-1),
        Ulimit(name="nofile", soft_limit=0, hard_limit=0),
        Ulimit(name="stack", soft_limit=5, hard_limit=-1),
    ),
    user="1000:1000",
    resource_requirements=(VCPU_1, MEMORY_64, GPU_1),
    linux_parameters=LinuxParameters(
        devices=(Device(host_path="/dev/infiniband/uverbs0"),),
        shared_memory_size=64,
        tmpfs=(
            Tmpfs(container_path="/run", size=1, mount_options=("noexec",)),
            Tmpfs(container_path="/run/muster2", size=1),
            Tmpfs(container_path="/process", size=1),
            Tmpfs(container_path="/mnt/..data", size=1),
        ),
        max_swap=0,
        swappiness=100,
    ),
    log_configuration=LogConfiguration(log_driver="splunk"),
    secrets=(Secret(name="TOKEN", value_from="token"),),
    repository_credentials=RepositoryCredentials(credentials_parameter="registry"),
)

IMAGES = (
    *("none", "string", "busybox:1.36", "Not-A-Name", "c3c3dff190c3", "dir:x", "oci/x"),
    *("localhost/a__b/c-d.e:_1", "oci.example:5000/x", "[::1]:5000/x", f"x@sha256:{'0a' * 32}"),
    "123456789012.dkr.ecr.us-east-2.amazonaws.com/gromacs_mpi:latest",
    f"registry.local:5000/team/solver:1@sha256:{'0' * 64}",
)
USERS = ("0", "root", "1000", "2147483647:2147483647", "nobody:0", "_a.b-c:staff", "machine$")


@pytest.mark.parametrize(
    "definition",
    [
        single(FULL),
        single(ContainerProperties(image="x" * 255)),
        *(single(replace(PLAIN, image=image)) for image in IMAGES),
        *(single(replace(PLAIN, user=user)) for user in USERS),
        multinode("0:0", "1:3", main_node=3),
        multinode(node_range("0:", FULL), "1:", main_node=1),
        replace(
            multinode(num_nodes=1000),
            job_definition_name="9" + "a" * 127,
            scheduling_priority=9999,
            platform_capabilities=("EC2",),
            timeout=JobTimeout(attempt_duration_seconds=60),
            tags={"k" * 128: "v" * 256, "aws": ""},
            parameters={"size": "1"},
            retry_strategy=RetryStrategy(
                attempts=10,
                evaluate_on_exit=(
                    EvaluateOnExit(action="retry", on_status_reason="Host EC2*"),
                    EvaluateOnExit(action="RETRY", on_exit_code="13*", on_reason=""),
                    EvaluateOnExit(action="Exit", on_reason="a" * 511 + "*"),
                    EvaluateOnExit(action="EXIT", on_exit_code="*"),
                    EvaluateOnExit(action="EXIT", on_exit_code="0"),
                ),
            ),
        ),
    ],
)
def test_a_right_definition_comes_back_as_it_was(definition: JobDefinition) -> None:
    assert validate_definition(definition, 24 * 1024) is definition


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (replace(multinode(), type=DefinitionType.CONTAINER), "nodeProperties is not for type con"),
        (replace(single(), type=DefinitionType.MULTINODE), "containerProperties is not for type m"),
        (replace(multinode(), node_properties=None), "nodeProperties is required for type multi"),
        (replace(single(), container_properties=None), "containerProperties is required for type"),
        (replace(multinode(), platform_capabilities=("EC2", "FARGATE")), "platformCapabilities[1]"),
        (replace(single(), scheduling_priority=10_000), "schedulingPriority is 10000; it must be"),
        (replace(single(), scheduling_priority=-1), "schedulingPriority is -1; it must be 0 to"),
        (replace(single(), tags={"": "v"}), "tags: the key '' must have 1 to 128"),
        (replace(single(), timeout=JobTimeout()), "timeout.attemptDurationSeconds is missing"),
        (
            replace(single(), timeout=JobTimeout(attempt_duration_seconds=59)),
            "timeout.attemptDurationSeconds is 59; it must be at least 60 seconds",
        ),
        (multinode(num_nodes=0), "numNodes is 0; it must be 1 to 1000"),
        (multinode(num_nodes=1001), "numNodes is 1001; it must be 1 to 1000"),
        (multinode(main_node=4), "nodeProperties.mainNode is 4; it must be 0 to 3"),
        (multinode(main_node=-1), "nodeProperties.mainNode is -1; it must be 0 to 3"),
        (multinode("0", "1-3"), "nodeProperties.nodeRangeProperties[1].targetNodes '1-3' is malf"),
        (multinode("0", "2:3"), "must account for all nodes 0 to 3; no range has 1"),
        (multinode("0:4"), "targetNodes 0:4 goes beyond the last node, 3"),
        (multinode("0:2", "2:3"), "targetNodes 0:2 and 2:3 overlap in part"),
        (multinode(":", "0:"), "targetNodes 0: is there twice"),
        (multinode("0:", "0", "1", "2", "3", "0:1"), "has 6 node groups; it must have 1 to 5"),
        (multinode("0", node_range("1:", None)), "nodeRangeProperties[1].container is required"),
        (
            multinode("0", replace(node_range("1:"), instance_types=("a", "b"))),
            "nodeRangeProperties[1].instanceTypes has 2 elements; it must have at most one",
        ),
        (
            multinode(
                replace(node_range("0"), instance_types=("c5.large",)),
                node_range("1:", replace(PLAIN, instance_type="c4.large")),
            ),
            "nodeProperties.nodeRangeProperties[1].container.instanceType is 'c4.large'",
        ),
    ],
)
def test_a_wrong_definition_is_refused(definition: JobDefinition, message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        validate_definition(definition, 0)


def need(value: str, kind: ResourceType = ResourceType.VCPU) -> tuple[ResourceRequirement, ...]:
    return (ResourceRequirement(type=kind, value=value),)


MEMORY = ResourceType.MEMORY
NOT_NUMERIC = (
    "Value {} for type {} in resourceRequirement is not valid. Please provide a numeric value. "
    "(@.resourceRequirements[0].value)"
)
DATA = (Volume(name="data"),)
REFERENCE = "must be [REGISTRY[:PORT]/]NAME[:TAG][@DIGEST]"
USER = "must be NAME|UID[:GROUP|GID], ids 0 to 2147483647 without leading zeros"


def mounts(*targets: str) -> ContainerProperties:
    points = tuple(MountPoint(source_volume="data", container_path=path) for path in targets)
    return replace(PLAIN, volumes=DATA, mount_points=points)


def tmpfs(*targets: str) -> ContainerProperties:
    mounted = tuple(Tmpfs(container_path=path, size=1) for path in targets)
    return replace(PLAIN, linux_parameters=LinuxParameters(tmpfs=mounted))


def device(host_path: str, container_path: str | None = None) -> ContainerProperties:
    taken = Device(host_path=host_path, container_path=container_path)
    return replace(PLAIN, linux_parameters=LinuxParameters(devices=(taken,)))


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (ContainerProperties(), "@.image is required"),
        (replace(PLAIN, image=""), "@.image has 0 characters; it must have 1 to 255"),
        (replace(PLAIN, image="x" * 256), "@.image has 256 characters; it must have 1 to 255"),
        (replace(PLAIN, image="--privileged"), "@.image '--privileged' must not begin with '-'"),
        (replace(PLAIN, image="a\nb"), "@.image 'a\\nb' must not begin with '-' or have control"),
        (replace(PLAIN, user="-u"), "@.user '-u' must not begin"),
        (replace(PLAIN, user=""), "@.user has 0 characters"),
        (replace(PLAIN, instance_type=""), "@.instanceType has 0 characters"),
        (replace(PLAIN, command=("a", "b\0")), "@.command[1] has a NUL character"),
        (replace(PLAIN, vcpus=0), "@.vcpus is 0; it must be 1 to"),
        (replace(PLAIN, memory=3), "@.memory is 3; it must be 4 to"),
        (replace(PLAIN, memory=10**40), "@.memory is too large a number; it must be 4 to"),
        *(
            (replace(PLAIN, resource_requirements=need(value)), NOT_NUMERIC.format(value, "VCPU"))
            for value in ("1.0", "", "-1", "+1", " 1", "1_0", "٣", "²", "1e3", "one")
        ),
        (replace(PLAIN, resource_requirements=need("4Gi", MEMORY)), "Value 4Gi for type MEMORY"),
        (replace(PLAIN, resource_requirements=need("0")), "[0].value is 0; it must be 1 to"),
        (replace(PLAIN, resource_requirements=need("3", MEMORY)), "[0].value is 3; it must be 4"),
        (
            replace(PLAIN, resource_requirements=need("9" * 5000)),
            "@.resourceRequirements[0].value is too large a number",
        ),
        (
            replace(PLAIN, resource_requirements=(VCPU_1, MEMORY_64, VCPU_1)),
            "@.resourceRequirements[2].type VCPU is there twice",
        ),
        (
            replace(PLAIN, environment=(KeyValuePair(name="A"), KeyValuePair(value="x"))),
            "@.environment[1].name '' must not be empty",
        ),
        (replace(PLAIN, environment=(KeyValuePair(name="A=B"),)), "@.environment[0].name 'A=B'"),
        (replace(PLAIN, environment=(KeyValuePair(name="A\0"),)), "@.environment[0].name 'A\\x00'"),
        (
            replace(PLAIN, environment=(KeyValuePair(name="A", value="\0"),)),
            "@.environment[0].value has a NUL character",
        ),
        (
            replace(PLAIN, environment=(KeyValuePair(name="AWS_BATCH_JOB_ID", value="x"),)),
            "@.environment[0].name 'AWS_BATCH_JOB_ID' is reserved: names must not begin with AWS_B",
        ),
        (
            replace(PLAIN, secrets=(Secret(name="AWS_BATCHED", value_from="x"),)),
            "@.secrets[0].name 'AWS_BATCHED' is reserved",
        ),
        (
            replace(PLAIN, secrets=(Secret(name="S", value_from=""),)),
            "@.secrets[0].valueFrom must not be empty",
        ),
        (replace(PLAIN, volumes=(Volume(),)), "@.volumes[0].name '' must be 1 to 255"),
        (replace(PLAIN, volumes=(Volume(name="a/b"),)), "@.volumes[0].name 'a/b' must be"),
        (replace(PLAIN, volumes=(*DATA, *DATA)), "@.volumes[1].name 'data' is there twice"),
        (
            replace(PLAIN, volumes=(Volume(name="a", host=VolumeHost(source_path="data")),)),
            "@.volumes[0].host.sourcePath 'data' must be an absolute path",
        ),
        (
            replace(PLAIN, volumes=DATA, mount_points=(MountPoint(container_path="/x"),)),
            "@.mountPoints[0].sourceVolume '' is not the name of one of the container's volumes",
        ),
        (
            replace(
                PLAIN,
                volumes=DATA,
                mount_points=(MountPoint(container_path="/x", source_volume="date"),),
            ),
            "@.mountPoints[0].sourceVolume 'date' is not the name",
        ),
        (
            replace(PLAIN, volumes=DATA, mount_points=(MountPoint(source_volume="data"),)),
            "@.mountPoints[0].containerPath '' must be an absolute path",
        ),
        (
            replace(PLAIN, ulimits=(Ulimit(name="files", soft_limit=1, hard_limit=1),)),
            "@.ulimits[0].name 'files' is none of core, cpu,",
        ),
        (
            replace(PLAIN, ulimits=(Ulimit(name="core", soft_limit=-2, hard_limit=1),)),
            "@.ulimits[0].softLimit is -2; it must be -1 to",
        ),
        (
            replace(PLAIN, ulimits=(Ulimit(name="core", soft_limit=2, hard_limit=1),)),
            "@.ulimits[0].softLimit is 2; it must not be above the hardLimit, 1",
        ),
        (
            replace(PLAIN, ulimits=(Ulimit(name="core", soft_limit=-1, hard_limit=1),)),
            "@.ulimits[0].softLimit is -1; it must not be above the hardLimit, 1",
        ),
        (
            replace(PLAIN, linux_parameters=LinuxParameters(devices=(Device(host_path="sda"),))),
            "@.linuxParameters.devices[0].hostPath 'sda' must be an absolute path",
        ),
        (
            replace(
                PLAIN, linux_parameters=LinuxParameters(tmpfs=(Tmpfs(container_path="/", size=0),))
            ),
            "@.linuxParameters.tmpfs[0].size is 0; it must be 1 to",
        ),
        (
            replace(PLAIN, linux_parameters=LinuxParameters(shared_memory_size=0)),
            "@.linuxParameters.sharedMemorySize is 0",
        ),
        (replace(PLAIN, linux_parameters=LinuxParameters(max_swap=-1)), "maxSwap is -1; it must"),
        (
            replace(PLAIN, linux_parameters=LinuxParameters(swappiness=101)),
            "@.linuxParameters.swappiness is 101; it must be 0 to 100",
        ),
        (
            replace(PLAIN, log_configuration=LogConfiguration(log_driver="none")),
            "@.logConfiguration.logDriver 'none' is none of json-file, syslog,",
        ),
        (
            replace(PLAIN, repository_credentials=RepositoryCredentials(credentials_parameter="")),
            "@.repositoryCredentials.credentialsParameter must not be empty",
        ),
    ],
)
def test_a_wrong_container_is_refused_wherever_it_is(
    container: ContainerProperties, message: str
) -> None:
    for definition, path in (
        (single(container), "containerProperties"),
        (
            multinode("0", node_range("1:", container)),
            "nodeProperties.nodeRangeProperties[1].container",
        ),
    ):
        with pytest.raises(InvalidArgument, match=re.escape(message.replace("@", path))):
            validate_definition(definition, 0)


@pytest.mark.parametrize(
    ("container", "message"),
    [
        *(
            (replace(PLAIN, image=image), f"@.image {image!r} {REFERENCE}")
            for image in ("a b", "a:", "a@sha256:0123", "/a", "a//b", "a:b:c", "http://a/b", "ä")
        ),
        *(
            (replace(PLAIN, image=f"{transport}{rest}"), f"podman's transport {transport}, which")
            for transport, rest in (
                *(("oci", ":5000/x"), ("oci", ":/x:tag"), ("dir", ":/etc"), ("sif", ":1/x")),
                *(("docker-archive", ":/x"), ("tarball", ":/x"), ("containers-storage", ":1/x")),
            )
        ),
        *(
            (replace(PLAIN, user=user), f"@.user {user!r} {USER}")
            for user in (
                *("00", "+0", "01:1", "1:01", "0x0", "1:", ":1", "1:2:3", "a b", "٣", "1000a"),
                *("2147483648", "1:4294967296", "9" * 40),
            )
        ),
        *(
            (
                replace(PLAIN, environment=(KeyValuePair(name=name),)),
                f"@.environment[0].name {name!r} must not be empty or have '=', white space",
            )
            for name in (" A", "A ", "A B", "A\t", "A\n", "A\u00a0")
        ),
        (
            replace(PLAIN, secrets=(Secret(name="A B", value_from="x"),)),
            "@.secrets[0].name 'A B' must not",
        ),
        (
            replace(
                PLAIN,
                volumes=(Volume(name="a", host=VolumeHost(source_path="/data/../etc")),),
            ),
            "@.volumes[0].host.sourcePath '/data/../etc' must not have '..' as a part",
        ),
        (mounts("/x/.."), "@.mountPoints[0].containerPath '/x/..' must not have '..'"),
        (tmpfs("/../x"), "@.linuxParameters.tmpfs[0].containerPath '/../x' must not have '..'"),
        (device("/dev/../x"), "@.linuxParameters.devices[0].hostPath '/dev/../x' must not have"),
        (device("/dev/x", "/../x"), "@.linuxParameters.devices[0].containerPath '/../x' must not"),
        *(
            (
                mounts("/x/y", "/x", again),
                f"@.mountPoints[2].containerPath {again!r} is there twice, as @.mountPoints[0].con",
            )
            for again in ("/x/y", "//x/y", "/x//y", "/x/y/", "/x/./y/.")
        ),
        (
            replace(mounts("/x"), linux_parameters=tmpfs("/y", "/x/").linux_parameters),
            "@.linuxParameters.tmpfs[1].containerPath '/x/' is there twice, as @.mountPoints[0].co",
        ),
        *((mounts(root), f"{root!r} must be a path below /") for root in ("/", "//", "/./")),
        (tmpfs("/"), "@.linuxParameters.tmpfs[0].containerPath '/' must be a path below /"),
        (mounts("/proc"), "@.mountPoints[0].containerPath '/proc' must not be at or below /proc"),
        (tmpfs("//sys//fs"), "'//sys//fs' must not be at or below /sys, which is the engine's own"),
        (
            mounts("/run/muster/peers"),
            "must not be at or below /run/muster, which is reserved: every node is given its rend",
        ),
        (
            replace(PLAIN, ulimits=(Ulimit(name="core", soft_limit=1, hard_limit=1),) * 2),
            "@.ulimits[1].name core is there twice",
        ),
    ],
)
def test_what_engines_or_hosts_would_refuse_or_misread_is_refused_at_once(
    container: ContainerProperties, message: str
) -> None:
    message = message.replace("@.", "containerProperties.")
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        validate_definition(single(container), 0)


RESTRICTED = "Evaluate on exit condition contains restricted characters (retryStrategy.evaluateOnE"
EXITS = EvaluateOnExit(action="EXIT", on_exit_code="1")


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (RetryStrategy(), "RetryAttempts must be provided with retry strategy"),
        (RetryStrategy(attempts=0), "retryStrategy.attempts is 0; it must be 1 to 10"),
        (RetryStrategy(attempts=11), "retryStrategy.attempts is 11; it must be 1 to 10"),
        (
            RetryStrategy(evaluate_on_exit=(EXITS,)),
            "RetryAttempts must be provided with retry strategy",
        ),
        (
            RetryStrategy(attempts=1, evaluate_on_exit=(EXITS,) * 6),
            "retryStrategy.evaluateOnExit has 6 elements; it must have at most 5",
        ),
        *(
            (RetryStrategy(attempts=1, evaluate_on_exit=(EXITS, rule)), message)
            for rule, message in (
                (replace(EXITS, action="STOP"), "evaluateOnExit[1].action 'STOP' is neither RETRY"),
                # The dotless i, whose upper case is a plain I.
                (replace(EXITS, action="ex\u0131t"), "[1].action 'ex\u0131t' is neither RETRY"),
                (EvaluateOnExit(action="EXIT"), "evaluateOnExit[1] needs at least one of onStatus"),
                (replace(EXITS, on_reason="x" * 513), "[1].onReason has 513 characters"),
                (replace(EXITS, on_reason="*EC2"), RESTRICTED + "xit[1].onReason)"),
                (replace(EXITS, on_reason="a*b"), RESTRICTED),
                (replace(EXITS, on_status_reason="a**"), RESTRICTED + "xit[1].onStatusReason)"),
                (replace(EXITS, on_exit_code="1?"), RESTRICTED + "xit[1].onExitCode)"),
                (replace(EXITS, on_exit_code="-1"), RESTRICTED),
                (replace(EXITS, on_exit_code="٣"), RESTRICTED),
            )
        ),
    ],
)
def test_a_wrong_retry_strategy_is_refused(strategy: RetryStrategy, message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        validate_definition(replace(single(), retry_strategy=strategy), 0)


def test_a_definition_may_have_24_kib() -> None:
    message = "^Job definition size must be less than 24 KiB, got 25 KiB$"
    with pytest.raises(InvalidArgument, match=message):
        validate_definition(single(), 24 * 1024 + 1)


@pytest.mark.parametrize("name", ["", "-a", "_a", "a b", "a:1", "ä", "a\n", "a" * 129, "../a"])
def test_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^jobDefinitionName '"):
        validate_definition(replace(single(), job_definition_name=name), 0)
    with pytest.raises(InvalidArgument, match=r"^jobQueueName '"):
        validate_queue_name(name)
    validate_queue_name("a")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({str(n): "" for n in range(51)}, "tags has 51 entries; it must have at most 50"),
        ({"k" * 129: ""}, "must have 1 to 128 characters"),
        ({"k": "v" * 257}, "the value of 'k' must have at most 256 characters"),
        ({"aws:x": ""}, "the key 'aws:x' is reserved"),
        ({"AWS:x": ""}, "the key 'AWS:x' is reserved"),
    ],
)
def test_tags(tags: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        validate_tags(tags)
    validate_tags({str(n): "" for n in range(50)})


def test_reasons() -> None:
    validate_reason("x" * 1024)
    for text in ("", "x" * 1025):
        with pytest.raises(InvalidArgument, match=f"^reason has {len(text)} characters"):
            validate_reason(text)
