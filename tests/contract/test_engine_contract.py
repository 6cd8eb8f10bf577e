"""What every engine promises, asked of each: fake, process, docker and podman.

A test is written once, against the port; `engine_bench.py` has what it runs on.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path

import pytest

from agent import spool
from agent.core.assignment import NodeKey, SecretRef
from agent.engine.argv import Site
from agent.engine.docker import DockerEngine
from agent.engine.fake import FakeEngine
from agent.engine.podman import PodmanEngine
from agent.engine.port import EngineError, ErrorClass
from tests.contract.engine_bench import (
    ALL,
    CONTAINERS,
    DEADLINE_SECONDS,
    DOCKER,
    FAKE,
    LIMIT_BYTES,
    PROCESS,
    REAL,
    Bench,
    bench,
    command_lines,
    engines,
    host,
    pids_of,
    shell,
)
from tests.engines import IMAGE

__all__ = ["bench", "host"]


@ALL
async def test_probe_names_a_version(bench: Bench) -> None:
    assert await bench.engine.probe()


@ALL
@pytest.mark.parametrize("code", [0, 3])
async def test_wait_returns_the_exit_code(bench: Bench, code: int) -> None:
    key = bench.key()
    spec = bench.spec(key, bench.programs.exit(code))
    await bench.engine.prepare(key, spec)
    started = await bench.engine.start(key, spec)
    end = await bench.ended(key)
    assert (end.exit_code, end.reason) == (code, "")
    assert started.started_at_ms <= end.stopped_at_ms


@ALL
async def test_start_is_idempotent(bench: Bench) -> None:
    key = bench.key()
    spec = bench.spec(key, bench.programs.once)
    first = await bench.engine.start(key, spec)
    assert await bench.engine.start(key, spec) == first
    end = await bench.ended(key)
    assert await bench.engine.start(key, spec) == first
    await bench.restart_agent()
    assert await bench.engine.start(key, spec) == first
    assert await bench.ended(key) == end
    assert bench.output(key) == "once\n"


@ALL
@pytest.mark.parametrize("delay_seconds", [0, 0.06, 0.12, 0.18])
async def test_a_cancelled_start_can_be_repeated(bench: Bench, delay_seconds: float) -> None:
    """Broken off anywhere between its first call and its end, it runs the command once."""
    key = bench.key()
    spec = bench.spec(key, bench.programs.once)
    start = asyncio.ensure_future(bench.engine.start(key, spec))
    await asyncio.wait([start], timeout=delay_seconds)
    start.cancel()
    await asyncio.wait([start])
    await bench.engine.start(key, spec)
    assert (await bench.ended(key)).exit_code == 0
    assert bench.output(key) == "once\n"


async def late_client(
    directory: Path, *arguments: str, then: str = "true"
) -> asyncio.subprocess.Process:
    """A client that a killed agent left: it does `then` once there is a line in `directory/go`."""
    client = directory / "client"
    client.write_text(f'#!/bin/sh\nread line < "{directory}/go"\n{then}\n')
    client.chmod(0o755)
    os.mkfifo(directory / "go")
    return await asyncio.create_subprocess_exec(client, *arguments)


@CONTAINERS
@pytest.mark.parametrize("verb", [("start",), ("run", "--name")])
async def test_a_killed_agent_s_start_is_outwaited(
    bench: Bench, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    """Its client goes on without it, and may be about to start what `inspect` calls created."""
    key = bench.key()
    orphan = await late_client(tmp_path, *verb, key.name)
    start = asyncio.ensure_future(bench.engine.start(key, bench.spec(key, bench.programs.once)))
    await asyncio.wait([start], timeout=0.2)
    assert await bench.engine.list_managed() == []
    (tmp_path / "go").write_text("\n")
    await orphan.wait()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await start
    assert (await bench.ended(key)).exit_code == 0


@CONTAINERS
async def test_nothing_comes_after_a_remove(bench: Bench, tmp_path: Path) -> None:
    """A host is let go when nothing of the node is there and nobody is about to make it."""
    assert bench.real is not None
    key = bench.key()
    flags = ["run", "--detach", "--network=host", *bench.real.run_args, "--name", key.name]
    run = [*bench.real.argv, *flags, IMAGE, "sleep", "1000"]
    orphan = await late_client(tmp_path, *flags, then=shlex.join(run))
    await bench.engine.stop(key, 0)
    remove = asyncio.ensure_future(bench.engine.remove(key))
    await asyncio.wait([remove], timeout=1)
    assert not remove.done()
    (tmp_path / "go").write_text("\n")
    assert await orphan.wait() == 0
    async with asyncio.timeout(DEADLINE_SECONDS):
        await remove
    assert await bench.cli("ps", "--all", "--quiet", f"--filter=name={key.name}") == ""


@ALL
async def test_a_new_agent_loses_and_repeats_no_output(bench: Bench) -> None:
    key = await bench.started(bench.programs.trap_term(7, "bye"))
    await bench.ready(key)
    await bench.restart_agent()
    wait = asyncio.ensure_future(bench.ended(key))
    await bench.engine.stop(key, 10)
    end = await wait
    assert end.exit_code == 7
    assert bench.output(key) == "ready\nbye\n"
    await bench.restart_agent()
    assert await bench.ended(key) == end
    assert bench.output(key) == "ready\nbye\n"


@ALL
async def test_a_new_agent_learns_of_an_end_it_missed(bench: Bench) -> None:
    key = await bench.started(bench.programs.trap_term(7, "bye"))
    await bench.ready(key)
    await bench.restart_agent()
    # Without `wait`, nothing of the agent follows the output.
    await bench.engine.stop(key, 10)
    await bench.restart_agent()
    assert (await bench.ended(key)).exit_code == 7
    assert bench.output(key) == "ready\nbye\n"


@ALL
async def test_stop_lets_a_node_end_by_itself(bench: Bench) -> None:
    key = await bench.started(bench.programs.trap_term(0, "bye"))
    await bench.ready(key)
    await bench.engine.stop(key, 10)
    assert (await bench.ended(key)).exit_code == 0
    await bench.engine.stop(key, 10)


@ALL
async def test_stop_kills_what_ignores_sigterm(bench: Bench) -> None:
    key = await bench.started(bench.programs.ignore_term)
    await bench.ready(key)
    await bench.engine.stop(key, 1)
    assert (await bench.ended(key)).exit_code == 137


@ALL
async def test_kill(bench: Bench) -> None:
    key = await bench.started(bench.programs.ignore_term)
    await bench.ready(key)
    wait = asyncio.ensure_future(bench.ended(key))
    await bench.engine.kill(key)
    assert (await wait).exit_code == 137
    await bench.engine.kill(key)


@ALL
async def test_list_managed(bench: Bench) -> None:
    assert await bench.engine.list_managed() == []
    second, first = bench.key(attempt=2), bench.key(attempt=1)
    for key in (second, first):
        await bench.engine.start(key, bench.spec(key, bench.programs.run))
        await bench.ready(key)
    await bench.engine.stop(first, 10)
    await bench.ended(first)
    await bench.restart_agent()
    managed = await bench.engine.list_managed()
    assert [(entry.key, entry.running) for entry in managed] == [(first, False), (second, True)]
    assert all(entry.started is not None for entry in managed)
    await bench.engine.remove(first)
    assert [entry.key for entry in await bench.engine.list_managed()] == [second]


@ALL
async def test_verbs_for_a_node_that_is_not_there(bench: Bench) -> None:
    key = bench.key()
    await bench.engine.stop(key, 1)
    await bench.engine.kill(key)
    await bench.engine.remove(key)
    end = await bench.ended(key)
    assert end.exit_code is None
    assert key.name in end.reason


@ALL
async def test_remove_is_idempotent_and_keeps_the_output(bench: Bench) -> None:
    key = await bench.started(bench.programs.once)
    await bench.ended(key)
    await bench.engine.remove(key)
    await bench.engine.remove(key)
    assert await bench.engine.list_managed() == []
    assert bench.output(key) == "once\n"


@ALL
async def test_an_unknown_program_is_permanent(bench: Bench) -> None:
    key = bench.key()
    spec = bench.spec(key, bench.programs.unknown)
    for _ in range(2):
        with pytest.raises(
            EngineError, match=r"CannotStartContainerError: .*no-such-program"
        ) as at:
            await bench.engine.start(key, spec)
        assert at.value.error_class is ErrorClass.PERMANENT
    assert all(not entry.running for entry in await bench.engine.list_managed())


@REAL
async def test_the_whole_tree_ends_with_the_first_process(bench: Bench) -> None:
    grandchild = "setsid sh -c 'trap \"\" TERM; echo ready; sleep 1000' &"
    key = await bench.started(shell(f"trap 'exit 5' TERM; {grandchild} wait"))
    await bench.ready(key)
    assert len(pids_of(key)) >= 2
    await bench.engine.stop(key, 10)
    assert (await bench.ended(key)).exit_code == 5
    assert pids_of(key) == []


@REAL
async def test_remove_ends_what_still_runs(bench: Bench) -> None:
    key = await bench.started(shell("(setsid sh -c 'echo ready; sleep 1000' &); sleep 1000"))
    await bench.ready(key)
    assert len(pids_of(key)) >= 2
    await bench.engine.remove(key)
    assert pids_of(key) == []


@REAL
async def test_the_environment_is_exact(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_AGENT", "secret")
    monkeypatch.setenv("http_proxy", "http://of-the-agent")
    environment = (
        ("PATH", "/elsewhere:/bin:/usr/bin"),
        ("HOME", "/root"),
        ("DOCKER_HOST", "unix:///nowhere"),
        ("CONTAINER_HOST", "unix:///nowhere"),
        ("LD_PRELOAD", ""),
        ("LINES", "one\ntwo\n\nfour = 4\n"),
        ("CARRIAGE", "a\r"),
        ("SPACES", "  a  b  "),
        ("QUOTED", "\"a\" 'b' `c` $HOME \\n #x"),
        ("EMPTY", ""),
        ("UNICODE", "größe ✓"),
    )
    key = bench.key()
    spec = bench.spec(key, ("cat", "/proc/self/environ"), environment=environment)
    await bench.engine.start(key, spec)
    assert (await bench.ended(key)).exit_code == 0
    entries = bench.output(key).split("\0")[:-1]
    seen = dict(entry.split("=", 1) for entry in entries)
    for added in ("HOSTNAME", "TERM", "container"):
        # What the two container engines set on their own.
        seen.pop(added, None)
    assert seen == dict(spec.environment)


@REAL
async def test_secrets_are_in_no_command_line(bench: Bench) -> None:
    key = bench.key()
    secrets = (("ONE", "a-secret-of-one-line"), ("TWO", "a-secret-of\ntwo-lines"))
    references = tuple(SecretRef(name=name, key=name) for name, _ in secrets)
    seen: list[bytes] = []

    async def look() -> None:
        while True:
            seen.extend(command_lines())
            await asyncio.sleep(0)

    looking = asyncio.ensure_future(look())
    try:
        spec = bench.spec(key, bench.programs.run, environment=secrets, secrets=references)
        await bench.engine.start(key, spec)
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    assert any(key.name.encode() in line for line in seen)
    assert [line for line in seen if b"a-secret-of" in line] == []
    await bench.engine.kill(key)


@CONTAINERS
async def test_no_secret_is_in_an_engines_complaint(bench: Bench) -> None:
    key = bench.key()
    secrets = (("ONE", "s3cret-one"), ("TWO", "s3cret\ntwo"))
    command = ("s3cret-one", "s3cret")
    references = tuple(SecretRef(name=name, key=name) for name, _ in secrets)
    spec = bench.spec(key, command, environment=secrets, secrets=references)
    with pytest.raises(EngineError, match=r"CannotStartContainerError: .*\*\*\*") as at:
        await bench.engine.start(key, spec)
    assert "s3cret" not in at.value.reason


@REAL
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch the user")
async def test_user(bench: Bench) -> None:
    command = shell("id -u; id -g")
    key = await bench.started(command, user="1234:1235")
    assert (await bench.ended(key)).exit_code == 0
    assert bench.output(key) == "1234\n1235\n"


@REAL
async def test_an_unknown_user_is_permanent(bench: Bench) -> None:
    key = bench.key()
    spec = bench.spec(key, bench.programs.once, user="no-such-user")
    with pytest.raises(EngineError, match="unable to find user no-such-user") as at:
        await bench.engine.start(key, spec)
    assert at.value.error_class is ErrorClass.PERMANENT


@REAL
async def test_arguments_are_never_flags(bench: Bench) -> None:
    key = await bench.started(("echo", "--privileged", "-it", "--", "a  b", "*", "$HOME"))
    await bench.ended(key)
    assert bench.output(key) == "--privileged -it -- a  b * $HOME\n"


@REAL
async def test_more_output_than_the_spool_holds(bench: Bench) -> None:
    lines = 300_000
    count = f"i=0; while [ $i -lt {lines} ]; do echo $i; i=$((i+1)); done"
    key = await bench.started(shell(count))
    assert (await bench.ended(key)).exit_code == 0
    directory = bench.spool_dir / key.name
    first, end = spool.bounds(directory)
    assert end == sum(len(f"{i}\n") for i in range(lines))
    assert LIMIT_BYTES * 3 // 4 < end - first <= LIMIT_BYTES
    assert spool.tail(directory, 7)[1].decode() == f"{lines - 1}\n"


@CONTAINERS
async def test_no_command_is_the_image_s_own(bench: Bench) -> None:
    key = await bench.started(())
    await bench.ended(key)
    assert bench.output(key) == "image-command\n"


@CONTAINERS
async def test_an_image_that_is_no_name_is_permanent(bench: Bench) -> None:
    key = bench.key()
    for image in ("Bad IMAGE", "--privileged"):
        spec = bench.spec(key, bench.programs.once, image=image)
        with pytest.raises(EngineError, match=r"CannotPullContainerError: .*invalid") as at:
            await bench.engine.prepare(key, spec)
        assert at.value.error_class is ErrorClass.PERMANENT


@CONTAINERS
async def test_a_registry_that_is_away_is_transient(bench: Bench) -> None:
    key = bench.key()
    # Port 1 of this host: refused at once, by everybody.
    spec = bench.spec(key, bench.programs.once, image="127.0.0.1:1/absent:1")
    with pytest.raises(EngineError, match=r"CannotPullContainerError: .*refused") as at:
        await bench.engine.prepare(key, spec)
    assert at.value.error_class is ErrorClass.TRANSIENT


@CONTAINERS
async def test_an_image_that_is_not_here_cannot_be_created(bench: Bench) -> None:
    key = bench.key()
    spec = bench.spec(key, bench.programs.once, image="127.0.0.1:1/absent:1")
    with pytest.raises(EngineError, match="CannotCreateContainerError: ") as at:
        await bench.engine.start(key, spec)
    assert at.value.error_class is ErrorClass.PERMANENT


@engines(DOCKER)
async def test_out_of_memory(bench: Bench) -> None:
    key = bench.key()
    grow = shell("x=a; while :; do x=$x$x; done")
    await bench.engine.start(key, bench.spec(key, grow, memory_mib=8))
    end = await bench.ended(key)
    assert end.reason == "OutOfMemoryError: Container killed due to memory usage"
    assert end.exit_code == 137


@engines(PROCESS)
async def test_a_process_that_a_signal_ends(bench: Bench) -> None:
    key = await bench.started(shell("kill -HUP $$"))
    assert (await bench.ended(key)).exit_code == 129


@engines(PROCESS)
async def test_a_process_needs_a_command(bench: Bench) -> None:
    key = bench.key()
    with pytest.raises(EngineError, match="the process engine needs a command") as at:
        await bench.engine.prepare(key, bench.spec(key, ()))
    assert at.value.error_class is ErrorClass.PERMANENT


@pytest.mark.parametrize("engine_class", [DockerEngine, PodmanEngine])
async def test_an_engine_that_is_not_installed_is_gone(
    engine_class: type[DockerEngine | PodmanEngine], tmp_path: Path
) -> None:
    site = Site(host_id="host", private_ipv4="127.0.0.1")
    engine = engine_class("no-such-binary", site, tmp_path, LIMIT_BYTES)
    with pytest.raises(EngineError) as at:
        await engine.list_managed()
    assert at.value.error_class is ErrorClass.ENGINE_GONE


@pytest.mark.real("docker")
async def test_a_daemon_that_is_away_is_gone(tmp_path: Path) -> None:
    nowhere = ("--host", f"unix://{tmp_path}/sock")
    engine = DockerEngine(
        "docker",
        Site(host_id="host", private_ipv4="127.0.0.1"),
        tmp_path,
        LIMIT_BYTES,
        engine_args=nowhere,
    )
    key = NodeKey(job_id="j", attempt=1, node_index=0)
    for verb in (engine.probe(), engine.wait(key), engine.stop(key, 1), engine.list_managed()):
        with pytest.raises(EngineError, match="docker") as at:
            await verb
        assert at.value.error_class is ErrorClass.ENGINE_GONE


@engines(FAKE)
async def test_what_a_fake_node_can_be_told_to_do(bench: Bench) -> None:
    key = bench.key()
    failure = ("TRANSIENT", "as told")
    with pytest.raises(EngineError, match="as told") as at:
        await bench.engine.prepare(key, bench.spec(key, ("fail-prepare", *failure)))
    assert at.value.error_class is ErrorClass.TRANSIENT
    with pytest.raises(EngineError, match="as told"):
        await bench.engine.start(key, bench.spec(key, ("fail-start", *failure)))
    await bench.engine.start(key, bench.spec(key, ("oom",)))
    assert (await bench.ended(key)).reason.startswith("OutOfMemoryError")
    assert isinstance(bench.engine, FakeEngine)
    survivor = NodeKey(job_id="survivor", attempt=1, node_index=0)
    await bench.engine.start(survivor, bench.spec(survivor, ("fail-remove", *failure)))
    bench.engine.host.end(survivor, 0)
    with pytest.raises(EngineError, match="as told"):
        await bench.engine.remove(survivor)
    del bench.engine.host.containers[survivor]
