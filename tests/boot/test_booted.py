"""Muster as it is installed: four machines that boot, its units, and jobs that are run from outside
while daemons, machines, settings, disks and cables are disturbed.

After each disturbance the machines' own lists say what runs where, and the nodes themselves say
when they lived.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.boot import installation
from tests.boot.cluster import (
    FENCED_SECONDS,
    HOSTS,
    LEASE_SECONDS,
    VERDICT_SECONDS,
    BootedCluster,
    Machines,
    agent_settings,
    booted,
    job_of,
    machines,
    outcome,
)
from tests.boot.machine import Machine
from tests.wait import eventually

pytestmark = [pytest.mark.real("boot"), pytest.mark.limit(480)]

# On top of what a promise allows: four machines share the processors of one.
SLACK_SECONDS = 20.0
SOON_SECONDS = 15.0
SETTLED_SECONDS = 7.0
WATCHDOG_SECONDS = 3


TWICE = {"attempts": 2}
ENGINES = ["process", pytest.param("podman", marks=pytest.mark.real("busybox"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """All tests share the machines; `booted` makes them as if nothing had been."""
    before = leaks.snapshot()
    with machines(tmp_path_factory.mktemp("boot")) as made:
        yield made
    assert leaks.left_behind(before) == []


async def until_runs(c: BootedCluster, job_id: str, *nodes: str) -> dict[str, str]:
    """Until exactly these nodes of a job, as `INDEX.ATTEMPT`, run, one a host, by the hosts' own
    lists; which runs where."""
    await eventually(
        lambda: sorted(c.machines.runs(job_id).values()) == sorted(nodes),
        SOON_SECONDS,
        lambda: f"{c.machines.runs(job_id)}\n{c.story()}",
    )
    return c.machines.runs(job_id)


async def until_settled(c: BootedCluster, job_id: str) -> None:
    """Until a second attempt runs, or until one that may start has had the time for it. Both show
    for another second that they live, if they do."""
    end = time.monotonic() + FENCED_SECONDS + SETTLED_SECONDS
    await eventually(
        lambda: 2 in c.witness.lives(job_id) or time.monotonic() > end,
        FENCED_SECONDS + 2 * SLACK_SECONDS,
        c.story,
    )
    await time_passes(c, 1)


async def time_passes(c: BootedCluster, seconds: float) -> None:
    """What must not happen is given time to happen."""
    end = time.monotonic() + seconds
    await eventually(lambda: time.monotonic() > end, seconds + SLACK_SECONDS, c.story)


async def ends_as_main(c: BootedCluster, job_id: str, nodes: int, *codes: int | None) -> None:
    """Let main end; the job has to end with its code, in so many attempts, and leave nothing."""
    c.witness.let_end()
    done = await c.until(job_id, "FAILED")
    assert outcome(done) == ("FAILED", list(codes))
    await c.until_gone(job_id)
    assert c.machines.runs(job_id) == {}
    c.witness.no_two_attempts(job_id)
    last = len(codes)
    assert c.witness.said(f"{job_id}#0", last) == ["started", "ended"]
    for index in range(1, nodes):
        assert c.witness.said(f"{job_id}#{index}", last) == ["started", "stopped"]
    await c.until_hosts(dict.fromkeys(HOSTS, "FREE"))


# as installed


async def test_the_commands_of_the_page_start_everything(made: Machines, tmp_path: Path) -> None:
    async with booted(tmp_path, made) as c:
        for machine in made.all:
            assert machine.run("systemctl", "--failed", "--plain", "--no-legend") == ""
        pid = main_pid(made.head, "muster-coordinator")
        owner = made.head.path(f"/proc/{pid}").stat().st_uid
        assert owner == int(made.head.run("id", "--user", "muster"))
        listed = await c.muster("hosts")
        for name, host in made.hosts.items():
            assert name in listed
            assert host.address in listed


def main_pid(machine: Machine, unit: str) -> int:
    """Of a unit's daemon, as the machine counts."""
    pid = int(machine.run("systemctl", "show", "--property=MainPID", "--value", unit))
    assert pid != 0, f"{unit} does not run\n{machine.console()}"
    return pid


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_job_of_three_nodes(made: Machines, tmp_path: Path, engine: str) -> None:
    async with booted(tmp_path, made, engine) as c:
        job_id = await c.until_running("three", 3)
        runs = await until_runs(c, job_id, "0.1", "1.1", "2.1")
        placed = {await c.host_of(f"{job_id}#{index}"): f"{index}.1" for index in range(3)}
        assert runs == placed
        await ends_as_main(c, job_id, 3, 7)


