"""A look at this host that fails, as for want of a descriptor, says nothing of what is there."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator

import pytest

from agent.host import ports, processes


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    lowest = os.open("/", os.O_RDONLY)
    os.close(lowest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    "look",
    [
        processes.process,
        processes.environment,
        processes.arguments,
        processes.control_group,
        processes.namespace_depth,
        processes.may_be_an_engines,
        lambda pid: ports.unseen([pid]),
        lambda pid: ports.listened_on_by([pid]),
    ],
)
def test_what_could_not_be_looked_at_is_no_absence(look: Callable[[int], object]) -> None:
    """Of a host's processes it would be proof that nothing is left."""
    pid = os.getpid()
    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files"):
        look(pid)


def test_what_has_ended_is_absent() -> None:
    with open("/proc/sys/kernel/pid_max") as file:
        nobody = int(file.read())
    assert processes.process(nobody) is None
    assert processes.environment(nobody) == b""
    assert processes.arguments(nobody) == []
