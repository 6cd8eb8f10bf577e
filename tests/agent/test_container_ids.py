"""What an engine prints is no id only because it stands where one should."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.assignment import ContainerSpec, NodeKey
from agent.engine.argv import Site
from agent.engine.keeping import Keepers
from agent.engine.podman import PodmanEngine
from agent.engine.port import EngineError
from agent.host import nodes
from agent.lease_file import Leases
from tests.wait import eventually

ID = "0123456789abcdef" * 4
KEY = NodeKey(job_id="ids", attempt=1, node_index=0)
SPEC = ContainerSpec(image="i", command=("c",), environment=(), vcpus=1, memory_mib=1)


@pytest.fixture(autouse=True)
def nobody_is_signalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An id that matches too much would end this machine."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda fd, number: sent.append((fd, number)))
    yield
    assert sent == []


def engine(tmp_path: Path, run: str, inspect: str = "") -> PodmanEngine:
    """One whose `run` prints this; it has the container that `inspect` prints, or none."""
    for name, text in (("run", run), ("inspect", inspect)):
        (tmp_path / name).write_text(text)
    binary = tmp_path / "podman"
    binary.write_text(
        f'#!/bin/sh\ncd {tmp_path}\ncase "$1" in run) cat run;; container) cat inspect; '
        '[ -s inspect ] || { echo "[]"; echo "Error: no such container" >&2; exit 1; };; esac\n'
    )
    binary.chmod(0o755)
    site = Site(host_id="h", private_ipv4="127.0.0.1")
    return PodmanEngine(str(binary), site, tmp_path / "spool", 1 << 20)


@pytest.mark.parametrize(
    "printed", ["", "\n", "WARNING: no swap\n", f"{ID[:12]}\n", f"{ID.upper()}\n"]
)
async def test_a_run_that_prints_no_id_makes_nothing_the_nodes(
    tmp_path: Path, printed: str, caplog: pytest.LogCaptureFixture
) -> None:
    podman = engine(tmp_path, printed)
    with pytest.raises(EngineError, match="vanished while it started"):
        await podman.start(KEY, SPEC)
    assert await podman._survivors.pids(KEY) == []
    assert not podman._survivors.knows(KEY)
    assert "is no container id: one has 64 lower-case hex digits" in caplog.text


async def test_the_id_is_the_last_line(tmp_path: Path) -> None:
    podman = engine(tmp_path, f"WARNING: no swap\n{ID}\n")
    with pytest.raises(EngineError, match="vanished while it started"):
        await podman.start(KEY, SPEC)
    assert podman._survivors.knows(KEY)


async def test_the_lease_of_another_hosts_node_is_not_opened(tmp_path: Path) -> None:
    """Its keeper runs on the same machine, for an agent of the same user."""
    other = Leases(tmp_path / "other" / "leases")
    other.set(KEY.name, None, 1)
    podman = engine(tmp_path, "")
    own = Leases(tmp_path / "own" / "leases")
    podman._keepers = Keepers(own, (str(tmp_path / "podman"),))
    keeping = await Keepers(other, ("true",))._keep(KEY, other.path(KEY.name), 1)
    try:
        await eventually(lambda: KEY.name in nodes.keepers(), 30, nodes.keepers)
        assert await podman.list_managed() == []
        assert own.ends_ms(KEY.name) == 1, "nobody holds it here"
    finally:
        other.remove(KEY.name)
        keeping.close()
        await eventually(lambda: KEY.name not in nodes.keepers(), 30, nodes.keepers)


@pytest.mark.parametrize(
    ("container", "pid", "conmon", "named"),
    [
        ("", 7, 8, r"'' is no container id"),
        (ID[1:], 7, 8, rf"'{ID[1:]}' is no container id"),
        (ID, 1, 8, "1 is no pid of a node"),
        (ID, 7, -1, "-1 is no pid of a node"),
    ],
)
async def test_a_record_of_another_form_is_an_error_that_names_it(
    tmp_path: Path, container: str, pid: int, conmon: int, named: str
) -> None:
    """And never a container that is gone."""
    state = (
        f'"Status": "running", "Pid": {pid}, "ConmonPid": {conmon}, "ExitCode": 0, '
        '"OOMKilled": false, "StartedAt": "2026-11-23T20:35:52Z", '
        '"FinishedAt": "0001-01-01T00:00:00Z"'
    )
    inspect = f'[{{"Id": "{container}", "Name": "{KEY.name}", "State": {{{state}}}}}]'
    podman = engine(tmp_path, "", inspect)
    for verb in (podman.wait(KEY), podman.kill(KEY), podman.remove(KEY)):
        with pytest.raises(EngineError, match=named):
            await verb
