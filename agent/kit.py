"""The rendezvous kit: what every node is told of its gang, as variables and as files.

A directory for each node, mounted read-only into its container: `peers.json` for programs,
`hostfile` for mpirun, and, where a start barrier holds the command, the FIFO `gate` that it waits
on. AWS Batch's own variables are the coordinator's and are left alone. Must not import an engine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.core.assignment import ContainerSpec, Gang, Mount, NodeKey
from agent.host.tree import remove_tree

INSIDE = "/run/muster"
"""Where a container has its kit."""

_PEERS, _HOSTFILE, _GATE = "peers.json", "hostfile", "gate"


class Kit:
    """The kits of one host, below `directory`. `is_mounted` is False for an engine without
    containers, whose nodes see the host's own paths."""

    def __init__(self, directory: Path, *, is_mounted: bool) -> None:
        self._directory = directory.absolute()
        self._is_mounted = is_mounted
        self._open_gates: dict[NodeKey, int] = {}

    def equip(self, key: NodeKey, spec: ContainerSpec, gang: Gang, *, hold: bool) -> ContainerSpec:
        """The specification with its kit, which is written first. Idempotent, also after `lift`:
        a gate that has been opened stays open. Raises OSError."""
        own = self._directory / key.name
        inside = Path(INSIDE) if self._is_mounted else own
        own.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Whatever the umask: the job's user is not the agent's.
        own.chmod(0o755)
        _write(own / _PEERS, json.dumps(_peers(key, gang), indent=1) + "\n")
        _write(own / _HOSTFILE, _hostfile(gang))
        if hold and not (own / _GATE).exists():
            os.mkfifo(own / _GATE)
            (own / _GATE).chmod(0o644)
        variables = (
            ("MUSTER_NODE_ADDRESSES", ",".join(gang.addresses)),
            ("MUSTER_PEERS_FILE", str(inside / _PEERS)),
            ("MUSTER_HOSTFILE", str(inside / _HOSTFILE)),
        )
        mount = Mount(target=INSIDE, source=str(own), read_only=True)
        return replace(
            spec,
            environment=(*spec.environment, *variables),
            mounts=(*spec.mounts, mount) if self._is_mounted else spec.mounts,
            gate=str(inside / _GATE) if hold else "",
        )

    def lift(self, key: NodeKey) -> None:
        """Let the command go that waits on the gate, or that will. Idempotent. Raises OSError."""
        gate = self._directory / key.name / _GATE
        if not gate.is_fifo():
            return
        if key not in self._open_gates:
            # Open for both: this never waits for a reader, and what is written stays there for
            # one that comes later, as long as we hold it.
            self._open_gates[key] = os.open(gate, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        # First the one that waits, then whoever opens it from now on, and the next agent.
        os.write(self._open_gates[key], b"\n")
        _write(gate, "\n")

    def remove(self, key: NodeKey) -> None:
        """Nothing of the node is left. Idempotent. Raises OSError."""
        gate = self._open_gates.pop(key, None)
        if gate is not None:
            os.close(gate)
        remove_tree(self._directory / key.name)

    def keep_only(self, keys: Collection[NodeKey]) -> None:
        """Delete what an agent left that was killed before `remove`. Raises OSError."""
        names = [key.name for key in keys]
        for own in self._directory.iterdir() if self._directory.exists() else ():
            if own.name not in names:
                remove_tree(own)

    def close(self) -> None:
        """Let go of gates; they stay as they are."""
        for gate in self._open_gates.values():
            os.close(gate)
        self._open_gates.clear()


def _peers(key: NodeKey, gang: Gang) -> dict[str, Any]:
    return {
        "jobId": key.job_id,
        "attempt": key.attempt,
        "mainNode": gang.main_node,
        "numNodes": len(gang.addresses),
        "nodes": [
            {"nodeIndex": index, "privateIpv4Address": address, "hostId": host_id, "slots": slots}
            for index, (address, host_id, slots) in enumerate(
                zip(gang.addresses, gang.host_ids, gang.slots, strict=True)
            )
        ],
    }


def _hostfile(gang: Gang) -> str:
    """Open MPI's, by node index; two nodes never share an address, as they never share a host."""
    lines = zip(gang.addresses, gang.slots, strict=True)
    return "".join(f"{address} slots={slots}\n" for address, slots in lines)


def _write(path: Path, text: str) -> None:
    """All or nothing, as a node may be reading."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(0o644)
    temporary.rename(path)
