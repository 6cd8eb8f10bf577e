"""The shim under the worst: killed agents, killed shims, two launchers, a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from agent import spool
from agent.core.assignment import ContainerSpec, NodeKey
from agent.engine import process, shim
from agent.engine.port import EngineError, ErrorClass
from agent.engine.process import ProcessEngine
from agent.engine.user import CannotStart, user_ids
from agent.host import survivors
from agent.host.origin import Origin
from agent.host.pidfd import ended
from agent.spool_follow import follow

LIMIT_BYTES = 1 << 20
DEADLINE_SECONDS = 30
_numbers = itertools.count(1)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[ProcessEngine]:
    made = ProcessEngine(tmp_path / "data", tmp_path / "spool", LIMIT_BYTES)
    yield made
    for managed in await made.list_managed():
        await made.remove(managed.key)
    assert list((tmp_path / "data").glob("*")) == []


def new_key() -> NodeKey:
    return NodeKey(job_id=f"shim-{os.getpid()}-{next(_numbers)}", attempt=1, node_index=0)


def new_spec(key: NodeKey, script: str, **more: str) -> ContainerSpec:
    environment = {"AWS_BATCH_JOB_ID": f"{key.job_id}#0", "AWS_BATCH_JOB_ATTEMPT": "1", **more}
    return ContainerSpec(
        image="",
        command=("sh", "-c", script),
        environment=tuple(environment.items()),
        vcpus=1,
        memory_mib=1,
    )


async def said(tmp_path: Path, key: NodeKey, words: bytes) -> None:
    """Return when the node's output holds `words`."""
    output = b""
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        aclosing(follow(tmp_path / "spool" / key.name, 0)) as pieces,
    ):
        async for _, data in pieces:
            output += data
            if words in output:
                return
    raise AssertionError(f"ended and said {output!r}")


def record(tmp_path: Path, key: NodeKey) -> dict[str, Any]:
    """started.json"""
    found: dict[str, Any] = json.loads((tmp_path / "data" / key.name / shim.STARTED).read_bytes())
    return found


def marked(key: NodeKey) -> list[int]:
    return survivors.pids_of(Origin(key=key))


