"""What a container of a job definition, and what SubmitJob lays over it, may say.

Each function raises InvalidArgument for the first thing that is wrong, naming its member path;
`where` is the path so far. Limits are AWS's (aws-batch-spec section 3, aws-batch-evidence
section 4.2). Whether the engines can do it is asked elsewhere, in `unsupported.py`. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from coordinator.core.container import (
    ContainerOverrides,
    ContainerProperties,
    KeyValuePair,
    LinuxParameters,
    MountPoint,
    ResourceRequirement,
    ResourceType,
    Ulimit,
    Volume,
)
from coordinator.core.errors import InvalidArgument
from coordinator.core.names import clip, quote

RESERVED_PREFIX = "AWS_BATCH"
KIT_VARIABLES = (
    *("MUSTER_NODE_ADDRESSES", "MUSTER_PEERS_FILE", "MUSTER_HOSTFILE"),
    *("MUSTER_HOST_ID", "MUSTER_CLUSTER_ID"),
)
"""What every node is told of its gang, by its agent."""
LOG_DRIVERS = (
    "json-file",
    "syslog",
    "journald",
    "gelf",
    "fluentd",
    "awslogs",
    "splunk",
    "awsfirelens",
)
ULIMITS = (
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
)
RESERVED_TARGETS = {
    "/proc": "the engine's own",
    "/sys": "the engine's own",
    "/run/muster": "reserved: every node is given its rendezvous kit there",
}
"""Where nothing can be mounted, at or below, and why."""
_IMAGE = re.compile(
    # [registry/]name[:tag][@digest], as the engines' own grammar has it, but for capitals in names,
    # which the engine refuses in AWS's words.
    r"(([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?/)?"
    r"[A-Za-z0-9]+([._-]+[A-Za-z0-9]+)*(/[A-Za-z0-9]+([._-]+[A-Za-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@[A-Za-z0-9]+:[0-9A-Fa-f]{32,128})?"
)
_TRANSPORT = re.compile(
    r"(atomic|containers-storage|dir|docker-archive|docker-daemon|oci|oci-archive|ostree|sif"
    r"|tarball):.*/"
)
"""podman reads files of the host for it, also where it could be a registry and its port."""
_USER = re.compile(
    r"(0|[1-9][0-9]{0,9}|[A-Za-z_][A-Za-z0-9_.-]*[$]?)"
    r"(:(0|[1-9][0-9]{0,9}|[A-Za-z_][A-Za-z0-9_.-]*[$]?))?"
)
_MOUNT_OPTION = re.compile(r"[A-Za-z0-9_.=%/-]{1,64}")
_LEAST = {ResourceType.GPU: 1, ResourceType.VCPU: 1, ResourceType.MEMORY: 4}
_MOST = 2**31 - 1


def validate_container(container: ContainerProperties, where: str) -> None:
    """The container of one node group. Amounts may be missing: an override can supply them."""
    if container.image is None:
        raise InvalidArgument(f"{where}.image is required")
    _validate_image(container.image, f"{where}.image")
    if container.user is not None:
        _validate_user(container.user, f"{where}.user")
    if container.instance_type is not None:
        validate_instance_type(container.instance_type, f"{where}.instanceType")
    _validate_command(container.command, f"{where}.command")
    _validate_environment(container.environment, f"{where}.environment")
    _validate_amounts(container.vcpus, container.memory, container.resource_requirements, where)
    _validate_volumes(container.volumes, f"{where}.volumes")
    _validate_mount_points(container.mount_points, container.volumes, f"{where}.mountPoints")
    _validate_ulimits(container.ulimits, f"{where}.ulimits")
    if container.linux_parameters is not None:
        _validate_linux_parameters(container.linux_parameters, f"{where}.linuxParameters")
    _validate_targets(container, where)
    for index, secret in enumerate(container.secrets):
        _validate_variable_name(secret.name, f"{where}.secrets[{index}].name")
        if not secret.value_from:
            raise InvalidArgument(f"{where}.secrets[{index}].valueFrom must not be empty")
    log = container.log_configuration
    if log is not None and log.log_driver not in LOG_DRIVERS:
        raise InvalidArgument(
            f"{where}.logConfiguration.logDriver {quote(log.log_driver)} is none of "
            f"{', '.join(LOG_DRIVERS)}"
        )
    credentials = container.repository_credentials
    if credentials is not None and not credentials.credentials_parameter:
        raise InvalidArgument(
            f"{where}.repositoryCredentials.credentialsParameter must not be empty"
        )


def validate_overrides(overrides: ContainerOverrides, where: str) -> None:
    """What SubmitJob changes; merging two valid halves gives a valid container."""
    if "" in overrides.command:
        position = overrides.command.index("")
        raise InvalidArgument(f"Command cannot be empty ({where}.command[{position}])")
    if overrides.instance_type is not None:
        validate_instance_type(overrides.instance_type, f"{where}.instanceType")
    _validate_command(overrides.command, f"{where}.command")
    _validate_environment(overrides.environment, f"{where}.environment")
    _validate_amounts(overrides.vcpus, overrides.memory, overrides.resource_requirements, where)


def validate_instance_type(text: str, where: str) -> None:
    _validate_engine_word(text, 64, where)


def amount(container: ContainerProperties, resource: ResourceType) -> int | None:
    """How much of it a validated container asks for: the requirement, else its deprecated
    spelling, else None."""
    for requirement in container.resource_requirements:
        if requirement.type is resource:
            return int(requirement.value)
    match resource:
        case ResourceType.VCPU:
            return container.vcpus
        case ResourceType.MEMORY:
            return container.memory
        case ResourceType.GPU:
            return None


def _validate_engine_word(text: str, most_chars: int, where: str) -> None:
    """Something an engine gets as one argument: it must be neither empty nor look like a flag."""
    if not text or len(text) > most_chars:
        raise InvalidArgument(f"{where} has {len(text)} characters; it must have 1 to {most_chars}")
    if text.startswith("-") or not text.isprintable():
        raise InvalidArgument(
            f"{where} {quote(text)} must not begin with '-' or have control characters"
        )


def _validate_image(image: str, where: str) -> None:
    _validate_engine_word(image, 255, where)
    transport = _TRANSPORT.match(image)
    if transport:
        raise InvalidArgument(
            f"{where} {quote(image)} begins with podman's transport {transport[1]}, which reads "
            "files of the host; it must name an image of a registry"
        )
    if not _IMAGE.fullmatch(image):
        raise InvalidArgument(
            f"{where} {quote(image)} must be [REGISTRY[:PORT]/]NAME[:TAG][@DIGEST]"
        )


def _validate_user(user: str, where: str) -> None:
    """One form for each id: engines take `00` and `+0` for root, whatever a host's rules say."""
    _validate_engine_word(user, 255, where)
    ids = (int(word) for word in user.split(":") if word.isascii() and word.isdecimal())
    if not _USER.fullmatch(user) or any(number > _MOST for number in ids):
        raise InvalidArgument(
            f"{where} {quote(user)} must be NAME|UID[:GROUP|GID], ids 0 to {_MOST} without "
            "leading zeros"
        )


