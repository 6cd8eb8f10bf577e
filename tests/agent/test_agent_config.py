"""Defaults, file and flags of an agent. What both daemons share is tested with the coordinator."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agent.config import AgentConfig, load
from agent.options import ConfigError, Endpoint, TlsFiles

NEEDED = ["--coordinator", "c:7400", "--data-dir", "/d"]


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "agent.toml"


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `load` says on stderr when it refuses `argv`."""
    with pytest.raises(SystemExit) as exited:
        load(argv)
    assert exited.value.code == 2
    return capsys.readouterr().err


def test_defaults() -> None:
    assert load(NEEDED) == AgentConfig(
        coordinator=Endpoint("c", 7400),
        host_id=socket.gethostname(),
        data_dir=Path("/d"),
        private_ip=None,
        engine="docker",
        engine_binary=None,
        engine_args=(),
        run_args=(),
        instance_type=None,
        label={},
        spool_limit_mib=64,
        spool_total_mib=1024,
        tls_cert=None,
        tls_key=None,
        tls_ca=None,
        imds_endpoint="http://169.254.169.254",
        log_level="info",
    )


def test_file_and_flags_say_the_same(toml: Path) -> None:
    toml.write_text(
        """
        coordinator = "[fd00::1]:7400"
        host_id = "h-1"
        data_dir = "/d"
        private_ip = "10.0.0.7"
        engine = "podman"
        engine_binary = "/opt/podman"
        engine_args = ["--root=/fast", "--log-level=warn"]
        run_args = ["--device=/dev/infiniband"]
        instance_type = "p5.48xlarge"
        spool_limit_mib = 1
        spool_total_mib = 2
        tls_cert = "c"
        tls_key = "k"
        tls_ca = "a"
        imds_endpoint = ""
        log_level = "debug"
        [label]
        rack = "12"
        note = "a=b, c"
        """
    )
    flags = [
        *("--coordinator", "[fd00::1]:7400", "--host-id", "h-1", "--data-dir", "/d"),
        *("--private-ip", "10.0.0.7", "--engine", "podman", "--engine-binary", "/opt/podman"),
        *("--engine-args=--root=/fast", "--engine-args=--log-level=warn"),
        *("--run-args=--device=/dev/infiniband", "--instance-type", "p5.48xlarge"),
        *("--spool-limit-mib", "1", "--spool-total-mib", "2", "--tls-cert", "c"),
        *("--tls-key", "k", "--tls-ca", "a", "--imds-endpoint", "", "--log-level", "debug"),
        *("--label", "rack=12", "--label", "note=a=b, c"),
    ]
    config = load(flags)
    assert load(["--config", str(toml)]) == config
    assert config.engine_args == ("--root=/fast", "--log-level=warn")
    assert config.label == {"rack": "12", "note": "a=b, c"}
    assert config.tls == TlsFiles(*map(Path, "cka"))


def test_a_flag_replaces_lists_and_labels_of_the_file_whole(toml: Path) -> None:
    toml.write_text('run_args = ["-a", "-b"]\nlabel = { rack = "1", row = "2" }\n')
    config = load([*NEEDED, "--config", str(toml), "--run-args=-c", "--label", "rack=3"])
    assert (config.run_args, config.label) == (("-c",), {"rack": "3"})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("engine_args = '--root=/x'", "engine_args is '--root=/x'; it must be a list of strings"),
        ("run_args = [1]", "run_args is [1]; it must be a list of strings, none empty"),
        ("label = { gpu = 8 }", "label is {'gpu': 8}; it must be a table of strings"),
        ("label = ['a=b']", "label is ['a=b']; it must be a table of strings"),
        ("labels = {}", "unknown key labels; did you mean label?"),
        ("stop_grace_seconds = 5", "unknown key stop_grace_seconds; known keys: coordinator, "),
    ],
)
def test_a_wrong_key_or_value_in_the_file(
    content: str, says: str, toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml.write_text(content)
    assert f"error: {toml}: {says}" in refusal([*NEEDED, "--config", str(toml)], capsys)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--data-dir", "/d"], "coordinator is missing: give --coordinator HOST:PORT"),
        (["--coordinator", "c:1"], "data_dir is missing: give --data-dir DIR"),
        ([*NEEDED, "--coordinator", "c:0"], "--coordinator is 'c:0'; it must be HOST:PORT, a port"),
        ([*NEEDED, "--coordinator", "c"], "--coordinator is 'c'; it must be HOST:PORT"),
        ([*NEEDED, "--host-id", "-a"], "--host-id: expected one argument"),
        ([*NEEDED, "--host-id", "a/b"], "--host-id is 'a/b'; it must be 1 to 128 of letters"),
        ([*NEEDED, "--host-id", "a" * 129], "it must be 1 to 128 of letters"),
        ([*NEEDED, "--private-ip", "::1"], "--private-ip is '::1'; it must be an IPv4 address"),
        ([*NEEDED, "--private-ip", "0.0.0.0"], "it must be an IPv4 address that other hosts can"),
        ([*NEEDED, "--private-ip", "224.0.0.1"], "it must be an IPv4 address"),
        ([*NEEDED, "--engine", "lxc"], "--engine is 'lxc'; it must be one of process, docker, pod"),
        ([*NEEDED, "--engine", "process", "--run-args=-x"], "run_args is for docker and podman"),
        ([*NEEDED, "--label", "rack"], "--label is ['rack']; it must be a table of strings"),
        ([*NEEDED, "--label", "=x"], "--label is {'': 'x'}; it must be a table of strings"),
        ([*NEEDED, "--spool-limit-mib", "2048"], "at least spool_limit_mib, which is 2048"),
        ([*NEEDED, "--tls-ca", "a"], "tls_cert, tls_key and tls_ca go together"),
        ([*NEEDED, "--imds-endpoint", "169.254.169.254"], "it must be http://HOST[:PORT]"),
        ([*NEEDED, "--imds-endpoint", "http://h/x"], "it must be http://HOST[:PORT]"),
        ([*NEEDED, "--imds-endpoint", "https://h"], "it must be http://HOST[:PORT]"),
        ([*NEEDED, "--imds-endpoint", "http://h:99999"], "it must be http://HOST[:PORT]"),
    ],
)
def test_a_wrong_flag(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(argv, capsys)
    assert "muster-agent: error: " in said
    assert says in said


@pytest.mark.parametrize("url", ["", "http://169.254.169.254", "http://[fd00:ec2::254]:80"])
def test_an_imds_endpoint(url: str) -> None:
    assert load([*NEEDED, "--imds-endpoint", url]).imds_endpoint == url


def test_a_host_name_of_the_machine_that_is_no_host_id() -> None:
    with pytest.raises(ConfigError, match="host_id is 'my host'; it must be 1 to 128 of"):
        AgentConfig(coordinator=Endpoint("c", 7400), data_dir=Path("/d"), host_id="my host")


@pytest.mark.parametrize("appended", ["data_dir = '/d'", "engine = 'podman'"])
def test_a_setting_that_was_appended_behind_the_labels(
    toml: Path, appended: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of one that need not be given: it would be a label, and the default would be used."""
    toml.write_text(f'coordinator = "c:7400"\n[label]\nrack = "12"\n{appended}\n')
    said = refusal(["--config", str(toml), *NEEDED], capsys)
    key = appended.partition(" ")[0]
    assert f"{toml}: {key} stands below [label], where it is no setting; move it above that" in said
    assert load([*NEEDED, "--label", "engine=podman"]).label == {"engine": "podman"}
