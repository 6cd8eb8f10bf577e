"""Each error says what was wrong, where, and what would be right, and ends with its own code."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from cli import main
from tests.cli.conftest import Muster, spawn
from tests.cli.fake_coordinator import FakeCoordinator, Refusal


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.NOT_FOUND, 3),
        (grpc.StatusCode.UNAVAILABLE, 4),
        (grpc.StatusCode.FAILED_PRECONDITION, 1),
        (grpc.StatusCode.PERMISSION_DENIED, 1),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.UNIMPLEMENTED, 1),
    ],
)
async def test_each_status_has_its_exit_code(
    fake: FakeCoordinator, muster: Muster, code: grpc.StatusCode, exit_code: int
) -> None:
    fake.answer("ExplainJob", Refusal(code, "the job id is 'x'"))
    ended = await muster("explain", "x")
    assert (ended.code, ended.out) == (exit_code, b"")
    assert ended.err.startswith("muster: ")
    assert "the job id is 'x'" in ended.err
    assert len(ended.err.splitlines()) == 1


async def test_an_absent_coordinator_is_named(fake: FakeCoordinator, muster: Muster) -> None:
    await fake.stop()
    ended = await muster("hosts")
    assert ended.code == 4
    assert f"cannot reach the coordinator at {fake.address}" in ended.err
    assert "MUSTER_COORDINATOR" in ended.err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["frob"], "there is no command 'frob'"),
        (["host"], "did you mean hosts?"),
        ([], "no command"),
        (["hosts", "drain"], "required: HOST"),
        (["explain", "x", "--outp", "json"], "unrecognized arguments: --outp json"),
        (["list", "--status", "DONE"], "invalid choice: 'DONE'"),
        (["submit", "a", "--definition", "d", "--env", "A"], "'A' must be K=V"),
        (["submit", "--definition", "d"], "no job name"),
        (["submit", "a"], "no job definition"),
        (
            ["logs", "a", "--tail", "0"],
            "--tail: '0' must be a whole number, 1 to 9223372036854775807",
        ),
        (["logs", "a", "--tail", str(2**63)], f"'{2**63}' must be a whole number, 1 to"),
        (["logs", "a", "--attempt", str(2**31)], "--attempt: '2147483648' must be a whole number"),
        *(
            (
                ["submit", "a", "--definition", "d", flag, wrong],
                f"{flag}: {shown} must be a whole nu",
            )
            for flag in ("--num-nodes", "--attempts", "--timeout", "--barrier")
            for wrong, shown in (
                *(("99999999999", "'99999999999'"), ("0", "'0'"), ("x", "'x'")),
                ("9" * 5000, f"'{'9' * 40}...'"),
            )
        ),
        (["queues", "create", "q", "--priority", "2147483648"], "-2147483648 to 2147483647"),
        (["queues", "update", "q", "--priority", "-2147483649"], "'-2147483649' must be a whole"),
        (["logs", "a", "-f", "--attempt", "2"], "one node of one attempt is a#N"),
        (["--coordinator", "nowhere", "hosts"], "it must be HOST:PORT"),
        (["--tls-ca", "ca.pem", "hosts"], "--tls-cert and --tls-key missing"),
        (
            ["hosts", "--tls-ca", "/no/ca", "--tls-cert", "/no/c", "--tls-key", "/no/k"],
            "--tls-cert: cannot read /no/c: No such file",
        ),
    ],
)
async def test_wrong_usage(muster: Muster, argv: list[str], told: str) -> None:
    ended = await muster(*argv)
    assert ended.code == 2
    assert ended.err.startswith("muster: ")
    assert told in ended.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"jobName": "a",}', "line 1, column 17: not JSON"),
        ('{\n "jobName": "a",\n "jobQeue": "q"\n}', "line 3: unknown member jobQeue; did you mean"),
        ('{"jobName": 1}', "line 1: jobName is 1; it must be a string"),
        ('{"jobName": "a", "jobName": "b"}', "jobName is there twice"),
        ('{"nodeOverrides": {"numNodes": "x"}}', 'nodeOverrides.numNodes is "x"; it must be a wh'),
        ('{"dependsOn": {}}', "dependsOn is {}; it must be a list"),
        ('{"dependsOn": [{"type": "FOO"}]}', 'dependsOn[0].type is "FOO"; it must be one of'),
        ('{"parameters": {"a": 1}}', "parameters.a is 1; it must be a string"),
        ('{"timeout": {"attemptDurationSeconds": 1.5}}', "attemptDurationSeconds is 1.5"),
        ("[]", "the whole must be an object"),
        ('{"nodeOverrides": {"numNodes": 99999999999}}', "99999999999"),
    ],
)
async def test_bad_json_is_placed(tmp_path: Path, muster: Muster, text: str, told: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(text)
    ended = await muster("submit", "--json", str(path))
    assert ended.code == 2
    assert ended.err.startswith(f"muster: {path}")
    assert told in ended.err
    assert len(ended.err.splitlines()) == 1


async def test_a_file_that_is_not_there(muster: Muster) -> None:
    ended = await muster("definitions", "register", "/no/such.json")
    assert (ended.code, ended.err) == (
        2,
        "muster: cannot read /no/such.json: No such file or directory\n",
    )


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("drain", "What it runs goes on"),
        ("resume", "QUARANTINED"),
        ("fence", "Look first that the machine is off: if it lives, two attempts of the job run"),
        ("forget", "refused while its agent is connected and while something may run there"),
    ],
)
def test_the_help_of_a_verb_on_hosts_says_what_it_does(
    verb: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main.parse(["hosts", verb, "--help"])
    assert said in " ".join(capsys.readouterr().out.split())


def test_help_needs_no_grpc() -> None:
    """`muster --help` answers at once, so nothing slow may creep into its imports."""
    import subprocess
    import sys

    from tests.cli.conftest import ROOT

    program = (
        "import sys, cli.main\n"
        "try: cli.main.parse(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'grpc', 'asyncio', 'google.protobuf'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "80"},
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for command in main.COMMANDS:
        assert f"\n  {command} " in done.stdout


async def test_a_reader_that_goes_away_is_no_error(fake: FakeCoordinator) -> None:
    from muster.v1.host_service_pb2 import ListHostsResponse
    from tests.cli.records import host

    fake.answer("ListHosts", ListHostsResponse(hosts=[host(f"h{n}") for n in range(8000)]))
    process = await spawn(fake, "hosts")
    assert process.stdout
    assert process.stderr
    await process.stdout.read(1)
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert await process.stderr.read() == b""
    assert await process.wait() == 141


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.parse(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("muster ")
