"""Members of a container that no engine here honours, with the values that need nothing.

A definition that has them still registers and is shown as written. A job that would run with one
of them is refused by name, because output that silently goes elsewhere is worse than none. No I/O.
"""

from __future__ import annotations

from coordinator.core.container import ContainerProperties

CAPTURED_DRIVERS = ("awslogs", "json-file")
"""Output is captured by Muster itself, so a driver whose readers ask Muster needs nothing."""


def unsupported_members(container: ContainerProperties, where: str) -> list[str]:
    """What in the container, below the path `where`, would not be honoured, in words."""
    log = container.log_configuration
    if log is None or log.log_driver in CAPTURED_DRIVERS:
        return []
    instead = f"leave it out or take {' or '.join(CAPTURED_DRIVERS)}"
    driver = f"{where}.logConfiguration.logDriver {log.log_driver}"
    return [f"{driver}: Muster captures output itself (muster logs); {instead}"]
