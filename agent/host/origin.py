"""Which processes of this host are a node's: each is, or is not, or cannot be judged.

A process is the node's by any of these: it has the node's variables, which every descendant
inherits; it is in the control group of the node's container, or below; it descends from one of
these, from the node's shim, or from the supervisor of its container.

What a container runs can leave neither its control group nor its process namespace. What a shim
owns cannot leave its shim, which ends alone when all of it has ended. So doubts are left only where
a shim was killed: by then its orphans have other parents. The variables of another user's process
(as what sudo runs), and of a program that may only be executed, are kept from an agent without
root. Such a process is not the node's if something says so that everybody can read: it is older
than the node; it belongs to the kernel; it descends from a process that is older than the node and
that could not have inherited an orphan of it; its control group is one that the node could not get
to. Otherwise it cannot be judged. Nor can what has dropped the node's variables (`env -i`, a title
that a daemon writes over them), in the session of the node's command, since a session's number is
given anew when all of it has ended, and in the agent's own systemd service, where nobody starts
anything but the agent and its nodes. Elsewhere what has dropped its variables, its session and its
shim is not found.

Must not import an engine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from agent.core.assignment import NodeKey
from agent.core.marks import HOST_ID
from agent.host import containers, processes
from agent.host.ids import ContainerId
from agent.host.processes import Process

_HOST = f"{HOST_ID}=".encode()

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Shim:
    """The process that owns a node's command; it is the agent's, not the node's.

    `session` is that of the command. `group` is what /proc/PID/cgroup said when the shim began;
    empty when nobody noted it. `ended_alone` says that the shim saw all of its descendants end.
    """

    pid: int
    start_ticks: int
    session: int
    group: bytes = b""
    ended_alone: bool = False

    def is_there(self, table: dict[int, Process]) -> bool:
        """Whether it lives, and no other process has its pid."""
        found = table.get(self.pid)
        return found is not None and found.is_alive and found.start_ticks == self.start_ticks


@dataclass(frozen=True, slots=True)
class Sorted:
    """Living processes, by pid. Those that are in neither are not the node's."""

    its: tuple[Process, ...]
    doubtful: tuple[Process, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is known of where a node's processes come from.

    `heirs` are the ancestors of the shim, the nearest first, which adopt its orphans: the nearest
    did adopt the shim, and the next does when that one has ended. There are none when nobody saw
    the shim alive.
    """

    key: NodeKey
    host_id: str = ""
    """Whose the node is. What says that it is of another host, whose agent is on this machine too,
    is not of this node. Empty when that does not matter."""
    container: ContainerId | None = None
    shim: Shim | None = None
    heirs: tuple[Process, ...] = ()

    @property
    def needs_sight(self) -> bool:
        """Whether its end is proven only by looking at all processes of the host."""
        return self.container is not None or self.leaves_doubts

    @property
    def leaves_doubts(self) -> bool:
        """Whether some of what is left could be such that it cannot be judged."""
        return self.shim is not None and not self.shim.ended_alone

    def seen(self) -> Origin:
        """The same, with what only shows while the shim lives."""
        if self.shim is None or self.heirs:
            return self
        now = processes.process(self.shim.pid)
        if now is None or not self.shim.is_there({now.pid: now}):
            return self
        above = tuple(processes.ancestors(now.pid, processes.process))
        # A launcher that has yet to end adopts nobody.
        is_adopted = os.getpid() not in [each.pid for each in above[1:2]]
        return replace(self, heirs=above if is_adopted else ())

    def sort(self) -> Sorted:
        """Look at every process of this host. Takes milliseconds."""
        table = processes.everybody()
        candidates = [each for each in table.values() if each.is_alive and self._is_younger(each)]
        blind: list[Process] = []
        own = {each.pid for each in candidates if self._shows(each, blind)}
        by_parent = processes.children(table)
        if self.container is not None:
            own |= _supervised(self.container, table, by_parent)
        above = own
        if self.shim is not None and self.shim.is_there(table):
            above = own | {self.shim.pid}
        below = processes.descendants(above, by_parent)
        its = own | {pid for pid in below if table[pid].is_alive}
        # Whatever this agent itself was started by.
        its.discard(os.getpid())
        doubtful = [each for each in self._doubts(candidates, blind, table) if each.pid not in its]
        return Sorted(_by_pid(table[pid] for pid in its), _by_pid(doubtful))

    def _is_younger(self, other: Process) -> bool:
        """Whether it may have been started by the node; init never was."""
        # In the same tick it may be either.
        return other.pid != 1 and (self.shim is None or other.start_ticks >= self.shim.start_ticks)

    def _shows(self, candidate: Process, blind: list[Process]) -> bool:
        """Whether it shows by itself that it is the node's; `blind` gets what hides it."""
        if self.container is not None and containers.has_group(
            processes.control_group(candidate.pid), self.container
        ):
            return True
        variables = processes.environment(candidate.pid)
        if variables is None:
            blind.append(candidate)
            return False
        return _has_variables(variables, self.key, self.host_id)

    def _doubts(
        self, candidates: list[Process], blind: list[Process], table: dict[int, Process]
    ) -> list[Process]:
        shim = self.shim
        if shim is None or not self.leaves_doubts or shim.is_there(table):
            return []
        mates = {each.pid for each in candidates if each.session == shim.session}
        hidden = {each.pid for each in blind if _could_get_to(shim.group, _group(each))}
        # The agent may have been started anew since, and by something that is there still.
        started_by = processes.ancestors(os.getpid(), table.get)
        dropped = {each.pid for each in candidates if _is_in_service(_group(each), shim.group)}
        dropped -= {os.getpid(), *(each.pid for each in started_by)}
        return [
            each
            for each in candidates
            if each.pid in mates
            or (each.pid in hidden | dropped and self._may_descend(each, table))
        ]

    def _may_descend(self, other: Process, table: dict[int, Process]) -> bool:
        """Whether it, or what it descends from, can be an orphan of the shim."""
        heir = self._heir(table)
        for above in processes.ancestors(other.pid, table.get):
            if above.pid == os.getpid() != heir:
                return False
            if not self._is_younger(above):
                return heir is None or above.pid == heir
        return True

    def _heir(self, table: dict[int, Process]) -> int | None:
        """Who has got the orphans of the shim; None when that is not known."""
        for each in self.heirs:
            now = table.get(each.pid)
            if now is not None and now.start_ticks == each.start_ticks:
                return each.pid
        return None


def _supervised(
    container: ContainerId, table: dict[int, Process], by_parent: dict[int, list[int]]
) -> set[int]:
    """What the container's supervisor started in a process namespace of its own: without a control
    group that is all that shows. Its other children do its own work."""
    own_depth = processes.namespace_depth(os.getpid())
    supervisors = [
        each.pid
        for each in table.values()
        if each.name in containers.SUPERVISOR_NAMES
        and containers.supervises(processes.arguments(each.pid), container)
        and processes.may_be_an_engines(each.pid)
    ]
    return {
        child
        for pid in supervisors
        for child in by_parent.get(pid, ())
        if table[child].is_alive and processes.namespace_depth(child) > own_depth
    }


def _by_pid(found: Iterable[Process]) -> tuple[Process, ...]:
    return tuple(sorted(found, key=lambda each: each.pid))


def _has_variables(environment: bytes, key: NodeKey, host_id: str) -> bool:
    variables = environment.split(b"\0")
    hosts = [each for each in variables if each.startswith(_HOST)]
    if host_id and hosts and _HOST + os.fsencode(host_id) not in hosts:
        return False
    job_ids = (f"{key.job_id}#{key.node_index}", key.job_id)
    return f"AWS_BATCH_JOB_ATTEMPT={key.attempt}".encode() in variables and any(
        f"AWS_BATCH_JOB_ID={job_id}".encode() in variables for job_id in job_ids
    )


def _group(process: Process) -> bytes:
    return processes.control_group(process.pid)


def _is_in_service(there: bytes, home: bytes) -> bool:
    """Whether the groups `there` are those of the systemd service whose are `home`, or below."""
    groups = dict(_paths(there))
    services = [(controllers, path) for controllers, path in _paths(home) if _is_service(path)]
    return bool(services) and all(
        _is_within(groups.get(controllers, "/"), path) for controllers, path in services
    )


def _is_service(path: str) -> bool:
    return path.endswith(".service")


def _could_get_to(home: bytes, there: bytes) -> bool:
    """Whether a process that began in the control groups `home`, and is not root, can be in the
    groups `there`; both are lines of /proc/PID/cgroup. What is not known rules nothing out."""
    groups = dict(_paths(there))
    return all(
        _is_within(groups[controllers], _delegated(controllers, path))
        for controllers, path in _paths(home)
        if controllers in groups
    )


def _paths(group: bytes) -> list[tuple[str, str]]:
    """(controllers, path) of each hierarchy; version 2 has no controllers."""
    lines = [line.split(":", 2) for line in os.fsdecode(group).splitlines()]
    return [(line[1], line[2]) for line in lines if len(line) == 3]


def _is_within(path: str, above: str) -> bool:
    return f"{path}/".startswith(f"{above.rstrip('/')}/")


def _delegated(controllers: str, path: str) -> str:
    """The highest group to which a process of this agent's user can get from `path`: up as far as
    that user may write, as below `user@.service`. The root where the hierarchy is not seen."""
    unified = _CGROUPS / "unified"
    if controllers:
        mounted = _CGROUPS / controllers.removeprefix("name=")
    else:
        mounted = unified if unified.is_dir() else _CGROUPS
    here = mounted / path.lstrip("/")
    if not (here / "cgroup.procs").exists():
        return "/"
    while here != mounted and os.access(here.parent / "cgroup.procs", os.W_OK):
        here = here.parent
    return f"/{here.relative_to(mounted)}" if here != mounted else "/"
