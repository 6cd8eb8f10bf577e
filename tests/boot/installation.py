"""Muster on machines that boot, installed with the commands of docs/configuration.md.

The page's own commands are run, so a page that is wrong fails. What a machine without a way to
the internet lacks comes beside them: the sources, and the packages that pip would fetch.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from tests.boot.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
SOURCES = "/usr/src/muster"
_WHEELS = "/usr/src/wheels"
_NEEDED = ("agent", "cli", "coordinator", "proto", "systemd", "pyproject.toml")

ENVIRONMENT = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_FIND_LINKS": _WHEELS,
    "PIP_NO_INDEX": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}
"""What lets pip do without an index in the machines."""

_INSTALL_SECONDS = 180.0


def documented() -> tuple[list[str], list[str], list[str]]:
    """The commands of the page, a line each: for every machine, for the coordinator's, for a
    host."""
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    section = page.partition("## Install with systemd\n")[2].partition("\n## ")[0]
    everywhere, head, host = re.findall(
        r"```sh\n(.*?)```", section.partition("\n### ")[0], re.DOTALL
    )
    return everywhere.splitlines(), head.splitlines(), host.splitlines()


def layer(directory: Path, tree: Path) -> Path:
    """What is installed on every machine, as a layer over the tree, in a new directory."""
    upper, work, root = (directory / part for part in ("upper", "work", "root"))
    for part in (upper, work, root):
        part.mkdir(parents=True)
        part.chmod(0o755)
    _copy_sources(upper / SOURCES.lstrip("/"))
    _fetch_wheels(upper / _WHEELS.lstrip("/"), tree)
    everywhere, _, _ = documented()
    mount = 'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"'
    commands = "\n".join([f"cd {SOURCES}", *everywhere])
    installed = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", f'{mount}; exec chroot "$4" sh -euc "$5"', "sh",
         tree, upper, work, root, commands],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **ENVIRONMENT},
        timeout=_INSTALL_SECONDS,
    )  # fmt: skip
    assert installed.returncode == 0, f"{commands}\n{installed.stdout}{installed.stderr}"
    return upper


def _copy_sources(target: Path) -> None:
    target.mkdir(parents=True)
    for name in _NEEDED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, target / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, target / name)


def _fetch_wheels(target: Path, tree: Path) -> None:
    """All that `pip install .` needs, for the Python of the tree, by the way that this Python's
    pip knows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    # The releases of setuptools that build without wheel are younger than what it asks for.
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"], "wheel"]
    python = (tree / "usr/bin/python3").readlink().name.removeprefix("python")
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:",
         f"--python-version={python}", f"--dest={target}", *wanted],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=_INSTALL_SECONDS,
    )  # fmt: skip
    assert fetched.returncode == 0, fetched.stderr


def follow(machine: Machine, commands: list[str], daemon: str, settings: Mapping[str, str]) -> None:
    """Follow the page on a machine. Once the example is in place its settings are edited, as the
    operator would, before anything starts."""
    for command in commands:
        machine.sh(f"cd {SOURCES}/systemd\n{command}")
        if command.endswith(" /etc/muster/"):
            write_settings(machine, daemon, settings)


def write_settings(machine: Machine, daemon: str, settings: Mapping[str, str]) -> None:
    """The example of a daemon with some keys set to what TOML text they are given."""
    text = (ROOT / "systemd" / f"{daemon}.toml").read_text("utf-8")
    for key, value in settings.items():
        text, found = re.subn(rf"(?m)^#?{key} = .*$", f"{key} = {value}", text)
        assert found == 1, f"{daemon}.toml: {found} lines for {key}"
    machine.path(f"/etc/muster/{daemon}.toml").write_text(text)


def upgrade(machine: Machine, version: str) -> None:
    """Another release in place of the one that is installed; what runs is not restarted."""
    project = machine.path(f"{SOURCES}/pyproject.toml")
    text, found = re.subn(r'(?m)^version = ".*"$', f'version = "{version}"', project.read_text())
    assert found == 1
    project.write_text(text)
    everywhere, _, _ = documented()
    (install,) = [line for line in everywhere if "pip install" in line]
    machine.sh(f"cd {SOURCES}\n{install}", deadline_seconds=_INSTALL_SECONDS)
