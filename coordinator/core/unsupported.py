"""Members of a container that the engines cannot honour yet.

A definition that has them still registers and is shown as written. A job that would run with one
of them is refused by name, because a container that silently lacks its mount or its limit is
worse than none. Support for a member begins by deleting its row here. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator.core.container import ContainerProperties, LinuxParameters, ResourceType

# Output is captured by Muster itself, so a driver whose readers ask Muster or AWS needs nothing.
_CAPTURED_DRIVERS = ("awslogs", "json-file")

_LINUX: tuple[tuple[str, Callable[[LinuxParameters], bool]], ...] = (
    ("devices", lambda linux: bool(linux.devices)),
    ("initProcessEnabled", lambda linux: bool(linux.init_process_enabled)),
    ("sharedMemorySize", lambda linux: linux.shared_memory_size is not None),
    ("tmpfs", lambda linux: bool(linux.tmpfs)),
    ("maxSwap", lambda linux: linux.max_swap is not None),
    ("swappiness", lambda linux: linux.swappiness is not None),
)


def _asks_gpu(container: ContainerProperties) -> bool:
    return any(need.type is ResourceType.GPU for need in container.resource_requirements)


def _asks_log_driver(container: ContainerProperties) -> bool:
    log = container.log_configuration
    return log is not None and log.log_driver not in _CAPTURED_DRIVERS


_CONTAINER: tuple[tuple[str, Callable[[ContainerProperties], bool]], ...] = (
    ("volumes", lambda container: bool(container.volumes)),
    ("mountPoints", lambda container: bool(container.mount_points)),
    ("readonlyRootFilesystem", lambda container: bool(container.readonly_root_filesystem)),
    ("privileged", lambda container: bool(container.privileged)),
    ("ulimits", lambda container: bool(container.ulimits)),
    ("resourceRequirements of type GPU", _asks_gpu),
    ("secrets", lambda container: bool(container.secrets)),
    ("logConfiguration.logDriver", _asks_log_driver),
    ("repositoryCredentials", lambda container: container.repository_credentials is not None),
)


def unsupported_members(container: ContainerProperties, where: str) -> list[str]:
    """The paths, below `where`, of everything in the container that would not be honoured."""
    found = [f"{where}.{name}" for name, asks in _CONTAINER if asks(container)]
    linux = container.linux_parameters
    if linux is not None:
        found += [f"{where}.linuxParameters.{name}" for name, asks in _LINUX if asks(linux)]
    return found