def _validate_command(command: tuple[str, ...], where: str) -> None:
    for index, argument in enumerate(command):
        if "\0" in argument:
            raise InvalidArgument(f"{where}[{index}] has a NUL character, which no command can")


def _validate_environment(pairs: tuple[KeyValuePair, ...], where: str) -> None:
    """A name may be there twice, as with `docker run -e`: the last one wins when the job runs."""
    for index, pair in enumerate(pairs):
        _validate_variable_name(pair.name or "", f"{where}[{index}].name")
        if "\0" in (pair.value or ""):
            raise InvalidArgument(
                f"{where}[{index}].value has a NUL character, which no variable can"
            )


def _validate_variable_name(name: str, where: str) -> None:
    # Of all white space only the blank is printable. Engines trim it, or refuse the name.
    if not name or "=" in name or " " in name or not name.isprintable():
        raise InvalidArgument(
            f"{where} {quote(name)} must not be empty or have '=', white space or control "
            "characters"
        )
    if name in KIT_VARIABLES:
        raise InvalidArgument(f"{where} {name} is reserved: every node is given it")
    if name.startswith(RESERVED_PREFIX):
        raise InvalidArgument(
            f"{where} {quote(name)} is reserved: names must not begin with {RESERVED_PREFIX}"
        )


def _validate_amounts(
    vcpus: int | None,
    memory: int | None,
    requirements: tuple[ResourceRequirement, ...],
    where: str,
) -> None:
    if vcpus is not None:
        _validate_size(vcpus, _LEAST[ResourceType.VCPU], f"{where}.vcpus")
    if memory is not None:
        _validate_size(memory, _LEAST[ResourceType.MEMORY], f"{where}.memory")
    seen: list[ResourceType] = []
    for index, requirement in enumerate(requirements):
        path = f"{where}.resourceRequirements[{index}]"
        if requirement.type in seen:
            raise InvalidArgument(f"{path}.type {requirement.type} is there twice")
        seen.append(requirement.type)
        value = requirement.value
        # AWS's words. Only ASCII digits: int() would also take signs, spaces and underscores.
        if not (value.isascii() and value.isdecimal()):
            raise InvalidArgument(
                f"Value {clip(value)} for type {requirement.type} in resourceRequirement is not "
                f"valid. Please provide a numeric value. ({path}.value)"
            )
        # The length first: int() itself refuses more than some thousand digits.
        size = int(value) if len(value) <= len(str(_MOST)) else _MOST + 1
        _validate_size(size, _LEAST[requirement.type], f"{path}.value")


def _validate_size(size: int, least: int, where: str, most: int = _MOST) -> None:
    if not least <= size <= most:
        shown = str(size) if abs(size) <= _MOST else "too large a number"
        raise InvalidArgument(f"{where} is {shown}; it must be {least} to {most}")


