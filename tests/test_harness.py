"""The rules of conftest.py hold: a run of tests that break them fails, each test for its reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wait import eventually, eventually_blocking

ROOT = Path(__file__).parents[1]

PRELUDE = """
import asyncio, os, socket, subprocess, sys, threading
import grpc, pytest
from tests import leaks

kept = []
SLEEP = [sys.executable, "-c", "import signal; signal.pause()"]
SAY = [sys.executable, "-c", "import os, signal; os.write(1, b'up'); os.close(1); signal.pause()"]
"""

# Name of the test: the test, and what its failure says.
BAD = {
    "file": ("kept.append(open(__file__))", r"file \d+: /.*test_it\.py"),
    "socket": ("kept.append(socket.socket())", r"file \d+: socket:"),
    "pipe": ("kept.append(os.pipe())", r"file \d+: pipe:"),
    "loop": ("kept.append(asyncio.new_event_loop())", r"file \d+: socket:"),
    "child": ("kept.append(subprocess.Popen(SLEEP))", r"process \d+ \([\w-]+\): .*pause"),
    "unreaped": (
        """kept.append(subprocess.Popen(['true']))
    os.waitid(os.P_PID, kept[-1].pid, os.WEXITED | os.WNOWAIT)""",
        r"process \d+ \(zombie\)",
    ),
    "orphan": (
        """with subprocess.Popen(['sh', '-c', 'setsid "$@" &', 'sh', *SAY], stdout=-1) as shell:
        # It is there for certain, and no longer in the midst of its exec.
        assert shell.stdout.read() == b'up'""",
        r"process \d+ \([\w-]+\): .*pause",
    ),
    "thread": (
        "threading.Thread(target=threading.Event().wait, name='lost', daemon=True).start()",
        "thread lost",
    ),
    "task": (
        "kept.append(asyncio.create_task(asyncio.Event().wait(), name='lost'))",
        "task lost",
    ),
    "channel": (
        """server, address = await served()
    kept.extend([server, grpc.aio.insecure_channel(address)])
    await kept[-1].channel_ready()""",
        r"file \d+: socket:",
    ),
    "slow": ("threading.Event().wait()", r"took longer than 0\.2 s.*--- thread MainThread"),
    "slow_await": ("await asyncio.Event().wait()", r"took longer than 0\.2 s.*--- task "),
    "slow_elsewhere": (
        "asyncio.create_task(spin()); await asyncio.Event().wait()",
        r"took longer than 0\.2 s",
    ),
}
GOOD = {
    "process_that_ends": "subprocess.run(['true'], check=True)",
    "task_that_ends_soon": "kept.append(asyncio.create_task(asyncio.sleep(0.01)))",
    "rpc_both_ways": """server, address = await served()
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
    await server.stop(None)""",
    "rpc_from_a_thread": """server, address = await served()
    def call():
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(5)
    await asyncio.to_thread(call)
    await server.stop(None)""",
    "shared_process": "assert request.getfixturevalue('shared').poll() is None",
    "shared_process_again": "assert request.getfixturevalue('shared').poll() is None",
}
HELPERS = """
async def served():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"

async def spin():
    while True:
        pass

@pytest.fixture(scope="session")
def shared():
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()
"""


def run_tests(directory: Path, source: str, **environment: str) -> str:
    (directory / "test_it.py").write_text(source, "utf-8")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"),
            *("-c", ROOT / "pyproject.toml", "--rootdir", directory, "-v", directory),
        ],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ended.stdout


def as_test(name: str, body: str, settle_seconds: float) -> str:
    mark = "@pytest.mark.limit(0.2)\n" if name.startswith("slow") else ""
    is_async = "await" in body or "create_task" in body
    head = f"{mark}{'async ' if is_async else ''}def test_{name}(request):\n"
    return f"{head}    leaks.SETTLE_SECONDS = {settle_seconds}\n    {body}\n"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    tests = [as_test(name, body, 0.2) for name, (body, _) in BAD.items()]
    tests += [as_test(name, body, 20) for name, body in GOOD.items()]
    return run_tests(tmp_path_factory.mktemp("run"), "\n".join([PRELUDE, HELPERS, *tests]))


def report(output: str, name: str) -> str:
    """What the run says of one test."""
    found = re.findall(
        rf"^_+ [^_]*test_{name} _+$(.*?)^[_=]{{3,}}", output, re.MULTILINE | re.DOTALL
    )
    return "".join(found)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_test_fails(output: str, name: str) -> None:
    assert re.search(BAD[name][1], report(output, name), re.DOTALL), output


@pytest.mark.parametrize("name", GOOD)
def test_a_good_test_passes(output: str, name: str) -> None:
    assert re.search(rf"test_{name} PASSED", output), output
    assert report(output, name) == "", output


@pytest.mark.parametrize(("required", "outcome"), [("0", "1 skipped"), ("1", "1 error")])
def test_a_missing_component(tmp_path: Path, required: str, outcome: str) -> None:
    source = "import pytest\n@pytest.mark.real('podman')\ndef test_real(): pass\n"
    output = run_tests(tmp_path, source, MUSTER_REQUIRE_REAL=required, PATH="/nowhere")
    assert re.search(f"{outcome} in", output), output
    assert "podman: no program podman" in output


async def test_eventually_gives_the_first_true_value() -> None:
    values = iter([0, None, 7, 8])
    assert await eventually(lambda: next(values), 5, lambda: "") == 7

    async def later() -> int | None:
        return next(values)

    assert await eventually(later, 5, lambda: "") == 8


async def test_eventually_says_what_it_saw() -> None:
    with pytest.raises(AssertionError, match=r"not true within 0 s; now:\nstate 3"):
        await eventually(lambda: False, 0, lambda: "state 3")
    with pytest.raises(AssertionError, match=r"not true within 0 s; now:\nstate 4"):
        eventually_blocking(lambda: False, 0, lambda: "state 4")