# daemons


@pytest.mark.parametrize(
    ("engine", "is_upgraded"), [("process", False), ("process", True), ("podman", False)]
)
@pytest.mark.real("busybox")
async def test_a_job_outlives_its_agents(
    made: Machines, tmp_path: Path, engine: str, is_upgraded: bool
) -> None:
    async with booted(tmp_path, made, engine) as c:
        job_id = await c.until_running("agents", 3)
        runs = await until_runs(c, job_id, "0.1", "1.1", "2.1")
        main = await c.host_of(f"{job_id}#0")
        old = main_pid(made.hosts[main], "muster-agent")
        if is_upgraded:
            installation.upgrade(made.hosts[main], "99.1")
        made.hosts[main].sh("systemctl restart muster-agent")
        assert main_pid(made.hosts[main], "muster-agent") != old
        await c.until_hosts({main: "BUSY"})
        if is_upgraded:
            await c.until_version(main, "99.1")
        assert made.runs(job_id) == runs
        await ends_as_main(c, job_id, 3, 7)


@pytest.mark.parametrize("is_upgraded", [False, True], ids=["restarted", "upgraded"])
async def test_a_job_outlives_its_coordinator(
    made: Machines, tmp_path: Path, is_upgraded: bool
) -> None:
    async with booted(tmp_path, made) as c:
        job_id = await c.until_running("coordinator", 3)
        runs = await until_runs(c, job_id, "0.1", "1.1", "2.1")
        old = main_pid(made.head, "muster-coordinator")
        if is_upgraded:
            installation.upgrade(made.head, "99.1")
        made.head.sh("systemctl restart muster-coordinator")
        assert main_pid(made.head, "muster-coordinator") != old
        await c.until_hosts(dict.fromkeys(HOSTS, "BUSY"))
        assert made.runs(job_id) == runs
        await ends_as_main(c, job_id, 3, 7)


async def test_a_job_outlives_a_coordinator_that_is_stopped_for_longer_than_the_verdict(
    made: Machines, tmp_path: Path
) -> None:
    async with booted(tmp_path, made) as c:
        job_id = await c.until_running("stopped", 3)
        runs = await until_runs(c, job_id, "0.1", "1.1", "2.1")
        made.head.sh("systemctl stop muster-coordinator")
        await time_passes(c, VERDICT_SECONDS + 1)
        made.head.sh("systemctl start muster-coordinator")
        await c.until_hosts(dict.fromkeys(HOSTS, "BUSY"))
        assert made.runs(job_id) == runs
        await ends_as_main(c, job_id, 3, 7)


@contextlib.contextmanager
def hanging_is_noticed_soon(machine: Machine, unit: str) -> Iterator[None]:
    """As the unit's own limit, in seconds instead of minutes."""
    directory = f"/run/systemd/system/{unit}.service.d"
    machine.sh(
        f"mkdir -p {directory}; printf '[Service]\\nWatchdogSec={WATCHDOG_SECONDS}\\n' "
        f">{directory}/soon.conf; systemctl daemon-reload; systemctl restart {unit}"
    )
    try:
        yield
    finally:
        machine.sh(f"rm -r {directory}; systemctl daemon-reload")


