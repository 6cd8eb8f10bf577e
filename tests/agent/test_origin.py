"""What rules a process out that hides whose it is, once the node's shim was killed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.assignment import NodeKey
from agent.host import origin, processes
from agent.host.origin import Origin, Shim
from agent.host.processes import Process

KEY = NodeKey(job_id=f"origin-{os.getpid()}", attempt=1, node_index=0)
HOME = b"4:memory:/x\n0::/a.slice/agent.service\n"


def process(pid: int) -> Process:
    found = processes.process(pid)
    assert found is not None
    return found


@pytest.fixture
def hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """A process of which nothing can be read that is not for everybody, in the control groups HOME.
    Nobody may write to a group there, but to those below the agent's own."""
    group = tmp_path / "cgroup" / "a.slice" / "agent.service"
    group.mkdir(parents=True)
    (group / "cgroup.procs").touch()
    monkeypatch.setattr(origin, "_CGROUPS", tmp_path / "cgroup")
    with subprocess.Popen(["sleep", "1000"]) as sleep:
        read = processes.environment
        monkeypatch.setattr(
            processes, "environment", lambda pid: None if pid == sleep.pid else read(pid)
        )
        lies_in(sleep.pid, HOME, monkeypatch)
        try:
            yield process(sleep.pid)
        finally:
            sleep.kill()


def lies_in(pid: int, group: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    read = processes.control_group
    monkeypatch.setattr(processes, "control_group", lambda of: group if of == pid else read(of))


def node(hidden: Process) -> Origin:
    """One whose shim was killed, and whose orphans are this process' children."""
    dead = Shim(pid=2**22, start_ticks=hidden.start_ticks, session=2**22, group=HOME)
    return Origin(key=KEY, shim=dead, heirs=(process(os.getpid()),))


def shim_of(found: Origin) -> Shim:
    assert found.shim is not None
    return found.shim


def test_what_nothing_rules_out_is_doubtful(hidden: Process) -> None:
    found = node(hidden).sort()
    assert (found.its, found.doubtful) == ((), (process(hidden.pid),))


@pytest.mark.parametrize(
    "ruled_out",
    [
        lambda it: replace(it, shim=replace(shim_of(it), start_ticks=shim_of(it).start_ticks + 1)),
        lambda it: replace(it, shim=replace(shim_of(it), ended_alone=True)),
        # Init gets the orphans, and this process has what is its own child.
        lambda it: replace(it, heirs=(process(1),)),
        # Nobody knows who gets them; what this agent has started is not one.
        lambda it: replace(it, heirs=()),
        # The command has never been run.
        lambda it: replace(it, shim=None, heirs=()),
    ],
    ids=["older", "alone", "another's child", "own call", "never ran"],
)
def test_what_everybody_can_read_rules_out(
    hidden: Process, ruled_out: Callable[[Origin], Origin]
) -> None:
    assert ruled_out(node(hidden)).sort().doubtful == ()


@pytest.mark.parametrize(
    ("group", "is_doubtful"),
    [
        (b"4:memory:/x\n0::/a.slice/agent.service/below", True),
        (b"0::/a.slice/agent.service", True),
        (b"", True),
        (b"4:memory:/x\n0::/a.slice", False),
        (b"4:memory:/x\n0::/a.slice/agent.service2", False),
        (b"4:memory:/x\n0::/user.slice/user-0.slice/session-1.scope", False),
    ],
)
def test_a_group_that_the_node_cannot_get_to(
    hidden: Process, group: bytes, is_doubtful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies_in(hidden.pid, group, monkeypatch)
    assert bool(node(hidden).sort().doubtful) is is_doubtful


def test_a_delegated_group_is_as_large_as_its_user_may_write(
    hidden: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies_in(hidden.pid, b"0::/a.slice/beside.service", monkeypatch)
    assert node(hidden).sort().doubtful == ()
    (tmp_path / "cgroup" / "a.slice" / "cgroup.procs").touch()
    assert node(hidden).sort().doubtful != ()


@pytest.mark.parametrize(
    ("home", "there", "is_doubtful"),
    [
        (b"0::/a.slice/agent.service", b"0::/a.slice/agent.service", True),
        (b"0::/a.slice/agent.service", b"0::/a.slice/agent.service/below", True),
        (b"0::/a.slice/agent.service", b"0::/a.slice/other.service", False),
        # Where a person works, others start as well.
        (b"0::/user.slice/session-1.scope", b"0::/user.slice/session-1.scope", False),
        (b"0::/", b"0::/", False),
        (b"", b"0::/a.slice/agent.service", False),
        (b"4:memory:/\n1:name=systemd:/a.service", b"4:memory:/\n1:name=systemd:/a.service", True),
        (b"4:memory:/\n1:name=systemd:/a.service", b"4:memory:/\n1:name=systemd:/b", False),
    ],
)
def test_who_has_dropped_its_variables_is_doubtful_in_the_service_of_its_agent(
    home: bytes, there: bytes, is_doubtful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["env", "-i", "sleep", "1000"], start_new_session=True) as sleep:
        try:
            lies_in(sleep.pid, there, monkeypatch)
            # This process too, as an agent that was started anew.
            lies_in(os.getpid(), there, monkeypatch)
            own = process(sleep.pid)
            dead = Shim(pid=2**22, start_ticks=own.start_ticks, session=2**22, group=home)
            found = Origin(key=KEY, shim=dead, heirs=(process(os.getpid()),))
            assert [each.pid for each in found.sort().doubtful] == [own.pid] * is_doubtful
            assert replace(found, heirs=(process(1),)).sort().doubtful == ()
            assert replace(found, shim=replace(dead, ended_alone=True)).sort().doubtful == ()
        finally:
            sleep.kill()


def test_who_is_in_the_commands_session_without_its_variables_is_doubtful() -> None:
    with subprocess.Popen(["env", "-i", "sleep", "1000"], start_new_session=True) as sleep:
        try:
            dead = Shim(pid=2**22, start_ticks=0, session=sleep.pid)
            found = Origin(key=KEY, shim=dead).sort()
            assert [each.pid for each in found.doubtful] == [sleep.pid]
            assert Origin(key=KEY, shim=replace(dead, ended_alone=True)).sort().doubtful == ()
        finally:
            sleep.kill()