def _validate_volumes(volumes: tuple[Volume, ...], where: str) -> None:
    seen: list[str] = []
    for index, volume in enumerate(volumes):
        name = volume.name or ""
        plain = name.replace("-", "").replace("_", "")
        if len(name) > 255 or not (plain.isascii() and plain.isalnum()):
            raise InvalidArgument(
                f"{where}[{index}].name {quote(name)} must be 1 to 255 letters, digits, hyphens "
                f"and underscores"
            )
        if name in seen:
            raise InvalidArgument(f"{where}[{index}].name {quote(name)} is there twice")
        seen.append(name)
        if volume.host is not None and volume.host.source_path is not None:
            _validate_path(volume.host.source_path, f"{where}[{index}].host.sourcePath")


def _validate_mount_points(
    mount_points: tuple[MountPoint, ...], volumes: tuple[Volume, ...], where: str
) -> None:
    names = [volume.name for volume in volumes]
    for index, mount in enumerate(mount_points):
        if mount.source_volume is None or mount.source_volume not in names:
            raise InvalidArgument(
                f"{where}[{index}].sourceVolume {quote(mount.source_volume or '')} is not the "
                f"name of one of the container's volumes"
            )
        _validate_path(mount.container_path or "", f"{where}[{index}].containerPath")


def _validate_path(path: str, where: str) -> None:
    """Both engines take a path and what belongs to it as one text with ':' or ',' between. Every
    host refuses '..', so a job with it would wait for ever."""
    if not path.startswith("/") or not path.isprintable() or ":" in path or "," in path:
        raise InvalidArgument(
            f"{where} {quote(path)} must be an absolute path without ':', ',' or control characters"
        )
    if ".." in path.split("/"):
        raise InvalidArgument(f"{where} {quote(path)} must not have '..' as a part")


def _validate_targets(container: ContainerProperties, where: str) -> None:
    """Where things are mounted in the container; paths that were validated each by itself."""
    linux = container.linux_parameters or LinuxParameters()
    targets = [
        *(
            (mount.container_path or "", f"{where}.mountPoints[{index}].containerPath")
            for index, mount in enumerate(container.mount_points)
        ),
        *(
            (tmpfs.container_path, f"{where}.linuxParameters.tmpfs[{index}].containerPath")
            for index, tmpfs in enumerate(linux.tmpfs)
        ),
    ]
    seen: dict[str, str] = {}
    for written, path in targets:
        target = "/" + "/".join(part for part in written.split("/") if part not in ("", "."))
        if target == "/":
            raise InvalidArgument(f"{path} {quote(written)} must be a path below /")
        for reserved, why in RESERVED_TARGETS.items():
            if target == reserved or target.startswith(f"{reserved}/"):
                raise InvalidArgument(
                    f"{path} {quote(written)} must not be at or below {reserved}, which is {why}"
                )
        if target in seen:
            raise InvalidArgument(f"{path} {quote(written)} is there twice, as {seen[target]}")
        seen[target] = path


def _validate_ulimits(ulimits: Iterable[Ulimit], where: str) -> None:
    seen: list[str] = []
    for index, ulimit in enumerate(ulimits):
        path = f"{where}[{index}]"
        if ulimit.name not in ULIMITS:
            raise InvalidArgument(
                f"{path}.name {quote(ulimit.name)} is none of {', '.join(ULIMITS)}"
            )
        if ulimit.name in seen:
            raise InvalidArgument(f"{path}.name {ulimit.name} is there twice")
        seen.append(ulimit.name)
        _validate_size(ulimit.soft_limit, -1, f"{path}.softLimit")
        _validate_size(ulimit.hard_limit, -1, f"{path}.hardLimit")
        unlimited_soft = ulimit.soft_limit == -1
        if ulimit.hard_limit != -1 and (unlimited_soft or ulimit.soft_limit > ulimit.hard_limit):
            raise InvalidArgument(
                f"{path}.softLimit is {ulimit.soft_limit}; it must not be above the hardLimit, "
                f"{ulimit.hard_limit} (-1 is unlimited)"
            )


def _validate_linux_parameters(linux: LinuxParameters, where: str) -> None:
    for index, device in enumerate(linux.devices):
        _validate_path(device.host_path, f"{where}.devices[{index}].hostPath")
        if device.container_path is not None:
            _validate_path(device.container_path, f"{where}.devices[{index}].containerPath")
    for index, tmpfs in enumerate(linux.tmpfs):
        _validate_path(tmpfs.container_path, f"{where}.tmpfs[{index}].containerPath")
        _validate_size(tmpfs.size, 1, f"{where}.tmpfs[{index}].size")
        for position, mount_option in enumerate(tmpfs.mount_options):
            if not _MOUNT_OPTION.fullmatch(mount_option):
                raise InvalidArgument(
                    f"{where}.tmpfs[{index}].mountOptions[{position}] {quote(mount_option)} is no "
                    "mount option, such as noexec or mode=1777"
                )
    if linux.shared_memory_size is not None:
        _validate_size(linux.shared_memory_size, 1, f"{where}.sharedMemorySize")
    if linux.max_swap is not None:
        _validate_size(linux.max_swap, 0, f"{where}.maxSwap")
    if linux.swappiness is not None:
        _validate_size(linux.swappiness, 0, f"{where}.swappiness", most=100)