async def until_replaced(c: BootedCluster, machine: Machine, unit: str, pid: int) -> None:
    """Until systemd has ended a daemon that hangs and started another, by itself; its log says
    where the old one was."""

    def replaced() -> bool:
        shown = machine.run("systemctl", "show", "--property=MainPID,SubState", unit).split()
        return f"MainPID={pid}" not in shown and "SubState=running" in shown

    await eventually(replaced, WATCHDOG_SECONDS + SLACK_SECONDS, c.story)
    assert "watchdog timeout" in machine.run("journalctl", "--output=cat", "--unit", unit).lower()
    assert "Fatal Python error: Aborted" in machine.run(
        "journalctl", "--output=cat", "--unit", unit
    )


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_job_outlives_an_agent_that_hangs(
    made: Machines, tmp_path: Path, engine: str
) -> None:
    """One that is started again before the verdict."""
    async with booted(tmp_path, made, engine) as c:
        host = made.hosts["h2"]
        with hanging_is_noticed_soon(host, "muster-agent"):
            await c.until_hosts(dict.fromkeys(HOSTS, "FREE"))
            job_id = await c.until_running("hangs", 3, verdictAfterSeconds=120)
            runs = await until_runs(c, job_id, "0.1", "1.1", "2.1")
            pid = main_pid(host, "muster-agent")
            hang(host, "muster-agent")
            await until_replaced(c, host, "muster-agent", pid)
            await c.until_hosts({"h2": "BUSY"})
            assert made.runs(job_id) == runs
            await ends_as_main(c, job_id, 3, 7)


async def test_a_job_outlives_a_coordinator_that_hangs(made: Machines, tmp_path: Path) -> None:
    async with booted(tmp_path, made) as c:
        with hanging_is_noticed_soon(made.head, "muster-coordinator"):
            await c.until_answers()
            job_id = await c.until_running("hangs", 3)
            runs = await until_runs(c, job_id, "0.1", "1.1", "2.1")
            pid = main_pid(made.head, "muster-coordinator")
            hang(made.head, "muster-coordinator")
            await until_replaced(c, made.head, "muster-coordinator", pid)
            await c.until_hosts(dict.fromkeys(HOSTS, "BUSY"))
            assert made.runs(job_id) == runs
            await ends_as_main(c, job_id, 3, 7)


async def test_an_agent_is_back_by_itself_once_its_settings_are_right(
    made: Machines, tmp_path: Path
) -> None:
    async with booted(tmp_path, made) as c:
        job_id = await c.until_running("settings", 3)
        runs = await until_runs(c, job_id, "0.1", "1.1", "2.1")
        main = await c.host_of(f"{job_id}#0")
        host = made.hosts[main]
        break_settings(host)
        host.try_run("systemctl", "restart", "muster-agent")
        # What ran goes on, as under any agent that was stopped.
        await c.until_hosts({main: "STOPPED"})
        why = "unknown key coordinater; did you mean coordinator?"
        shown = ("systemctl", "show", "--property=StatusText,NRestarts", "muster-agent")
        # systemd forgets the text whenever it starts the agent anew.
        await eventually(
            lambda: why in (text := host.run(*shown)) and "NRestarts=2" in text,
            SOON_SECONDS,
            lambda: f"{host.run(*shown)}\n{c.story()}",
        )
        await eventually(
            lambda: why in host.try_run("systemctl", "status", "muster-agent").stdout,
            SOON_SECONDS,
            lambda: f"{host.run(*shown)}\n{c.story()}",
        )
        installation.write_settings(host, "agent", agent_settings(made.head, "process"))
        await c.until_hosts({main: "BUSY"}, SOON_SECONDS + SLACK_SECONDS)
        assert made.runs(job_id) == runs
        await ends_as_main(c, job_id, 3, 7)


def break_settings(host: Machine) -> None:
    """As by somebody who mistypes."""
    file = host.path("/etc/muster/agent.toml")
    file.write_text("coordinater = true\n" + file.read_text())


def stop(host: Machine) -> None:
    host.sh("systemctl stop muster-agent")


def cannot_start(host: Machine) -> None:
    break_settings(host)
    host.try_run("systemctl", "restart", "muster-agent")


def dies_and_cannot_start(host: Machine) -> None:
    break_settings(host)
    host.sh("systemctl kill --signal=SIGKILL --kill-who=main muster-agent")


def hang(machine: Machine, unit: str = "muster-agent") -> None:
    machine.sh(f"systemctl kill --signal=SIGSTOP --kill-who=main {unit}")


