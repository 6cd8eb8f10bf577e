"""The container half of a job definition: AWS Batch's shapes as values.

Member names are AWS's in snake case, so conversion to and from the wire and the journal is by
name. None means the member was absent; an empty tuple means absent or empty, which AWS does not
tell apart either (aws-batch-evidence section 4.2). No I/O, no protobuf.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class ResourceType(StrEnum):
    GPU = "GPU"
    VCPU = "VCPU"
    MEMORY = "MEMORY"


class DevicePermission(StrEnum):
    READ = "READ"
    WRITE = "WRITE"
    MKNOD = "MKNOD"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValuePair:
    name: str | None = None
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceRequirement:
    type: ResourceType
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit:
    name: str
    soft_limit: int
    hard_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPoint:
    container_path: str | None = None
    read_only: bool | None = None
    source_volume: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeHost:
    source_path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    name: str | None = None
    host: VolumeHost | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    host_path: str
    container_path: str | None = None
    permissions: tuple[DevicePermission, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    container_path: str
    size: int
    mount_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxParameters:
    devices: tuple[Device, ...] = ()
    init_process_enabled: bool | None = None
    shared_memory_size: int | None = None
    tmpfs: tuple[Tmpfs, ...] = ()
    max_swap: int | None = None
    swappiness: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    name: str
    value_from: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfiguration:
    log_driver: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryCredentials:
    credentials_parameter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerProperties:
    """aws-batch-evidence section 4.2. `vcpus` and `memory` are the deprecated spelling of the
    VCPU and MEMORY requirements; `command` keeps its `Ref::` placeholders."""

    image: str | None = None
    vcpus: int | None = None
    memory: int | None = None
    command: tuple[str, ...] = ()
    job_role_arn: str | None = None
    execution_role_arn: str | None = None
    volumes: tuple[Volume, ...] = ()
    environment: tuple[KeyValuePair, ...] = ()
    mount_points: tuple[MountPoint, ...] = ()
    readonly_root_filesystem: bool | None = None
    privileged: bool | None = None
    ulimits: tuple[Ulimit, ...] = ()
    user: str | None = None
    instance_type: str | None = None
    resource_requirements: tuple[ResourceRequirement, ...] = ()
    linux_parameters: LinuxParameters | None = None
    log_configuration: LogConfiguration | None = None
    secrets: tuple[Secret, ...] = ()
    enable_execute_command: bool | None = None
    repository_credentials: RepositoryCredentials | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOverrides:
    """What SubmitJob may change of a container (aws-batch-evidence section 5.1)."""

    vcpus: int | None = None
    memory: int | None = None
    command: tuple[str, ...] = ()
    instance_type: str | None = None
    environment: tuple[KeyValuePair, ...] = ()
    resource_requirements: tuple[ResourceRequirement, ...] = ()
