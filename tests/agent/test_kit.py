"""The rendezvous kit: what is in it, and a gate that opens once and for good."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

from agent.core.assignment import ContainerSpec, Gang, Mount, NodeKey
from agent.kit import INSIDE, Kit
from tests.wait import eventually

KEY = NodeKey(job_id="job", attempt=2, node_index=1)
SPEC = ContainerSpec(
    image="image", command=("run",), environment=(("A", "b"),), vcpus=1, memory_mib=64
)
GANG = Gang(main_node=0, addresses=("10.0.0.1", "10.0.0.2"), host_ids=("h1", "h2"), slots=(4, 8))


def test_a_container_finds_its_kit_mounted(tmp_path: Path) -> None:
    spec = Kit(tmp_path, is_mounted=True).equip(KEY, SPEC, GANG, hold=False)
    own = tmp_path / KEY.name
    assert spec.mounts == (Mount(target=INSIDE, source=str(own), read_only=True),)
    assert spec.environment == (
        ("A", "b"),
        ("MUSTER_NODE_ADDRESSES", "10.0.0.1,10.0.0.2"),
        ("MUSTER_PEERS_FILE", f"{INSIDE}/peers.json"),
        ("MUSTER_HOSTFILE", f"{INSIDE}/hostfile"),
    )
    assert spec.gate == ""
    assert (own / "hostfile").read_text() == "10.0.0.1 slots=4\n10.0.0.2 slots=8\n"
    assert json.loads((own / "peers.json").read_text()) == {
        "jobId": "job",
        "attempt": 2,
        "mainNode": 0,
        "numNodes": 2,
        "nodes": [
            {"nodeIndex": 0, "privateIpv4Address": "10.0.0.1", "hostId": "h1", "slots": 4},
            {"nodeIndex": 1, "privateIpv4Address": "10.0.0.2", "hostId": "h2", "slots": 8},
        ],
    }


def test_a_process_finds_its_kit_where_it_is(tmp_path: Path) -> None:
    spec = Kit(tmp_path, is_mounted=False).equip(KEY, SPEC, GANG, hold=True)
    assert spec.mounts == ()
    variables = dict(spec.environment)
    assert Path(variables["MUSTER_HOSTFILE"]).read_text().count("\n") == 2
    assert Path(spec.gate).is_fifo()


def test_any_user_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        Kit(tmp_path, is_mounted=True).equip(KEY, SPEC, GANG, hold=True)
    finally:
        os.umask(before)
    own = tmp_path / KEY.name
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (own, *own.iterdir())}
    assert modes == {KEY.name: 0o755, "peers.json": 0o644, "hostfile": 0o644, "gate": 0o644}


def waiting(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A command behind the gate, as engines start it."""
    gate = tmp_path / KEY.name / "gate"
    return subprocess.Popen(["sh", "-c", f"read -r _ < {gate}"])


async def test_who_waits_and_who_comes_later_both_go_on(tmp_path: Path) -> None:
    kit = Kit(tmp_path, is_mounted=True)
    kit.equip(KEY, SPEC, GANG, hold=True)
    first = waiting(tmp_path)
    assert first.poll() is None
    kit.lift(KEY)
    kit.lift(KEY)

    async def ended() -> bool:
        return first.poll() is not None

    await eventually(ended, 10, lambda: "still waits")
    assert first.returncode == 0
    assert waiting(tmp_path).wait(10) == 0
    # The next agent repeats what it does not know to be done.
    kit.close()
    again = Kit(tmp_path, is_mounted=True)
    again.lift(KEY)
    assert again.equip(KEY, SPEC, GANG, hold=True).gate == f"{INSIDE}/gate"
    assert waiting(tmp_path).wait(10) == 0
    again.close()


def test_what_is_left_is_removed(tmp_path: Path) -> None:
    kit = Kit(tmp_path, is_mounted=True)
    other = NodeKey(job_id="other", attempt=1, node_index=0)
    for key in (KEY, other):
        kit.equip(key, SPEC, GANG, hold=True)
        kit.lift(key)
    kit.remove(KEY)
    kit.remove(KEY)
    assert [path.name for path in tmp_path.iterdir()] == [other.name]
    kit.close()
    Kit(tmp_path, is_mounted=True).keep_only([KEY])
    assert list(tmp_path.iterdir()) == []