@pytest.mark.parametrize(
    ("put_away", "engine"),
    [
        (stop, "process"),
        pytest.param(stop, "podman", marks=pytest.mark.real("busybox")),
        (cannot_start, "process"),
        (dies_and_cannot_start, "process"),
        (hang, "process"),
    ],
)
async def test_an_agent_that_is_away_for_longer_than_the_lease(
    made: Machines, tmp_path: Path, put_away: Callable[[Machine], None], engine: str
) -> None:
    """What it has started ends, or nothing is started beside it."""
    async with booted(tmp_path, made, engine) as c:
        job_id = await c.until_running("away", 2, retryStrategy=TWICE)
        put_away(made.hosts[await c.host_of(f"{job_id}#0")])
        await until_settled(c, job_id)
        c.witness.no_two_attempts(job_id)


async def test_an_agent_whose_ledger_is_damaged(made: Machines, tmp_path: Path) -> None:
    """It says so, keeps what is left for a person to look at, and finds what it had started."""
    async with booted(tmp_path, made) as c:
        job_id = await c.until_running("damaged", 2, retryStrategy=TWICE)
        runs = await until_runs(c, job_id, "0.1", "1.1")
        host = made.hosts[await c.host_of(f"{job_id}#0")]
        host.sh(
            "systemctl kill --signal=SIGKILL --kill-who=main muster-agent;"
            "for file in /var/lib/muster-agent/agent.db*; do"
            " head -c 8192 /dev/urandom >$file; done"
        )
        log = ["journalctl", "--output=cat", "--unit=muster-agent"]
        said = "agent.db is damaged: file is not a database. It is kept as agent.db.damaged-"
        await eventually(lambda: said in host.run(*log), SOON_SECONDS, c.story)
        assert "agent.db.damaged-" in host.run("ls", "/var/lib/muster-agent")
        await time_passes(c, LEASE_SECONDS + 1)
        assert made.runs(job_id) == runs
        c.witness.let_end()
        # Its main fails both times.
        assert outcome(await c.until(job_id, "FAILED")) == ("FAILED", [7, 7])
        c.witness.no_two_attempts(job_id)
        assert c.witness.said(f"{job_id}#0", 1) == ["started", "ended"]
        await c.until_gone(job_id)


@pytest.mark.parametrize("engine", ENGINES)
async def test_an_agent_whose_data_directory_is_gone(
    made: Machines, tmp_path: Path, engine: str
) -> None:
    """What it has started goes on and is its own again, or ends before anything is started
    beside it."""
    async with booted(tmp_path, made, engine) as c:
        job_id = await c.until_running("wiped", 2, retryStrategy=TWICE)
        host = made.hosts[await c.host_of(f"{job_id}#0")]
        # Without a goodbye.
        host.sh("systemctl kill --signal=SIGKILL --kill-who=main muster-agent")
        host.sh("rm -rf /var/lib/muster-agent; systemctl restart muster-agent")
        await until_settled(c, job_id)
        c.witness.no_two_attempts(job_id)


# machines and cables


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_reboot_ends_the_attempt_and_the_next_one_runs(
    made: Machines, tmp_path: Path, engine: str
) -> None:
    async with booted(tmp_path, made, engine) as c:
        job_id = await c.until_running("reboot", 3, retryStrategy=TWICE)
        main = await c.host_of(f"{job_id}#0")
        made.hosts[main].reboot()
        await c.until(job_id, lambda detail: len(detail.attempts) == 1, SOON_SECONDS)
        await until_runs(c, job_id, "0.2", "1.2", "2.2")
        first = await c.describe(job_id)
        assert first is not None
        assert first.attempts[0].status_reason == f"Host EC2 (instance {main}) terminated."
        await ends_as_main(c, job_id, 3, None, 7)


@pytest.mark.real("busybox")
async def test_a_main_that_ends_well_when_its_machine_goes_down(
    made: Machines, tmp_path: Path
) -> None:
    """systemd stops podman's containers beside the agent. It is slow to say that it stops, as it is
    when it has much to stop, so that the agent sees the end."""
    async with booted(tmp_path, made, "podman") as c:
        job = job_of("polite", 1, "podman", retryStrategy=TWICE)
        (group,) = job["nodeProperties"]["nodeRangeProperties"]
        group["container"]["command"] = ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]
        job_id = await c.submit(await c.register(job))
        await c.until(f"{job_id}#0", "RUNNING")
        main = await c.host_of(f"{job_id}#0")
        host, slow = made.hosts[main], "/usr/local/bin/systemctl"
        host.sh(
            f"printf '#!/bin/sh\\nsleep 1; exec /usr/bin/systemctl $*' >{slow}; chmod 755 {slow}"
        )
        try:
            host.reboot()
        finally:
            host.sh(f"rm {slow}")
        done = await c.until(job_id, lambda detail: detail.attempts, SOON_SECONDS)
        assert outcome(done)[1] == [None]
        assert done.attempts[0].status_reason == f"Host EC2 (instance {main}) terminated."
        await c.terminate(job_id)
        await c.until_gone(job_id)


