"""One agent for each host id on a machine."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import pytest

from agent.host import machine_lock
from agent.host.machine_lock import MachineLock, Taken, runtime_directory


def test_the_second_agent_of_a_host_is_told_of_the_first(tmp_path: Path) -> None:
    first, second = MachineLock(tmp_path / "run", "h1"), MachineLock(tmp_path / "run", "h1")
    first.take()
    with pytest.raises(Taken, match=rf"another agent of host h1 .*pid {os.getpid()}\)"):
        second.take()
    other = MachineLock(tmp_path / "run", "h2")
    other.take()
    other.release()
    first.release()
    second.take()
    second.release()


def test_whoever_deletes_the_file_gives_nothing_away(tmp_path: Path) -> None:
    """As cleaners of temporary directories do, and a logout does with XDG_RUNTIME_DIR."""
    first, second = MachineLock(tmp_path / "run", "h1"), MachineLock(tmp_path / "run", "h1")
    first.take()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(Taken, match=rf"another agent of host h1 .*pid {os.getpid()}\)"):
        second.take()
    first.release()
    second.take()
    second.release()


def test_agents_of_one_user_meet_however_they_were_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One from a unit has no session, one from a shell has: their directories differ."""
    host_id = f"h-{uuid.uuid4()}"
    first, second = MachineLock(tmp_path / "a", host_id), MachineLock(tmp_path / "b", host_id)
    monkeypatch.setattr(machine_lock, "runtime_directory", lambda: tmp_path / "a")
    first.take()
    monkeypatch.setattr(machine_lock, "runtime_directory", lambda: tmp_path / "b")
    with pytest.raises(Taken, match="another agent of host"):
        second.take()
    first.release()


def test_a_directory_that_somebody_else_made_is_refused(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a directory away")
    theirs = tmp_path / "run"
    theirs.mkdir()
    os.chown(theirs, 12345, -1)
    with pytest.raises(OSError, match="not a directory of uid 0"):
        MachineLock(theirs, "h1").take()
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(OSError, match="not a directory of uid 0"):
        MachineLock(link, "h1").take()


def test_where_agents_of_one_user_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert runtime_directory() == Path("/run/muster-agent")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert runtime_directory() == Path("/run/user/1000/muster-agent")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_directory() == Path("/tmp/muster-agent-1000")