@contextlib.contextmanager
def sleeping(**environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no shim's."""
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, **environment}) as running:
        try:
            yield running
        finally:
            running.kill()


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """256 KiB and no more, mounted at `directory`."""
    size = ("-t", "tmpfs", "-o", "size=256k", "tmpfs")
    subprocess.run(["mount", *size, str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


async def test_a_killed_shim_takes_the_node_with_it(engine: ProcessEngine, tmp_path: Path) -> None:
    key = new_key()
    await engine.start(key, new_spec(key, "(setsid sleep 1000 &); echo ready; sleep 1000"))
    await said(tmp_path, key, b"ready")
    os.kill(record(tmp_path, key)["shim_pid"], signal.SIGKILL)
    async with asyncio.timeout(DEADLINE_SECONDS):
        end = await engine.wait(key)
    assert end.exit_code == 137
    assert "shim" in end.reason
    assert "was killed" in end.reason
    assert marked(key) == []
    assert spool.is_finished(tmp_path / "spool" / key.name)


async def test_a_stopped_shim_does_not_stop_a_kill(
    engine: ProcessEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_DEATH_SECONDS", 0.2)
    key = new_key()
    await engine.start(key, new_spec(key, "echo ready; sleep 1000"))
    await said(tmp_path, key, b"ready")
    os.kill(record(tmp_path, key)["shim_pid"], signal.SIGSTOP)
    await engine.kill(key)
    assert marked(key) == []
    assert (await engine.wait(key)).exit_code == 137


AGENT = """
import asyncio, sys
from pathlib import Path
from agent.core.assignment import ContainerSpec, NodeKey
from agent.engine.process import ProcessEngine

async def main():
    directory, job_id, script = sys.argv[1:]
    engine = ProcessEngine(Path(directory, "data"), Path(directory, "spool"), 1 << 20)
    key = NodeKey(job_id=job_id, attempt=1, node_index=0)
    environment = (("AWS_BATCH_JOB_ID", f"{job_id}#0"), ("AWS_BATCH_JOB_ATTEMPT", "1"))
    spec = ContainerSpec(image="", command=("sh", "-c", script), environment=environment,
        vcpus=1, memory_mib=1)
    print("starting", flush=True)
    await engine.start(key, spec)
    print("started", flush=True)
    await engine.wait(key)

asyncio.run(main())
"""


@contextlib.contextmanager
def agent(tmp_path: Path, key: NodeKey, script: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that starts the node and waits for it; killed at the end."""
    argv = [sys.executable, "-c", AGENT, str(tmp_path), key.job_id, script]
    root = str(Path(shim.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize("word", ["starting", "started"])
async def test_an_agent_killed_during_start_starts_one_command(
    engine: ProcessEngine, tmp_path: Path, word: str
) -> None:
    key = new_key()
    script = "echo one; exit 4"
    with agent(tmp_path, key, script) as killed:
        assert killed.stdout is not None
        while killed.stdout.readline() != f"{word}\n":
            assert killed.poll() is None
    await engine.start(key, new_spec(key, script))
    async with asyncio.timeout(DEADLINE_SECONDS):
        end = await engine.wait(key)
    assert (end.exit_code, end.reason) == (4, "")
    assert spool.tail(tmp_path / "spool" / key.name, 100) == (0, b"one\n")


async def test_concurrent_launchers_start_one_command(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    key = new_key()
    spec = new_spec(key, "echo one")
    twin = ProcessEngine(tmp_path / "data", tmp_path / "spool", LIMIT_BYTES)
    first, *others = await asyncio.gather(*(e.start(key, spec) for e in (engine, twin) * 4))
    assert others == [first] * 7
    await engine.wait(key)
    assert spool.tail(tmp_path / "spool" / key.name, 100) == (0, b"one\n")


@pytest.mark.parametrize("moment", range(8))
async def test_a_launcher_killed_at_any_moment(
    engine: ProcessEngine, tmp_path: Path, moment: int
) -> None:
    """A cancelled start kills its launcher; the shim, if there is one by then, must not care."""
    key = new_key()
    spec = new_spec(key, "echo one; exit 5")
    start = asyncio.ensure_future(engine.start(key, spec))
    await asyncio.wait([start], timeout=0.008 * moment)
    start.cancel()
    await asyncio.wait([start])
    await engine.start(key, spec)
    async with asyncio.timeout(DEADLINE_SECONDS):
        end = await engine.wait(key)
    assert (end.exit_code, end.reason) == (5, "")
    assert spool.tail(tmp_path / "spool" / key.name, 100) == (0, b"one\n")


async def test_a_shim_killed_before_the_command_runs(engine: ProcessEngine, tmp_path: Path) -> None:
    """started.json is there, the command never ran: it is not run a second time, but reported."""
    key = new_key()
    await engine.start(key, new_spec(key, "echo ready; sleep 1000"))
    os.kill(record(tmp_path, key)["shim_pid"], signal.SIGKILL)
    await engine.wait(key)
    before = record(tmp_path, key)
    await engine.start(key, new_spec(key, "echo again"))
    assert record(tmp_path, key) == before
    assert (await engine.wait(key)).exit_code == 137


async def test_a_reused_pid_is_left_alone(engine: ProcessEngine, tmp_path: Path) -> None:
    key = new_key()
    await engine.start(key, new_spec(key, "exit 0"))
    await engine.wait(key)
    (tmp_path / "data" / key.name / shim.EXIT).unlink()
    with sleeping() as bystander:
        altered = {**record(tmp_path, key), "shim_pid": bystander.pid}
        (tmp_path / "data" / key.name / shim.STARTED).write_text(json.dumps(altered))
        await engine.stop(key, 1)
        await engine.kill(key)
        assert (await engine.wait(key)).exit_code == 137
        await engine.remove(key)
        assert bystander.poll() is None


async def test_a_restart_of_the_host_is_said(engine: ProcessEngine, tmp_path: Path) -> None:
    key = new_key()
    await engine.start(key, new_spec(key, "sleep 1000"))
    altered = {**record(tmp_path, key), "boot_id": "of another boot"}
    original = (tmp_path / "data" / key.name / shim.STARTED).read_bytes()
    (tmp_path / "data" / key.name / shim.STARTED).write_text(json.dumps(altered))
    end = await engine.wait(key)
    assert end.exit_code == 137
    assert "restarted" in end.reason
    (tmp_path / "data" / key.name / shim.STARTED).write_bytes(original)


async def test_the_specification_is_for_the_agent_alone(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    key = new_key()
    await engine.start(key, new_spec(key, "exit 0", SECRET="s"))
    await engine.wait(key)
    assert (tmp_path / "data" / key.name / shim.SPEC).stat().st_mode & 0o777 == 0o600


async def test_output_of_a_process_that_closed_its_own(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    key = new_key()
    await engine.start(key, new_spec(key, "echo last; exec >&- 2>&-; exit 6"))
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert (await engine.wait(key)).exit_code == 6
    assert spool.tail(tmp_path / "spool" / key.name, 100) == (0, b"last\n")


async def test_signals_of_the_command_are_as_a_login_shell_has_them(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    key = new_key()
    await engine.start(key, new_spec(key, "grep -E '^Sig(Blk|Ign)' /proc/self/status"))
    await engine.wait(key)
    masks = spool.tail(tmp_path / "spool" / key.name, 1000)[1].split()[1::2]
    # Signals 32 and 33 are the C library's own: whoever ignores them, it cannot be undone.
    assert [int(mask, 16) & ~(0b11 << 31) for mask in masks] == [0, 0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system of one page")
async def test_a_job_that_fills_the_disk_keeps_its_exit_code(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with small_disk(data):
        key = new_key()
        await engine.start(key, new_spec(key, "cat /dev/zero > full 2>/dev/null; exit 9"))
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert (await engine.wait(key)).exit_code == 9
        await engine.remove(key)


async def test_no_room_for_output_is_transient(tmp_path: Path) -> None:
    engine = ProcessEngine(tmp_path / "data", tmp_path / "spool", 1 << 62)
    key = new_key()
    with pytest.raises(EngineError, match="bytes free") as at:
        await engine.prepare(key, new_spec(key, "exit 0"))
    assert at.value.error_class is ErrorClass.TRANSIENT


async def test_a_survivor_is_named(
    engine: ProcessEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    await engine.start(key, new_spec(key, "exit 0"))
    await engine.wait(key)
    with sleeping(**dict(new_spec(key, "").environment)) as survivor:
        with monkeypatch.context() as patched:
            # Stands for a process that the kernel cannot end, as in a dead NFS mount.
            patched.setattr(signal, "pidfd_send_signal", lambda pidfd, number: None)
            patched.setattr(survivors, "DEATH_SECONDS", 0.2)
            with pytest.raises(
                EngineError, match=rf"pid {survivor.pid} \(sleep, uid \d+, state S\)"
            ):
                await engine.remove(key)
        await engine.remove(key)
        assert survivor.wait(DEADLINE_SECONDS) == -signal.SIGKILL


async def test_the_command_leaves_the_shim_no_orphan(engine: ProcessEngine, tmp_path: Path) -> None:
    """A daemon that hides (own session, other environment) ends with the command all the same."""
    key = new_key()
    await engine.start(key, new_spec(key, "setsid env -i sleep 1000 & echo $!; echo ready"))
    await said(tmp_path, key, b"ready")
    pid = int(spool.tail(tmp_path / "spool" / key.name, 100)[1].split()[0])
    async with asyncio.timeout(DEADLINE_SECONDS):
        await engine.wait(key)
    assert shim.start_ticks(pid) is None


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("0", (0, 0)),
        ("root", (0, 0)),
        ("root:7", (0, 7)),
        ("4321:1", (4321, 1)),
        ("4321", (4321, 0)),
    ],
)
def test_user_ids(user: str, ids: tuple[int, int]) -> None:
    assert user_ids(user)[:2] == ids


@pytest.mark.parametrize(
    "user",
    [
        *("no-such-user", "root:no-such-group", "", ":", "²", "1:²"),
        # To the kernel the last one means that nothing changes.
        *("2147483648", "0:4294967296", "4294967295"),
    ],
)
def test_unknown_users(user: str) -> None:
    with pytest.raises(CannotStart, match="unable to find"):
        user_ids(user)


async def test_ended_in_time_or_not() -> None:
    with sleeping() as sleeper:
        pidfd = os.pidfd_open(sleeper.pid)
        try:
            assert not await ended(pidfd, 0.01)
            sleeper.kill()
            assert await ended(pidfd, DEADLINE_SECONDS)
        finally:
            os.close(pidfd)


async def test_descendants_end_before_the_shim_that_shows_whose_they_are(
    engine: ProcessEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shim that does not answer is killed. A child without the node's variables has no other
    sign."""
    monkeypatch.setattr(process, "_DEATH_SECONDS", 0.2)
    key = new_key()
    await engine.start(key, new_spec(key, "setsid env -i sleep 1000 & echo $! ready; wait"))
    await said(tmp_path, key, b"ready")
    hidden = int(spool.tail(tmp_path / "spool" / key.name, 100)[1].split()[0])
    os.kill(record(tmp_path, key)["shim_pid"], signal.SIGSTOP)
    await engine.kill(key)
    assert shim.start_ticks(hidden) is None
    assert (await engine.wait(key)).exit_code == 137


@pytest.mark.parametrize(
    ("member", "value", "named"),
    [
        ("shim_pid", 1, "1 is no pid of a node"),
        ("shim_pid", "7", "'7' is no pid of a node"),
        ("command_pid", 0, "0 is no pid of a node"),
        ("command_pid", None, "None is no pid of a node"),
    ],
)
async def test_a_record_of_another_form_is_named_and_never_gone(
    engine: ProcessEngine, tmp_path: Path, member: str, value: object, named: str
) -> None:
    key = new_key()
    await engine.start(key, new_spec(key, "sleep 1000"))
    original = record(tmp_path, key)
    file = tmp_path / "data" / key.name / shim.STARTED
    file.write_text(json.dumps({**original, member: value}))
    for verb in (engine.wait(key), engine.stop(key, 1), engine.kill(key), engine.remove(key)):
        with pytest.raises(EngineError, match=f"started.json: {named}"):
            await verb
    assert [(found.key, found.running) for found in await engine.list_managed()] == [(key, True)]
    file.write_text(json.dumps(original))


async def test_a_job_that_takes_the_permissions_of_its_directory_ends(
    engine: ProcessEngine, tmp_path: Path
) -> None:
    """Root may read it all the same; an agent of the job's own user may not."""
    key = new_key()
    await engine.start(key, new_spec(key, "echo ready; sleep 1000"))
    await said(tmp_path, key, b"ready")
    directory = tmp_path / "data" / key.name
    for path in (*directory.iterdir(), directory):
        path.chmod(0)
    await engine.stop(key, 1)
    await engine.remove(key)
    assert not directory.exists()


async def test_a_deep_tree_is_removed(engine: ProcessEngine, tmp_path: Path) -> None:
    """Deeper than paths can be long, and with names in no encoding."""
    key = new_key()
    script = "import os\nfor _ in range(2500):\n os.mkdir(b'd\\xff')\n os.chdir(b'd\\xff')"
    await engine.start(key, new_spec(key, f'exec {sys.executable} -c "$SCRIPT"', SCRIPT=script))
    assert (await engine.wait(key)).exit_code == 0
    await engine.remove(key)
    assert not (tmp_path / "data" / key.name).exists()
