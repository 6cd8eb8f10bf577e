"""What is found of a node among the processes of a machine, and what is not. No engine."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.assignment import NodeKey
from agent.host import ports, processes, survivors
from agent.host.ids import ContainerId, container_id
from agent.host.origin import Origin, Shim, Sorted
from agent.host.survivors import StillThere, Survivors
from tests.unprivileged import copied
from tests.wait import eventually

KEY = NodeKey(job_id=f"survivors-{os.getpid()}", attempt=2, node_index=3)
CONTAINER = container_id("0123456789abcdef" * 4)

# 50 processes in sessions of their own that ignore all polite signals; each starts a successor
# with its last breath, and who is missed at its neighbour's death is started anew by that one.
STORM = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
def keep(children):
    while True:
        while len(children) < int(sys.argv[1]):
            pid = os.fork()
            if pid == 0:
                os.setsid()
                keep_one()
            children.add(pid)
        print("ready", flush=True)
        children.discard(os.wait()[0])
def keep_one():
    while True:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        os.waitpid(pid, 0)
keep(set())
"""


def pids_of(key: NodeKey, container: ContainerId | None = None) -> list[int]:
    return survivors.pids_of(Origin(key=key, container=container))


def variables(key: NodeKey = KEY) -> dict[str, str]:
    return {
        "AWS_BATCH_JOB_ID": f"{key.job_id}#{key.node_index}",
        "AWS_BATCH_JOB_ATTEMPT": str(key.attempt),
    }


