"""Control groups for one machine: its systemd believes that it has all of every hierarchy.

Machines that share a group would share the groups of their services too, and one's `systemctl stop`
would reach into the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.wait import eventually_blocking

_SETTLE_SECONDS = 10.0


@contextlib.contextmanager
def control_groups(name: str) -> Iterator[list[Path]]:
    """A new group `name` below this process's own, in each hierarchy. They and all below them are
    removed afterwards; AssertionError when something is still in them."""
    made = [group / name for group in _own_groups()]
    try:
        for group in made:
            group.mkdir()
            # Version 1 lets nothing into a group that may use no processor.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (group / file).exists():
                    (group / file).write_text((group.parent / file).read_text())
        yield made
    finally:
        eventually_blocking(
            lambda: not [group for group in made if not _removed(group)],
            _SETTLE_SECONDS,
            lambda: (
                f"control groups are in use: {[str(group) for group in made if group.exists()]}"
            ),
        )


def _own_groups() -> list[Path]:
    """The directories of the groups that this process is in."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        for _, point, kind, options, *_ in mounts:
            has_all = set(controllers.split(",")) <= set(options.split(","))
            if (kind == "cgroup2") if controllers == "" else (kind == "cgroup" and has_all):
                found.append(Path(point) / group.strip("/"))
                break
    return found


def _removed(group: Path) -> bool:
    """Remove a group and all below; whether it is gone."""
    if group.exists():
        below = sorted(path for path in group.rglob("*") if path.is_dir())
        for path in (*reversed(below), group):
            with contextlib.suppress(OSError):  # it is in use, or went away by itself
                path.rmdir()
    return not group.exists()
