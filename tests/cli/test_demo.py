"""The demo leaves nothing behind, whatever its daemons do, and shows the rules with real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Muster

_SERVES_NO_HOST = """
import asyncio, os, signal, socket, sys
from muster.v1.host_service_pb2 import ListHostsResponse
from tests.cli.fake_coordinator import FakeCoordinator

async def main():
    fake, stop = FakeCoordinator(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    fake.answer("ListHosts", ListHostsResponse())
    await fake.start(sys.argv[sys.argv.index("--listen") + 1])
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(os.environ["CALL"])
        line.sendall(b"serves")
    await stop.wait()
    await fake.stop()

sys.exit(asyncio.run(main()))
"""

# Calls the test, so that it knows that the agent runs: an interrupt that comes sooner would end a
# daemon which handles no signal yet.
_CALLS = """
import os, signal, socket, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
line = socket.socket(socket.AF_UNIX)
line.connect(os.environ["CALL"])
"""

_WAITS = _CALLS + "line.sendall(b'here')\nsignal.pause()\n"

_LEAVES_A_PROCESS = (
    _CALLS
    + """
data_dir = sys.argv[sys.argv.index("--data-dir") + 1]
argv = [sys.executable, "-c", "import signal; signal.pause()", data_dir]
stray = subprocess.Popen(argv, start_new_session=True)
line.sendall(b"%d\\n" % stray.pid)
signal.pause()
"""
)


def _entries(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


def _runs(pid: int) -> bool:
    """Whether a process is more than an entry that its parent has not read yet."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


class Demo:
    """A running `muster demo`, and the socket that its daemons call."""

    def __init__(self, process: Process, tmp: Path, listener: socket.socket) -> None:
        self.process = process
        self.tmp = tmp
        self._listener = listener

    async def call(self) -> bytes:
        """Wait for the next daemon; what it says before it waits for its end."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            line, _ = await loop.sock_accept(self._listener)
            with line:
                return await loop.sock_recv(line, 100)

    async def ended(self) -> tuple[str, str]:
        out, err = await asyncio.wait_for(self.process.communicate(), 60)
        # The directory that the demo made is gone; the fakes' own stays.
        assert _entries(self.tmp) == ["fakes"]
        return out.decode(), err.decode()


@asynccontextmanager
async def _demo(tmp: Path, coordinator: str, agent: str) -> AsyncIterator[Demo]:
    for name, program in (("coordinator", coordinator), ("agent", agent)):
        package = tmp / "fakes" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "main.py").write_text(program)
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(str(tmp / "fakes" / "call"))
    listener.listen()
    process = await create_subprocess_exec(
        *(sys.executable, "-P", "-m", "cli.main", "demo", "--nodes", "2"),
        stdout=PIPE,
        stderr=PIPE,
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp / 'fakes'}:{ROOT}:{ROOT / 'proto'}",
            "CALL": str(tmp / "fakes" / "call"),
            "TMPDIR": str(tmp),
        },
    )
    try:
        yield Demo(process, tmp, listener)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        listener.close()


async def test_a_daemon_that_dies_is_told_with_its_log(tmp_path: Path) -> None:
    dies = "import sys\nprint('muster-coordinator: the port is taken')\nsys.exit(3)\n"
    async with _demo(tmp_path, dies, _WAITS) as demo:
        out, err = await demo.ended()
    assert demo.process.returncode == 1
    assert "coordinator ended with code 3; its log ends with" in err
    assert "  muster-coordinator: the port is taken\n" in err
    assert err.count("ended with code") == 1
    assert out.splitlines()[-1].startswith("== nothing is left behind")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_ends_all_daemons(tmp_path: Path, number: signal.Signals) -> None:
    async with _demo(tmp_path, _SERVES_NO_HOST, _WAITS) as demo:
        for _ in range(3):
            await demo.call()
        demo.process.send_signal(number)
        out, err = await demo.ended()
    assert (demo.process.returncode, err) == (130, "")
    assert "== interrupted" in out
    assert out.splitlines()[-1].startswith("== nothing is left behind")


async def test_a_process_that_is_left_is_found_and_killed(tmp_path: Path) -> None:
    async with _demo(tmp_path, _SERVES_NO_HOST, _LEAVES_A_PROCESS) as demo:
        said = [await demo.call() for _ in range(3)]
        strays = [int(word) for word in said if word != b"serves"]
        demo.process.send_signal(signal.SIGINT)
        _, err = await demo.ended()
    assert demo.process.returncode == 130
    for pid in strays:
        assert f"process {pid} was left behind, and killed" in err
        assert not _runs(pid)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--nodes", "1"], "it must be 2 to 200"),
        (["--engine", "docker"], "--engine docker needs --image"),
        (["-o", "json"], "-o json has no meaning"),
    ],
)
async def test_wrong_usage_starts_nothing(muster: Muster, argv: list[str], told: str) -> None:
    ended = await muster("demo", *argv)
    assert (ended.code, ended.out) == (2, b"")
    assert told in ended.err


async def test_the_three_jobs_show_the_rules(tmp_path: Path) -> None:
    process = await create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "demo", "--nodes", "3"),
        stdout=PIPE,
        stderr=PIPE,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
            "TMPDIR": str(tmp_path),
        },
    )
    out, err = (told.decode() for told in await process.communicate())
    assert process.returncode == 0, out + err
    assert err == ""
    right = [line.split(": ")[1] for line in out.splitlines() if line.startswith("== as it")]
    assert len(right) == 7
    assert ": right\n" in out
    assert out.splitlines()[-1].startswith("== nothing is left behind")
    assert _entries(tmp_path) == []