@contextlib.contextmanager
def running(
    *command: str, environment: dict[str, str], pass_fds: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, pass_fds=pass_fds
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def sleeping(
    environment: dict[str, str] | None = None, pass_fds: tuple[int, ...] = ()
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    return running("sleep", "1000", environment=environment or {}, pass_fds=pass_fds)


@pytest.mark.parametrize(
    ("environment", "is_found"),
    [
        (variables(), True),
        # A job of one container has no index in its id.
        ({**variables(), "AWS_BATCH_JOB_ID": KEY.job_id}, True),
        ({**variables(), "AWS_BATCH_JOB_ATTEMPT": "1"}, False),
        ({**variables(), "AWS_BATCH_JOB_ID": f"{KEY.job_id}#30"}, False),
        ({"AWS_BATCH_JOB_ID": f"{KEY.job_id}#3"}, False),
        ({"WORDS": "AWS_BATCH_JOB_ATTEMPT=2", "MORE": f"AWS_BATCH_JOB_ID={KEY.job_id}#3"}, False),
    ],
)
async def test_a_process_is_known_by_both_variables(
    environment: dict[str, str], is_found: bool
) -> None:
    with sleeping(environment) as process:
        assert pids_of(KEY) == ([process.pid] if is_found else [])


@pytest.mark.parametrize(
    ("group", "is_found"),
    [
        (f"0::/system.slice/docker-{CONTAINER}.scope", True),
        (f"0::/docker/{CONTAINER[::-1]}", False),
    ],
)
async def test_a_process_without_variables_is_known_by_its_container(
    group: str, is_found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sleeping() as process:
        read = processes.control_group
        monkeypatch.setattr(
            processes,
            "control_group",
            lambda pid: group.encode() if pid == process.pid else read(pid),
        )
        assert pids_of(KEY, CONTAINER) == ([process.pid] if is_found else [])
        assert pids_of(KEY) == []


async def test_who_shares_a_control_group_with_a_node_is_not_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the agent does, where it runs in a container itself."""
    monkeypatch.setattr(processes, "control_group", lambda pid: f"0::/docker/{CONTAINER}".encode())
    with sleeping(variables()) as process:
        assert pids_of(KEY) == [process.pid]


async def test_a_child_without_variables_is_known_by_its_parent() -> None:
    script = "env -i setsid sleep 1000 & echo ready; wait"
    with running("sh", "-c", script, environment=variables()) as parent:
        assert parent.stdout is not None
        assert await asyncio.to_thread(parent.stdout.readline) == b"ready\n"
        await eventually(lambda: len(pids_of(KEY)) == 2, 30, lambda: pids_of(KEY))
        assert await Survivors().kill(KEY) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a process namespace")
@pytest.mark.parametrize(("prefix", "is_found"), [(("unshare", "--pid"), True), ((), False)])
async def test_without_a_control_group_a_container_is_known_by_its_supervisor(
    prefix: tuple[str, ...], is_found: bool, tmp_path: Path
) -> None:
    """As with rootless podman where there is no systemd. What conmon starts for itself, as to have
    the end recorded, is in no namespace of its own."""
    (tmp_path / "script").write_text("env -i sleep 1000 & echo $!; wait")
    conmon = copied("sh", tmp_path / "conmon", 0o755)
    command = (*prefix, str(conmon), str(tmp_path / "script"), "-c", CONTAINER)
    with running(*command, environment={}) as supervisor:
        assert supervisor.stdout is not None
        pid = int(await asyncio.to_thread(supervisor.stdout.readline))
        try:
            assert pids_of(KEY, CONTAINER) == ([pid] if is_found else [])
        finally:
            os.kill(pid, signal.SIGKILL)


async def test_a_storm_that_restarts_what_dies_ends() -> None:
    with running(sys.executable, "-c", STORM, "25", environment=variables()) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
        await eventually(lambda: len(pids_of(KEY)) == 51, 30, lambda: pids_of(KEY))
        assert await Survivors().kill(KEY) >= 51
        assert pids_of(KEY) == []
        assert process.wait(10) == -signal.SIGKILL


async def test_a_stopped_process_gets_its_grace_and_then_dies() -> None:
    with sleeping(variables()) as process:
        process.send_signal(signal.SIGSTOP)
        before = time.monotonic()
        await Survivors().terminate(KEY, 0.2)
        assert time.monotonic() - before >= 0.2
        assert pids_of(KEY) == [process.pid]
        assert await Survivors().kill(KEY) == 1
        assert process.wait(10) == -signal.SIGKILL


async def test_who_ends_by_itself_is_not_waited_for_longer() -> None:
    with sleeping(variables()) as process:
        async with asyncio.timeout(30):
            await Survivors().terminate(KEY, 1000)
        assert process.wait(10) == -signal.SIGTERM


async def test_a_pid_that_is_another_process_by_now_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with sleeping() as stranger:
        now = processes.process(stranger.pid)
        assert now is not None
        found = iter([(replace(now, start_ticks=now.start_ticks - 1),), (), ()])
        monkeypatch.setattr(Origin, "sort", lambda self: Sorted(next(found), ()))
        assert await Survivors().kill(KEY) == 0
        assert stranger.poll() is None


async def test_what_is_another_process_at_every_look_is_still_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A chain of processes of which each starts the next one and ends, where a shim was killed."""
    with sleeping() as stands_for_all:
        now = processes.process(stands_for_all.pid)
        assert now is not None
        ticks = itertools.count(now.start_ticks)
        monkeypatch.setattr(survivors, "DEATH_SECONDS", 0.1)
        monkeypatch.setattr(
            Origin, "sort", lambda self: Sorted((), (replace(now, start_ticks=next(ticks)),))
        )
        host = Survivors()
        host.remember_shim(KEY, Shim(pid=2**22, start_ticks=0, session=2**22))
        with pytest.raises(StillThere, match="not proven gone, since the node's shim was killed"):
            await host.prove_gone(KEY)


async def test_who_cannot_be_killed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with sleeping(variables()) as process:
        with monkeypatch.context() as patched:
            # Stands for a process that the kernel cannot end, as in a dead NFS mount.
            patched.setattr(signal, "pidfd_send_signal", lambda pidfd, number: None)
            patched.setattr(survivors, "DEATH_SECONDS", 0.1)
            who = rf"pid {process.pid} \(sleep, uid {os.geteuid()}, state S\)"
            evidence = rf"^still there 0 s after SIGKILL: {who}$"
            with pytest.raises(StillThere, match=evidence):
                await Survivors().prove_gone(KEY)
        await Survivors().prove_gone(KEY)
        assert process.wait(10) == -signal.SIGKILL


LISTEN = """
import signal, socket
here = [socket.socket(family, kind) for family in (socket.AF_INET, socket.AF_INET6)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
for each in here:
    each.bind(("127.0.0.1" if each.family == socket.AF_INET else "::1", 0))
    if each.type == socket.SOCK_STREAM:
        each.listen()
print(*(each.getsockname()[1] for each in here), flush=True)
signal.pause()
"""


async def test_ports_are_those_of_the_node_alone() -> None:
    with running(sys.executable, "-c", LISTEN, environment=variables()) as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        names = [f"{kind} port" for kind in ("tcp", "udp", "tcp6", "udp6")]
        told = {
            f"{name} {number}" for name, number in zip(names, line.decode().split(), strict=True)
        }
        with socket.create_server(("127.0.0.1", 0)):
            host = Survivors()
            assert {str(port) for port in await host.note_ports(KEY)} == told
    await host.prove_gone(KEY)


async def test_a_port_whose_socket_was_passed_on_is_evidence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        number = passed.getsockname()[1]
        with sleeping(variables(), pass_fds=(passed.fileno(),)) as process:
            host = Survivors()
            assert [port.number for port in await host.note_ports(KEY)] == [number]
            evidence = (
                rf"^tcp port {number} is still listened on by pid {os.getpid()} \(.*state .\)$"
            )
            with pytest.raises(StillThere, match=evidence):
                await host.prove_gone(KEY)
            assert process.wait(10) == -signal.SIGKILL
            with pytest.raises(StillThere, match=evidence):
                await host.prove_gone(KEY)
    # The same port of a service that came later is nobody's evidence.
    with socket.create_server(("127.0.0.1", number)):
        await host.prove_gone(KEY)


def test_a_socket_that_nobody_shows_is_open_all_the_same() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        mine = ports.listened_on_by([os.getpid()])
        port = next(port for port in mine if port.number == server.getsockname()[1])
        assert ports.holder(port) == os.getpid()
        assert ports.still_open([port]) == [port]
    assert ports.holder(port) is None
    assert ports.still_open([port]) == []
