"""Podman on the machines: the test's image, and what no daemon is to find any more."""

from __future__ import annotations

from tests.boot.machine import Machine
from tests.engines import IMAGE, PODMAN, RealEngine, import_image


def give_image(machine: Machine) -> None:
    """The test's image, brought in from outside; a machine has it once."""
    if machine.try_run(*PODMAN.argv, "image", "exists", IMAGE).returncode != 0:
        program, *words = [*machine.entrance, *PODMAN.argv]
        import_image(RealEngine(program, tuple(words), ()), IMAGE, [])


def remove_all(machine: Machine) -> None:
    """End and remove every container."""
    machine.run(*PODMAN.argv, "rm", "--all", "--force", "--time=0")
