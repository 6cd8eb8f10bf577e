"""Which nodes run on this host, by what their own processes say: whatever engine runs them, and
whatever has become of the agent's files. Must not import an engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.core.assignment import NodeKey
from agent.core.marks import CLUSTER_ID, HOST_ID, Marks
from agent.host import processes

NODE, DIRECTORY = "muster.node", "muster.directory"
"""Variables of a shim, beside its marks: whose it is, and where it writes."""
KEEPER = "muster-keeper"
"""In the command line of a keeper, before its lease file, its grace and the node's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundShim:
    """A living process that owns a node of the process engine."""

    key: NodeKey
    pid: int
    directory: Path
    marks: Marks


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundNode:
    """A node of which at least one process lives."""

    key: NodeKey
    cluster_id: str
    pid: int


def shims(host_id: str) -> list[FoundShim]:
    """Those of this host id, of this user. Reads all of /proc."""
    found = []
    for pid, variables in _everybody():
        key, marks = NodeKey.parse(variables.get(NODE, "")), Marks.read(variables)
        if key is None or marks is None or marks.host_id != host_id:
            continue
        if processes.may_be_an_agents(pid):
            directory = Path(variables.get(DIRECTORY, ""))
            found.append(FoundShim(key=key, pid=pid, directory=directory, marks=marks))
    return found


def keepers() -> dict[str, int]:
    """The pids of living keepers of this user, by the names of their nodes."""
    found = {}
    for pid in processes.pids():
        words = processes.arguments(pid)
        if KEEPER.encode() in words and processes.may_be_an_agents(pid):
            at = words.index(KEEPER.encode())
            found.update({os.fsdecode(name): pid for name in words[at + 3 : at + 4]})
    return found


def running(host_id: str) -> dict[NodeKey, FoundNode]:
    """Nodes of this host id with a living process, of any cluster and any engine. Reads all of
    /proc, and sees what this user may look into."""
    found: dict[NodeKey, FoundNode] = {}
    for pid, variables in _everybody():
        key = _key(variables) if variables.get(HOST_ID) == host_id else None
        if key is not None and key not in found:
            cluster_id = variables.get(CLUSTER_ID, "")
            found[key] = FoundNode(key=key, cluster_id=cluster_id, pid=pid)
    return found


def _key(variables: dict[str, str]) -> NodeKey | None:
    job_id, _, index = variables.get("AWS_BATCH_JOB_ID", "").partition("#")
    attempt = variables.get("AWS_BATCH_JOB_ATTEMPT", "")
    return NodeKey.parse(f"muster-{job_id}-{attempt}-{index or 0}")


def _everybody() -> Iterator[tuple[int, dict[str, str]]]:
    """The variables of every process that may be looked into, and that is not this one."""
    for pid in processes.pids():
        if pid == os.getpid():
            continue
        variables: dict[str, str] = {}
        for each in (processes.environment(pid) or b"").split(b"\0"):
            name, _, value = os.fsdecode(each).partition("=")
            variables.setdefault(name, value)
        yield pid, variables
