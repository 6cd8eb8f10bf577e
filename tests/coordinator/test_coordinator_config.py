"""Defaults, file and flags of the coordinator, and the errors that wrong ones get."""

from __future__ import annotations

from pathlib import Path

import pytest

import agent.options
import coordinator.options
from coordinator.config import CoordinatorConfig, load
from coordinator.options import Endpoint, TlsFiles

NEEDED = ["--data-dir", "/d"]
TLS = ["--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a"]


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "coordinator.toml"


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `load` says on stderr when it refuses `argv`."""
    with pytest.raises(SystemExit) as exited:
        load(argv)
    assert exited.value.code == 2
    return capsys.readouterr().err


def test_defaults() -> None:
    assert load(NEEDED) == CoordinatorConfig(
        listen=Endpoint("127.0.0.1", 7400),
        data_dir=Path("/d"),
        insecure=False,
        tls_cert=None,
        tls_key=None,
        tls_ca=None,
        heartbeat_seconds=5,
        lost_after_seconds=30,
        lease_seconds=600,
        stop_grace_seconds=30,
        fence_margin_seconds=30,
        vote_timeout_seconds=1800,
        retention_days=7,
        region="local",
        account_id="000000000000",
        log_level="info",
    )


def test_a_flag_beats_the_file_and_the_file_beats_the_default(toml: Path) -> None:
    toml.write_text('data_dir = "/from/file"\nheartbeat_seconds = 7\nlease_seconds = 0\n')
    config = load(["--config", str(toml), "--heartbeat-seconds", "9"])
    assert (config.data_dir, config.heartbeat_seconds) == (Path("/from/file"), 9)
    assert (config.lease_seconds, config.stop_grace_seconds) == (0, 30)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("hartbeat_seconds = 5", "unknown key hartbeat_seconds; did you mean heartbeat_seconds?"),
        ("zzz = 5", "unknown key zzz; known keys: listen, data_dir, "),
        ("[server]\nlisten = 5", "unknown key server; "),
        ('config = "x"', "unknown key config; "),
        (
            'heartbeat_seconds = "5"',
            "heartbeat_seconds is '5'; it must be a whole number from 1 to",
        ),
        ("heartbeat_seconds = true", "heartbeat_seconds is True; it must be a whole number"),
        ("heartbeat_seconds = 1.5", "heartbeat_seconds is 1.5; it must be a whole number"),
        ("retention_days = 0", "retention_days is 0; it must be a whole number from 1 to 3650"),
        ("insecure = 1", "insecure is 1; it must be true or false"),
        ("data_dir = ''", "data_dir is ''; it must be the path of a directory"),
        ("account_id = 123456789012", "account_id is 123456789012; it must be a string of 12"),
        (
            "log_level = 'INFO'",
            "log_level is 'INFO'; it must be one of debug, info, warning, error",
        ),
        ("listen = 7400", "listen is 7400; it must be HOST:PORT"),
    ],
)
def test_a_wrong_key_or_value_in_the_file(
    content: str, says: str, toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml.write_text(content)
    assert f"error: {toml}: {says}" in refusal([*NEEDED, "--config", str(toml)], capsys)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"listen = ", "is not TOML: Invalid value"), (b"region = '\xff'", "is not TOML: 'utf-8'")],
)
def test_a_file_that_is_not_toml(
    content: bytes, says: str, toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml.write_bytes(content)
    assert f"error: {toml} {says}" in refusal(["--config", str(toml)], capsys)


def test_a_file_that_cannot_be_read(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(["--config", str(toml)], capsys)
    assert f"error: cannot read {toml}: No such file or directory" in said


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "data_dir is missing: give --data-dir DIR, or set data_dir in the file"),
        ([*NEEDED, "--nope"], "unrecognized arguments: --nope"),
        ([*NEEDED, "stray"], "unrecognized arguments: stray"),
        # An abbreviation is no flag: it would change meaning with the next release.
        ([*NEEDED, "--lease", "60"], "unrecognized arguments: --lease 60"),
        ([*NEEDED, "--lease-seconds", "1h"], "--lease-seconds is '1h'; it must be a whole number"),
        ([*NEEDED, "--lease-seconds=-1"], "--lease-seconds is -1; it must be a whole number from"),
        ([*NEEDED, "--account-id", "12"], "--account-id is '12'; it must be a string of 12 digits"),
        ([*NEEDED, "--region", "a b"], "--region is 'a b'; it must be 1 to 64 of lower-case"),
        ([*NEEDED, "--lost-after-seconds", "9"], "at least two heartbeats, which is 10"),
        ([*NEEDED, "--lease-seconds", "1"], "0 or at least lost_after_seconds, which is 30"),
        ([*NEEDED, "--lease-seconds", "29"], "0 or at least lost_after_seconds, which is 30"),
        ([*NEEDED, "--tls-cert", "c"], "tls_cert, tls_key and tls_ca go together"),
        ([*NEEDED, *TLS, "--insecure"], "insecure contradicts tls_cert"),
    ],
)
def test_a_wrong_flag(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(argv, capsys)
    assert "muster-coordinator: error: " in said
    assert says in said


def test_settings_of_a_file_that_contradict_one_another_name_the_file(
    toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml.write_text("lost_after_seconds = 9")
    said = refusal([*NEEDED, "--config", str(toml)], capsys)
    assert f"error: {toml}, with the flags: lost_after_seconds is 9; it must be" in said


@pytest.mark.parametrize("listen", ["0.0.0.0:7400", "[::]:7400", "10.0.0.1:7400", "me.example:1"])
def test_without_tls_only_loopback_may_be_listened_on(
    listen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal([*NEEDED, "--listen", listen], capsys)
    assert f"listen is {listen}, which other machines may reach, and there is no TLS" in said
    assert str(load([*NEEDED, "--listen", listen, "--insecure"]).listen) == listen
    assert load([*NEEDED, "--listen", listen, *TLS]).tls == TlsFiles(*map(Path, "cka"))


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.0.0.11:65535", "localhost:7400", "[::1]:1"])
def test_loopback_needs_neither_tls_nor_insecure(listen: str) -> None:
    config = load([*NEEDED, "--listen", listen])
    assert str(config.listen) == listen
    assert config.tls is None


@pytest.mark.parametrize(
    "listen",
    [
        "7400", ":7400", "host", "host:", "host:65536", "host:-1", "::1:7400", "[::1]", "[x]:1",
        "http://host:1", "host:1/", "a..b:1", "host:\u0661", "u@host:1", " host:1", "host:1\n",
    ],
)  # fmt: skip
def test_what_is_no_endpoint(listen: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal([*NEEDED, "--insecure", f"--listen={listen}"], capsys)
    assert f"--listen is {listen!r}; it must be HOST:PORT" in said


def test_version_and_help_print_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--version", "--help"):
        with pytest.raises(SystemExit) as exited:
            load([flag])
        assert exited.value.code == 0
    version, _, help_text = capsys.readouterr().out.partition("\n")
    assert version == f"muster-coordinator {coordinator.options.version()}"
    for key in coordinator.options.settings(CoordinatorConfig):
        assert f"  {coordinator.options.flag(key)}" in help_text


def test_both_daemons_have_the_same_options_module() -> None:
    ours, theirs = coordinator.options.__file__, agent.options.__file__
    assert Path(ours).read_text() == Path(theirs).read_text()
