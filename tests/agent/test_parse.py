"""What docker 20.10 and 28 and podman 4.3 print, as recorded, and what it means to us."""

from __future__ import annotations

import json

import pytest

from agent.core.assignment import NodeKey
from agent.engine import parse
from agent.engine.port import ErrorClass, Exit, Started

DAEMON = "Error response from daemon: "
ID = "044b" * 16


@pytest.mark.parametrize(
    "stderr",
    [
        f"{DAEMON}No such image: nosuch:1",
        "Error: nosuch:1: image not known",
        "invalid reference format",
        "invalid reference format: repository name (library/Bad IMG) must be lowercase",
        'Error: short-name "a/b:1" did not resolve to an alias and no registries',
        f"{DAEMON}manifest for redis:nosuch not found: manifest unknown: manifest unknown",
        f"{DAEMON}pull access denied for a/b, repository does not exist or may require login",
        "Error: initializing source docker://a/b:1: reading manifest 1 in a/b: unauthorized: no",
        f"{DAEMON}no matching manifest for linux/arm64/v8 in the manifest list entries",
        f"{DAEMON}unable to find user nosuch: no matching entries in passwd file",
        f'{DAEMON}runc create failed: exec: "x": executable file not found in $PATH: unknown',
        'Error: unable to start container "a5": runc: exec: "/etc": permission denied',
        "Error: no command or entrypoint provided, and no CMD or ENTRYPOINT from image",
    ],
)
def test_what_fails_on_every_host(stderr: str) -> None:
    assert parse.error_class(stderr) is ErrorClass.PERMANENT


@pytest.mark.parametrize(
    "stderr",
    [
        f'{DAEMON}Get "https://registry-1.docker.io/v2/": dial tcp: lookup it: no such host',
        f'{DAEMON}Get "http://localhost/v2/": dial tcp 127.0.0.1:80: connect: connection refused',
        f"{DAEMON}toomanyrequests: You have reached your pull rate limit",
        "Error: write /var/tmp/x: no space left on device",
        "",
    ],
)
def test_what_may_pass(stderr: str) -> None:
    assert parse.error_class(stderr) is ErrorClass.TRANSIENT


def test_a_jobs_own_words_say_nothing_of_the_engine() -> None:
    words = 'exec: "is the docker daemon running": cannot connect to the docker daemon'
    for stderr in (
        f"docker: Error response from daemon: {words}",
        f"Error response from daemon: oops\nCannot connect to the Docker daemon: {words}",
        f"Error: runc: {words}: executable file not found",
    ):
        assert parse.error_class(stderr) is not ErrorClass.ENGINE_GONE


def test_secrets_are_made_unreadable() -> None:
    said = "no variable name on line '=hunter2' nor key-one or key-two"
    assert parse.without(["hunter2", "key-one\nkey-two\n"], said) == (
        "no variable name on line '=***' nor *** or ***"
    )
    assert parse.without(["", "\n"], said) == said


@pytest.mark.parametrize(
    "stderr",
    [
        "Cannot connect to the Docker daemon at unix:///sock. Is the docker daemon running?",
        "error during connect: Get http://%2Fvar%2Frun%2Fdocker.sock/v1.24/version: EOF",
        "permission denied while trying to connect to the Docker daemon socket at unix:///sock",
        "Got permission denied while trying to connect to the Docker daemon socket",
        "dial unix /var/run/docker.sock: connect: permission denied",
        "Error: unable to connect to Podman socket: Get http://d/v4.3.1/libpod/_ping",
    ],
)
def test_what_says_that_the_engine_is_away(stderr: str) -> None:
    assert parse.error_class(stderr) is ErrorClass.ENGINE_GONE


@pytest.mark.parametrize(
    "stderr",
    [
        f"{DAEMON}No such container: a",
        f"{DAEMON}Cannot kill container: a: No such container: a",
        "Error: inspecting object: no such container a",
        'Error: no container with name or ID "a" found: no such container',
    ],
)
def test_absent(stderr: str) -> None:
    assert parse.says_absent(stderr)


