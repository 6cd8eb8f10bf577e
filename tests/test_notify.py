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


@pytest.fixture(params=[agent.notify, coordinator.notify], ids=["agent", "coordinator"])
def notify(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """A daemon's module as it is at start, having seen no environment yet."""
    module: ModuleType = request.param
    module._socket_path.cache_clear()
    yield module
    module._socket_path.cache_clear()


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