async def test_a_job_outlives_a_reboot_of_the_coordinators_machine(
    made: Machines, tmp_path: Path
) -> None:
    async with booted(tmp_path, made) as c:
        job_id = await c.until_running("head", 3)
        runs = await until_runs(c, job_id, "0.1", "1.1", "2.1")
        made.head.reboot()
        await c.until_hosts(dict.fromkeys(HOSTS, "BUSY"))
        assert made.runs(job_id) == runs
        await ends_as_main(c, job_id, 3, 7)


async def test_a_main_whose_machine_is_switched_off(made: Machines, tmp_path: Path) -> None:
    """In order. Its agent says no goodbye, so the job waits no longer than for any silent host."""
    async with booted(tmp_path, made) as c:
        job_id = await c.until_running("off", 2, retryStrategy=TWICE)
        main = await c.host_of(f"{job_id}#0")
        made.hosts[main].power_off()
        await eventually(
            lambda: 2 in c.witness.lives(job_id), FENCED_SECONDS + SLACK_SECONDS, c.story
        )
        await until_runs(c, job_id, "0.2", "1.2")
        c.witness.let_end()
        done = await c.until(job_id, "FAILED")
        assert outcome(done) == ("FAILED", [None, 7])
        assert done.attempts[0].status_reason == f"Host EC2 (instance {main}) terminated."
        made.hosts[main].power_on()
        made.hosts[main].until_booted()
        await c.until_gone(job_id)
        await c.until_hosts(dict.fromkeys(HOSTS, "FREE"))
        c.witness.no_two_attempts(job_id)


async def test_a_child_whose_machine_loses_its_power(made: Machines, tmp_path: Path) -> None:
    """The child has failed, and the job goes on."""
    async with booted(tmp_path, made) as c:
        job_id = await c.until_running("power", 3)
        child = await c.host_of(f"{job_id}#1")
        made.hosts[child].cut_power()
        lost = await c.until(f"{job_id}#1", "FAILED", VERDICT_SECONDS + SLACK_SECONDS)
        assert lost.status_reason == f"Host EC2 (instance {child}) terminated."
        await until_runs(c, job_id, "0.1", "2.1")
        made.hosts[child].power_on()
        made.hosts[child].until_booted()
        # It is back, and as long as its job's as it would have been.
        await c.until_hosts({child: "BUSY"})
        await ends_as_main(c, job_id, 1, 7)
        assert c.witness.said(f"{job_id}#2", 1) == ["started", "stopped"]


async def test_a_cut_shorter_than_the_verdict_changes_nothing(
    made: Machines, tmp_path: Path
) -> None:
    async with booted(tmp_path, made) as c:
        job_id = await c.until_running("cut", 3)
        runs = await until_runs(c, job_id, "0.1", "1.1", "2.1")
        main = await c.host_of(f"{job_id}#0")
        made.network.cut(main)
        await c.until_hosts({main: "LOST"})
        assert made.runs(job_id) == runs
        made.network.heal(main)
        await c.until_hosts({main: "BUSY"})
        assert made.runs(job_id) == runs
        await ends_as_main(c, job_id, 3, 7)


async def test_a_cut_longer_than_the_lease_ends_the_attempt_on_both_sides(
    made: Machines, tmp_path: Path
) -> None:
    """The agent that is cut off ends its node, and then the next attempt starts elsewhere."""
    async with booted(tmp_path, made) as c:
        job_id = await c.until_running("long", 2, retryStrategy=TWICE)
        main = await c.host_of(f"{job_id}#0")
        made.network.cut(main)
        await until_settled(c, job_id)
        runs = await until_runs(c, job_id, "0.2", "1.2")
        assert main not in runs
        made.network.heal(main)
        await ends_as_main(c, job_id, 2, None, 7)