def test_a_missing_program_is_not_an_absent_container() -> None:
    assert not parse.says_absent('exec: "x": no such file or directory')


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        (
            f"{DAEMON}unable to find user x\nError: failed to start containers: y\n",
            "unable to find user x",
        ),
        (
            "Trying to pull a...\nError: reading manifest: unauthorized\n",
            "reading manifest: unauthorized",
        ),
        ("invalid reference format\n", "invalid reference format"),
        ("", "the engine gave no reason"),
    ],
)
def test_message(stderr: str, words: str) -> None:
    assert parse.message(stderr) == words


def inspected(**state: object) -> str:
    """`container inspect`, with all that is read of it."""
    recorded = {
        "Status": "exited",
        "Pid": 0,
        "OOMKilled": False,
        "ExitCode": 3,
        "Error": "",
        "StartedAt": "2026-11-23T20:35:52.466591874Z",
        "FinishedAt": "2026-11-23T21:35:54.468+01:00",
        **state,
    }
    return json.dumps([{"Id": ID, "Name": "/muster-j-1-0", "State": recorded}])


def test_an_ended_container() -> None:
    [container] = parse.containers(inspected())
    assert container.key == NodeKey(job_id="j", attempt=1, node_index=0)
    assert container.started == Started(container_id=ID, started_at_ms=1795466152466)
    assert container.has_ended
    assert not container.is_running
    assert container.end == Exit(exit_code=3, stopped_at_ms=1795466154468)


@pytest.mark.parametrize("code", [0, 137])
def test_out_of_memory_is_said_whatever_the_code(code: int) -> None:
    [container] = parse.containers(inspected(OOMKilled=True, ExitCode=code))
    assert container.end.exit_code == code
    assert container.end.reason == "OutOfMemoryError: Container killed due to memory usage"


def test_an_end_is_never_before_its_start() -> None:
    [container] = parse.containers(inspected(FinishedAt="2026-11-23T20:35:52.465Z"))
    assert container.end.stopped_at_ms == 1795466152466


@pytest.mark.parametrize("status", ["running", "paused", "stopping", "restarting"])
def test_a_container_with_processes(status: str) -> None:
    [container] = parse.containers(inspected(Status=status, Pid=7))
    assert container.is_running
    assert container.started is not None


@pytest.mark.parametrize("status", ["created", "configured", "initialized"])
def test_a_container_that_never_ran(status: str) -> None:
    [container] = parse.containers(inspected(Status=status, StartedAt="0001-01-01T00:00:00Z"))
    assert container.started is None
    assert not container.is_running
    assert not container.has_ended


@pytest.mark.parametrize("printed", ["", "{}x", '[{"Id": "a"}]', "[1]"])
def test_what_is_no_inspection(printed: str) -> None:
    with pytest.raises(ValueError, match=r"inspect prints|^Expecting|^Extra"):
        parse.containers(printed)


def test_k8s_file() -> None:
    log = (
        b"2026-11-23T20:35:57.01+00:00 stdout F one  two\n"
        b"2026-11-23T20:35:57.02+00:00 stderr P thr\n"
        b"2026-11-23T20:35:57.02+00:00 stderr F ee\n"
        b"2026-11-23T20:35:57.03+00:00 stdout F \n"
    )
    assert parse.k8s_file_output(log) == (b"one  two\nthree\n\n", len(log))
    assert parse.k8s_file_output(log + b"2026-11-23T") == (b"one  two\nthree\n\n", len(log))
    assert parse.k8s_file_output(b"2026") == (b"", 0)


NEVER = "0001-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "state",
    [
        # Podman 4.3, which takes it for one that a reboot has ended and that may be started again.
        {"Status": "created", "ExitCode": 0},
        # Later releases.
        {"Status": "exited", "ExitCode": 0},
    ],
)
def test_a_container_of_which_the_record_was_lost(state: dict[str, object]) -> None:
    """Neither one that never ran nor one that ended well."""
    [container] = parse.containers(inspected(**state, FinishedAt=NEVER))
    assert container.is_lost
    assert container.started is not None
    assert not container.has_ended
    assert not container.is_running
    [never_ran] = parse.containers(inspected(**state, StartedAt=NEVER, FinishedAt=NEVER))
    assert not never_ran.is_lost
