"""A cluster on machines that were booted: a coordinator's machine, three hosts, and us outside."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.v1 import host_service_pb2, job_pb2
from tests.boot import installation
from tests.boot.containers import give_image, remove_all
from tests.boot.machine import Machine, machine
from tests.boot.network import Network, network
from tests.boot.process_list import left_on, nodes_on
from tests.boot.tree import tree
from tests.e2e.cluster import Cluster, definition
from tests.engines import IMAGE, PODMAN
from tests.wait import eventually, eventually_blocking
from tests.witness import Witness, node

HOSTS = ("h1", "h2", "h3")
PORT = 7400
WITNESS = "/srv/witness"
"""Where the witness's directory is in the machines, and in containers that mount it."""
LOST_SECONDS, VERDICT_SECONDS, LEASE_SECONDS = 3, 7, 10
GRACE_SECONDS, MARGIN_SECONDS, HEARTBEAT_SECONDS = 1, 1, 1
FENCED_SECONDS = LEASE_SECONDS + GRACE_SECONDS + MARGIN_SECONDS + HEARTBEAT_SECONDS
"""After so much silence the next attempt may start."""

_START_SECONDS = 30.0
_END_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Machines:
    """All machines of the cluster, and what they share with the test."""

    head: Machine
    hosts: Mapping[str, Machine]
    network: Network
    witness: Witness

    @property
    def all(self) -> list[Machine]:
        """The coordinator's machine first."""
        return [self.head, *self.hosts.values()]

    def runs(self, job_id: str) -> dict[str, str]:
        """Which node and attempt of a job, as `INDEX.ATTEMPT`, runs on which host, by the hosts'
        own lists; several are joined by a space."""
        found = {}
        for name, host in self.hosts.items():
            here = [node for node in nodes_on(host) if node.startswith(f"{job_id}#")]
            if here:
                found[name] = " ".join(sorted(node.partition("#")[2] for node in here))
        return found

    def consoles(self) -> str:
        """The end of each machine's console."""
        return "\n".join(made.console() for made in self.all)


def coordinator_settings(head: Machine) -> dict[str, str]:
    """Short times, so that every disturbance can be waited for."""
    return {
        "listen": json.dumps(f"{head.address}:{PORT}"),
        "insecure": "true",
        "heartbeat_seconds": str(HEARTBEAT_SECONDS),
        "lost_after_seconds": str(LOST_SECONDS),
        "verdict_after_seconds": str(VERDICT_SECONDS),
        "lease_seconds": str(LEASE_SECONDS),
        "stop_grace_seconds": str(GRACE_SECONDS),
        "fence_margin_seconds": str(MARGIN_SECONDS),
    }


def agent_settings(head: Machine, engine: str) -> dict[str, str]:
    """The name and the address of a host are left to what the machine says of itself."""
    settings = {"coordinator": json.dumps(f"{head.address}:{PORT}"), "engine": json.dumps(engine)}
    if engine == "podman":
        settings["engine_args"] = json.dumps(list(PODMAN.engine_args))
        settings["run_args"] = json.dumps(list(PODMAN.run_args))
        settings["allow_host_paths"] = json.dumps([f"{WITNESS}:rw"])
    return settings


@contextlib.contextmanager
def machines(directory: Path) -> Iterator[Machines]:
    """Booted, with Muster installed and running as the page says. Nothing of them is left, nor is
    the directory, which is theirs."""
    base = tree()
    seen = directory / "witness"
    seen.mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        lower = [installation.layer(directory / "installed", base), base]
        plugged_into = stack.enter_context(network())
        made = []
        for number, name in enumerate(("head", *HOSTS), 2):
            # An engine's own layers cannot lie on ours.
            containers = directory / f"{name}-containers"
            containers.mkdir()
            binds = {seen: WITNESS, containers: "/var/lib/containers"}
            made.append(
                stack.enter_context(
                    machine(name, number, directory / name, lower, plugged_into, binds,
                            installation.ENVIRONMENT)
                )
            )  # fmt: skip
        head, *hosts = made
        for each in made:
            each.power_on()
        for each in made:
            each.until_booted()
        _, on_head, on_host = installation.documented()
        installation.follow(head, on_head, "coordinator", coordinator_settings(head))
        for host in hosts:
            installation.follow(host, on_host, "agent", agent_settings(head, "process"))
        yield Machines(
            head=head,
            hosts={host.name: host for host in hosts},
            network=plugged_into,
            witness=Witness(seen),
        )


