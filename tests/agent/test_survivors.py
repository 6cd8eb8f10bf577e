"""What is found of a node among the processes of a machine, and what is not. No engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.assignment import NodeKey
from agent.host import ports, survivors
from agent.host.survivors import StillThere, Survivors, pids_of
from tests.wait import eventually

KEY = NodeKey(job_id=f"survivors-{os.getpid()}", attempt=2, node_index=3)
CONTAINER = "0123456789abcdef" * 4

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
        (f"0::/docker/{CONTAINER}", True),
        (f"0::/system.slice/docker-{CONTAINER}.scope", True),
        (f"0::/machine.slice/libpod-{CONTAINER}.scope/container/made-by-the-job", True),
        (f"9:memory:/libpod_parent/libpod-{CONTAINER}\n0::/", True),
        # Podman's supervisor has yet to write down how its container ended.
        (f"0::/machine.slice/libpod-conmon-{CONTAINER}.scope", False),
        (f"0::/docker/{CONTAINER[::-1]}", False),
    ],
)
async def test_a_process_without_variables_is_known_by_its_container(
    group: str, is_found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sleeping() as process:
        file = Path(f"/proc/{process.pid}/cgroup")
        read = survivors._read
        monkeypatch.setattr(
            survivors, "_read", lambda path: group.encode() if path == file else read(path)
        )
        assert pids_of(KEY, CONTAINER) == ([process.pid] if is_found else [])
        assert pids_of(KEY) == []


async def test_who_shares_a_control_group_with_a_node_is_not_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the agent does, where it runs in a container itself."""
    read = survivors._read
    group = f"0::/docker/{CONTAINER}".encode()
    monkeypatch.setattr(
        survivors, "_read", lambda path: group if path.name == "cgroup" else read(path)
    )
    with sleeping(variables()) as process:
        assert pids_of(KEY) == [process.pid]


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
        found = iter([[stranger.pid], [], []])
        monkeypatch.setattr(survivors, "pids_of", lambda key, container_id: next(found))
        assert await Survivors().kill(KEY) == 0
        assert stranger.poll() is None


async def test_who_cannot_be_killed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with sleeping(variables()) as process:
        with monkeypatch.context() as patched:
            # Stands for a process that the kernel cannot end, as in a dead NFS mount.
            patched.setattr(signal, "pidfd_send_signal", lambda pidfd, number: None)
            patched.setattr(survivors, "DEATH_SECONDS", 0.1)
            evidence = rf"^still there 0 s after SIGKILL: pid {process.pid} \(sleep, state S\)$"
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
