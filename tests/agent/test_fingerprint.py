"""What an agent says of its machine, and the two ids that tell a reboot from a twin."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

import pytest

from agent.host.boot import agent_uuid, boot_id
from agent.host.fingerprint import fingerprint


def test_facts_of_this_machine_agree_with_the_kernel() -> None:
    facts = fingerprint()
    listed = Path("/proc/cpuinfo").read_text().count("processor\t")
    total_kib = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    assert facts.vcpus == listed or listed == 0
    assert facts.memory_mib == total_kib // 1024
    assert facts.kernel == Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert facts.hostname == socket.gethostname()
    assert facts.architecture == os.uname().machine
    assert facts.os_release


def test_boot_id_is_the_kernels() -> None:
    assert boot_id() == str(uuid.UUID(boot_id()))
    assert boot_id() == boot_id()


def test_agent_uuid_is_made_once(tmp_path: Path) -> None:
    made = agent_uuid(tmp_path)
    assert uuid.UUID(made).version == 4
    assert agent_uuid(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == ["agent_uuid"]


def test_agent_uuid_of_another_directory_is_another(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert agent_uuid(tmp_path / "a") != agent_uuid(tmp_path / "b")


def test_a_crash_before_the_rename_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as crash:
        crash.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            agent_uuid(tmp_path)
    assert not (tmp_path / "agent_uuid").exists()
    made = agent_uuid(tmp_path)
    assert agent_uuid(tmp_path) == made


def test_agent_uuid_is_on_disk_before_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
    )
    agent_uuid(tmp_path)
    assert synced == ["agent_uuid.new", tmp_path.name]


def test_a_damaged_agent_uuid_is_an_error_and_is_kept(tmp_path: Path) -> None:
    (tmp_path / "agent_uuid").write_text("")
    with pytest.raises(ValueError, match=r"agent_uuid holds '', not a UUID; restore it"):
        agent_uuid(tmp_path)
    assert (tmp_path / "agent_uuid").read_text() == ""