class BootedCluster(Cluster):
    """What a user asks of a cluster, and asks it through the network; no daemon is ours."""

    def __init__(self, directory: Path, made: Machines, engine: str) -> None:
        super().__init__(directory, listen=f"{made.head.address}:{PORT}")
        self.machines = made
        self.engine = engine
        self.witness = made.witness

    def story(self) -> str:
        """What the machines' consoles say, the daemons' logs among it."""
        return self.machines.consoles()

    async def until_version(self, host_id: str, version: str) -> None:
        """Until the agent of a host is of this release."""
        last: dict[str, str] = {}

        async def reached() -> bool:
            listed = await self.hosts.ListHosts(host_service_pb2.ListHostsRequest())
            last.update({host.host_id: host.agent_version for host in listed.hosts})
            return last[host_id] == version

        await eventually(reached, _START_SECONDS, lambda: f"{last}\n{self.story()}")

    async def until_running(self, name: str, nodes: int, **members: Any) -> str:
        """Submit a job of so many nodes whose main ends with 7 when it may, until all run."""
        made = job_of(name, nodes, self.engine, **members)
        job_id = await self.submit(await self.register(made))
        for index in range(nodes):
            await self.until(f"{job_id}#{index}", "RUNNING")
        return job_id

    async def host_of(self, node_id: str) -> str:
        """The host that a node was placed on."""
        detail = await self.describe(node_id)
        assert detail is not None
        return detail.container.container_instance_arn.rpartition("/")[2]

    async def until_answers(self) -> None:
        """Until the coordinator serves."""
        await self.hosts.ListHosts(
            host_service_pb2.ListHostsRequest(), wait_for_ready=True, timeout=_START_SECONDS
        )


def job_of(name: str, nodes: int, engine: str, **members: Any) -> dict[str, Any]:
    """A definition whose nodes tell the witness of their lives: main until it may end, then with
    exit code 7; its children until they are stopped."""
    groups = {"0": node(WITNESS, "go", "7")}
    if nodes > 1:
        groups[f"1:{nodes - 1}"] = node(WITNESS, "never", "0")
    made = definition(name, groups, num_nodes=nodes, image=IMAGE, **members)
    if engine == "podman":
        for group in made["nodeProperties"]["nodeRangeProperties"]:
            group["container"]["volumes"] = [{"name": "witness", "host": {"sourcePath": WITNESS}}]
            group["container"]["mountPoints"] = [
                {"sourceVolume": "witness", "containerPath": WITNESS}
            ]
    return made


def outcome(detail: job_pb2.JobDetail) -> tuple[str, list[int | None]]:
    """The state of a job, and the exit code of each of its attempts."""
    codes = [
        attempt.container.exit_code if attempt.container.HasField("exit_code") else None
        for attempt in detail.attempts
    ]
    return job_pb2.JobStatus.Name(detail.status), codes


@asynccontextmanager
async def booted(
    directory: Path, made: Machines, engine: str = "process"
) -> AsyncIterator[BootedCluster]:
    """The cluster as if nothing had been: every machine is on and reachable, the settings are as
    installed, no job is known and none runs, all hosts are FREE. A failure shows the consoles."""
    _reset(made, engine)
    c = BootedCluster(directory, made, engine)
    try:
        await c.until_answers()
        await c.until_hosts(dict.fromkeys(HOSTS, "FREE"), _START_SECONDS)
        yield c
    except BaseException as error:
        error.add_note(c.story())
        raise
    finally:
        await c.stop()


def _reset(made: Machines, engine: str) -> None:
    off = [each for each in made.all if not each.is_on]
    for each in off:
        each.power_on()
    for each in off:
        each.until_booted()
    for name, host in made.hosts.items():
        made.network.heal(name)
        # One that is stopped by a signal would not hear of its end.
        host.try_run("systemctl", "kill", "--signal=SIGCONT", "--kill-who=main", "muster-agent")
        host.sh("systemctl stop muster-agent; systemctl reset-failed")
        remove_all(host)
        _end_nodes(host)
        if engine == "podman":
            give_image(host)
        host.sh("rm -rf /var/lib/muster-agent")
        installation.write_settings(host, "agent", agent_settings(made.head, engine))
    made.witness.forget()
    made.head.sh(
        "systemctl stop muster-coordinator; systemctl reset-failed;"
        "rm -rf /var/lib/muster-coordinator; systemctl start muster-coordinator"
    )
    for host in made.hosts.values():
        host.sh("systemctl start --no-block muster-agent")


def _end_nodes(host: Machine) -> None:
    """Kill what an agent that lost its memory no longer knows, until there is nothing of it."""

    def ended() -> bool:
        left = left_on(host)
        if left:
            # Some may be gone by then.
            host.sh(f"kill -KILL {' '.join(map(str, left))} || true")
        return not left

    eventually_blocking(ended, _END_SECONDS, lambda: f"{left_on(host)}\n{host.console()}")
