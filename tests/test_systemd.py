"""The units and example settings are what systemd and the daemons accept."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from configparser import RawConfigParser
from pathlib import Path

import pytest

import agent.config
import agent.options
import coordinator.config
import coordinator.options
from coordinator.main import EXIT_UNREADABLE

SYSTEMD = Path(__file__).parents[1] / "systemd"
UNITS = ["muster-agent.service", "muster-coordinator.service"]


def complaints(unit: str, text: str, directory: Path) -> str:
    """What systemd says against a unit, whose program need not be installed. It exits with 0
    after an unknown directive, so any output counts."""
    copy = directory / unit
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", text))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60
    )
    return verified.stdout + verified.stderr + ("" if verified.returncode == 0 else "failed")


@pytest.mark.real("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_unit(unit: str, tmp_path: Path) -> None:
    assert complaints(unit, (SYSTEMD / unit).read_text(), tmp_path) == ""


@pytest.mark.real("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    ("right", "wrong"), [("Restart=always", "Restarts=always"), ("Type=notify", "Type=notified")]
)
def test_a_wrong_directive_would_be_seen(unit: str, right: str, wrong: str, tmp_path: Path) -> None:
    text = (SYSTEMD / unit).read_text()
    assert right in text
    assert "ignoring" in complaints(unit, text.replace(right, wrong), tmp_path)


@pytest.mark.real("systemd-analyze")
def test_the_coordinator_is_shut_in() -> None:
    """systemd's own rating, 0 to 100 here; without any hardening it is above 90."""
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager",
         SYSTEMD / "muster-coordinator.service"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout + rated.stderr


def service(unit: str) -> dict[str, str]:
    return section(unit, "Service")


def section(unit: str, name: str) -> dict[str, str]:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(SYSTEMD / unit)
    return dict(parser[name])


def test_jobs_outlive_a_restart_of_the_agent() -> None:
    directives = service("muster-agent.service")
    assert (directives["KillMode"], directives["Delegate"]) == ("process", "yes")
    # A job would inherit each of these.
    inherited = r"Protect|Private|Restrict|SystemCall|NoNew|Capab|OOMScore|Lock|UMask"
    assert [key for key in directives if re.match(inherited, key)] == []


@pytest.mark.parametrize(
    ("unit", "hopeless"),
    [("muster-agent.service", None), ("muster-coordinator.service", f"2 {EXIT_UNREADABLE}")],
)
def test_what_is_tried_again(unit: str, hopeless: str | None) -> None:
    """An agent always: nobody may come by the host whose settings are repaired. A coordinator
    unless a person has to decide something."""
    directives = service(unit)
    assert (directives["Type"], directives["Restart"]) == ("notify", "always")
    assert directives.get("RestartPreventExitStatus") == hopeless
    assert section(unit, "Unit")["StartLimitIntervalSec"] == "0"


def test_a_daemon_that_hangs_is_ended_before_a_job_fails_for_it() -> None:
    """With the defaults: an agent before the verdict on its host, a coordinator before leases end,
    and with time to start again."""
    settings = coordinator.config.CoordinatorConfig(data_dir=Path("/d"))
    agent_seconds = int(service("muster-agent.service")["WatchdogSec"])
    coordinator_seconds = int(service("muster-coordinator.service")["WatchdogSec"])
    assert settings.verdict_after_seconds is None
    verdict_seconds = min(300, settings.lease_seconds // 2)
    assert agent_seconds <= verdict_seconds / 2
    assert coordinator_seconds <= settings.lease_seconds / 2


def test_the_coordinator_starts_when_the_clock_is_right() -> None:
    """time-sync.target is reached by what waits for a clock that is synchronized."""
    directives = section("muster-coordinator.service", "Unit")
    for directive in ("Wants", "After"):
        assert "time-sync.target" in directives[directive].split()


@pytest.mark.parametrize("daemon", ["agent", "coordinator"])
def test_unit_and_example_agree_on_paths(daemon: str) -> None:
    directives = service(f"muster-{daemon}.service")
    program = f"/opt/muster/bin/muster-{daemon}"
    assert directives["ExecStart"] == f"{program} --config /etc/muster/{daemon}.toml"
    example = tomllib.loads((SYSTEMD / f"{daemon}.toml").read_text())
    assert example["data_dir"] == "/var/lib/" + directives["StateDirectory"]


def uncommented(example: Path, directory: Path) -> Path:
    """A copy of an example with every key in force. `#key` is a key, `# word` is prose."""
    copy = directory / example.name
    copy.write_text(re.sub(r"(?m)^#(?=[a-z_]+ = |\[)", "", example.read_text()))
    return copy


def test_the_coordinators_example_holds_every_key_and_each_default(tmp_path: Path) -> None:
    example = SYSTEMD / "coordinator.toml"
    full = uncommented(example, tmp_path)
    table = tomllib.loads(full.read_text())
    config = coordinator.config.load(["--config", str(full)])
    for key, (_, field) in coordinator.options.settings(type(config)).items():
        assert key in table
        if isinstance(field.default, str | int | tuple) and field.default != ():
            assert getattr(config, key) == field.default, key
    as_shipped = coordinator.config.load(["--config", str(example)])
    assert as_shipped == coordinator.config.CoordinatorConfig(data_dir=config.data_dir)


def test_the_agents_example_holds_every_key_and_each_default(tmp_path: Path) -> None:
    example = SYSTEMD / "agent.toml"
    full = uncommented(example, tmp_path)
    table = tomllib.loads(full.read_text())
    config = agent.config.load(["--config", str(full)])
    for key, (_, field) in agent.options.settings(type(config)).items():
        assert key in table
        if isinstance(field.default, str | int | tuple) and field.default != ():
            assert getattr(config, key) == field.default, key
    as_shipped = agent.config.load(["--config", str(example)])
    assert as_shipped == agent.config.AgentConfig(
        coordinator=config.coordinator, data_dir=config.data_dir
    )


@pytest.mark.real("systemd-sysusers")
def test_systemd_makes_the_coordinators_user() -> None:
    made = subprocess.run(
        ["systemd-sysusers", "--dry-run", SYSTEMD / "muster.sysusers.conf"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    # A machine that has the user already says nothing.
    assert made.returncode == 0, made.stderr
    assert not re.search("(?i)fail|invalid|unknown", made.stderr)
    assert service("muster-coordinator.service")["User"] == "muster"
