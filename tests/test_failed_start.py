"""A daemon that cannot start says why where a person looks, and its starts are further and further
apart."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent import main as agent_main
from agent.host import unit
from agent.ledger.sqlite import SqliteLedger
from tests.service_manager import service_manager

ROOT = Path(__file__).parents[1]
SHOWN = """\
#!/bin/sh
echo "$@" >>{asked}
echo MainPID={pid}
echo NRestarts=7
"""


def failed(daemon: str, *args: str, directory: Path) -> tuple[int, str, list[str]]:
    """The exit status of a start, what it wrote, and what systemd heard of it."""
    with service_manager(directory) as systemd:
        ended = subprocess.run(
            [sys.executable, "-m", daemon, *args],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "proto"))),
                **systemd.environment(),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return ended.returncode, ended.stderr, systemd.close()


@pytest.mark.parametrize("daemon", ["agent", "coordinator"])
def test_a_wrong_setting_is_shown_by_systemctl_status(daemon: str, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("data_dirr = '/d'\n")
    status, wrote, heard = failed(daemon, "--config", str(settings), directory=tmp_path)
    why = f"{settings}: unknown key data_dirr; did you mean data_dir?"
    assert status == 2
    assert wrote.splitlines()[-1] == f"muster-{daemon}: error: {why}"
    assert heard == [f"STATUS=wrong settings: {why}"]


@pytest.mark.parametrize("daemon", ["agent", "coordinator"])
def test_a_wrong_flag_is_in_the_log(daemon: str, tmp_path: Path) -> None:
    status, wrote, heard = failed(daemon, "--data-dri", "/d", directory=tmp_path)
    why = "unrecognized arguments: --data-dri /d; did you mean --data-dir?"
    assert (status, heard) == (2, [f"STATUS=wrong settings: {why}"])
    assert wrote.splitlines()[-1] == f"muster-{daemon}: error: {why}"


@pytest.mark.parametrize(
    ("daemon", "needed"),
    [("agent", ("--coordinator", "127.0.0.1:1", "--engine", "process")), ("coordinator", ())],
)
def test_a_data_directory_that_cannot_be_made_is_named(
    daemon: str, needed: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    status, wrote, heard = failed(
        daemon, *needed, "--data-dir", str(tmp_path / "file"), directory=tmp_path
    )
    path = tmp_path / "file"
    why = (
        f"cannot make data_dir {path}: File exists ({path}); name a directory that is there, or "
        "that this user can make"
    )
    assert (status, heard[-1]) == (1, f"STATUS={why}")
    assert wrote.splitlines()[-1] == f"muster-{daemon}: {why}"


def test_an_agent_whose_id_is_damaged_says_so_and_is_no_defect(tmp_path: Path) -> None:
    (tmp_path / "agent_uuid").touch()
    status, wrote, heard = failed(
        "agent", "--coordinator", "127.0.0.1:1", "--data-dir", str(tmp_path), "--imds-endpoint", "",
        "--engine", "process", "--private-ip", "127.0.0.1", directory=tmp_path,
    )  # fmt: skip
    assert (status, "Traceback" in wrote) == (1, False)
    assert heard[-1].startswith(f"STATUS={tmp_path}/agent_uuid holds '', not a UUID; restore it")


def test_a_coordinator_whose_port_is_taken_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        status, wrote, heard = failed(
            "coordinator", "--listen", listen, "--data-dir", str(tmp_path / "c"), directory=tmp_path
        )
    why = f"cannot listen on {listen}: Address already in use"
    assert status == 1
    assert wrote.splitlines()[-1] == f"muster-coordinator: {why}"
    assert f"STATUS={why}" in heard


def test_an_agent_whose_data_another_one_uses_says_so(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path)
    ledger.open("boot", "h1")
    status, wrote, heard = failed(
        "agent", "--coordinator", "127.0.0.1:1", "--data-dir", str(tmp_path), "--imds-endpoint", "",
        "--engine", "process", "--private-ip", "127.0.0.1", directory=tmp_path,
    )  # fmt: skip
    ledger.close()
    why = (
        f"{tmp_path}/agent.db: database is locked; another agent uses this data directory; stop "
        "it first"
    )
    assert status == 1
    assert wrote.splitlines()[-1] == f"muster-agent: {why}"
    assert heard[-1] == f"STATUS={why}"


def test_a_coordinator_that_cannot_open_its_journal_says_so(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"no journal" * 1000)
    status, wrote, heard = failed("coordinator", "--data-dir", str(tmp_path), directory=tmp_path)
    assert status == 1
    assert "this is not a journal" in wrote
    assert heard[-1].startswith("STATUS=")
    assert "this is not a journal" in heard[-1]


@pytest.mark.parametrize(
    ("restarts", "seconds_after_start", "pause"),
    [(0, 1, 0), (1, 0.5, 1.5), (2, 0, 4), (5, 2, 30), (6, 0, 60), (100_000, 0, 60), (3, 9, 0)],
)
def test_starts_that_fail_are_further_and_further_apart(
    restarts: int, seconds_after_start: float, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the first, and for the end of an agent that has run for a while."""
    paused: list[float] = []
    monkeypatch.setattr(agent_main, "automatic_restarts", lambda: restarts)
    monkeypatch.setattr(time, "monotonic", lambda: 1000 + seconds_after_start)
    monkeypatch.setattr(time, "sleep", paused.append)
    agent_main._fail(1000, "why")
    assert paused == [pause]


@pytest.mark.parametrize(
    ("group", "is_main", "expected"),
    [
        ("0::/system.slice/muster-agent.service\n", True, 7),
        ("5:cpu:/\n1:name=systemd:/a.slice/muster-agent.service\n0::/\n", True, 7),
        # Somebody who starts an agent in a terminal.
        ("0::/user.slice/user-0.slice/session-1.scope\n", True, 0),
        ("0::/system.slice/ssh.service\n", False, 0),
    ],
)
def test_systemd_counts_the_starts(
    group: str,
    is_main: bool,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    systemctl = tmp_path / "systemctl"
    pid = os.getpid() if is_main else os.getpid() + 1
    systemctl.write_text(SHOWN.format(asked=tmp_path / "asked", pid=pid))
    systemctl.chmod(0o755)
    control_group = tmp_path / "cgroup"
    control_group.write_text(group)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert unit.automatic_restarts(control_group) == expected
    if expected:
        asked = (tmp_path / "asked").read_text()
        assert asked == "show --property=MainPID,NRestarts muster-agent.service\n"


def test_without_systemd_nothing_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_group = tmp_path / "cgroup"
    control_group.write_text("0::/system.slice/muster-agent.service\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert unit.automatic_restarts(control_group) == 0
