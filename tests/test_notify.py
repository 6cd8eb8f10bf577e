"""What the daemons say to systemd, heard on a socket like systemd's."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import agent.notify
import coordinator.notify
from tests.service_manager import service_manager


@pytest.fixture(params=[agent.notify, coordinator.notify], ids=["agent", "coordinator"])
def notify(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """A daemon's module as it is at start, having seen no environment yet."""
    module: ModuleType = request.param
    module._asked.cache_clear()
    yield module
    module._asked.cache_clear()


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_systemd_hears_each_message(
    notify: ModuleType, abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"@muster-test-{uuid.uuid4()}" if abstract else f"{tmp_path}/notify"
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0"))
        systemd.settimeout(10)
        notify.status("replaying\n3 jobs")
        notify.ready()
        notify.stopping()
        heard = [systemd.recv(4096).decode() for _ in range(3)]
    assert heard == ["STATUS=replaying 3 jobs", "READY=1", "STOPPING=1"]


def test_children_do_not_inherit_the_socket(
    notify: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
    notify.status("starting")
    assert "NOTIFY_SOCKET" not in os.environ


def test_without_systemd_nothing_happens(
    notify: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready()
    notify.stopping()
    assert not caplog.records


def test_a_socket_that_is_gone_is_reported_and_does_not_end_the_daemon(
    notify: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/gone")
    notify.ready()
    assert f"cannot notify systemd: socket={tmp_path}/gone error=" in caplog.text


def test_systemd_hears_of_turns_as_often_as_is_due(
    notify: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(notify.time, "monotonic", lambda: now)
    with service_manager(tmp_path) as systemd:
        for name, value in systemd.environment(watchdog_seconds=60).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        watchdog = notify.Watchdog()
        left = {"WATCHDOG_USEC", "WATCHDOG_PID", "NOTIFY_SOCKET"} & set(os.environ)
        told = []
        for now in (100.0, 101.0, 129.9, 130.0, 130.1, 175.0, 175.1):
            # An idle daemon waits until the next word is due, and others as long as they would.
            waits = (watchdog.wait_seconds(None), watchdog.wait_seconds(7.0))
            watchdog.turned()
            notify.status(str(now))
            told.append((now, *(round(seconds, 3) for seconds in waits)))
        said = systemd.close()
    assert left == set()
    assert told == [
        (100.0, 0.0, 0.0),
        (101.0, 29.0, 7.0),
        (129.9, 0.1, 0.1),
        (130.0, 0.0, 0.0),
        (130.1, 29.9, 7.0),
        (175.0, 0.0, 0.0),
        (175.1, 29.9, 7.0),
    ]
    words = [number for number, word in enumerate(said) if word == "WATCHDOG=1"]
    assert [said[number + 1] for number in words] == [
        "STATUS=100.0",
        "STATUS=130.0",
        "STATUS=175.0",
    ]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"NOTIFY_SOCKET": "/nowhere"},
        {"WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
)
def test_nothing_wakes_a_daemon_where_no_word_is_asked_for(
    notify: ModuleType,
    given: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    watchdog = notify.Watchdog()
    watchdog.turned()
    assert (watchdog.wait_seconds(None), watchdog.wait_seconds(3600.0)) == (None, 3600.0)
    assert not caplog.records


def test_a_systemd_that_does_not_read_does_not_stop_the_daemon(
    notify: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(notify, "SEND_SECONDS", 0.001)
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{tmp_path}/notify")
        while not caplog.records:
            notify.status("another")
    assert "cannot notify systemd" in caplog.text
