"""A user without root who runs podman: USER_ID, with subordinate ids, in a mount namespace of its
own, so that this machine keeps its /etc.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.engines import root_file_system, unmount_below

USER_ID = 64_242
_ROOT = Path(__file__).parents[1]
_PYTHONS = (os.path.realpath(sys.executable), "/usr/bin/python3")

# $1 is the directory, the rest the command.
_AS_USER = f"""set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1/etc"
mkdir "$1/etc/upper" "$1/etc/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/etc/upper,workdir=$1/etc/work" overlay /etc
echo "rootless:x:{USER_ID}:{USER_ID}::$1/home:/bin/sh" >> /etc/passwd
echo "rootless:x:{USER_ID}:" >> /etc/group
echo "rootless:1000000:65536" | tee /etc/subuid > /etc/subgid
cd "$1/home"
directory=$1
shift
exec setpriv --reuid {USER_ID} --regid {USER_ID} --clear-groups \
    env -i "PATH=$PATH" HOME="$directory/home" USER=rootless XDG_RUNTIME_DIR="$directory/run" \
    PYTHONPATH="$directory" PYTHONDONTWRITEBYTECODE=1 "MUSTER_TEST_RUN=$MUSTER_TEST_RUN" "$@"
"""


class Rootless:
    """The user's directory, which holds `home`, `run` and this project's agent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def argv(self, *command: str) -> list[str]:
        """A command line that runs `command` as the user."""
        return ["unshare", "--mount", "sh", "-c", _AS_USER, "sh", str(self.directory), *command]

    def run(self, source: str, *arguments: str) -> dict[str, Any]:
        """Run Python code as the user: what it printed, which is JSON."""
        command = self.argv(self._python(), "-c", source, *arguments)
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert ran.returncode == 0, ran.stderr
        printed: dict[str, Any] = json.loads(ran.stdout)
        return printed

    def _python(self) -> str:
        """A Python that the user may run."""
        for python in _PYTHONS:
            command = self.argv(python, "-c", "import tomllib")
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return python
        raise AssertionError(f"none of {_PYTHONS} is a Python 3.11 that every user may run")


@contextlib.contextmanager
def rootless(image: str) -> Iterator[Rootless]:
    """The user, whose podman has `image`. Nothing of it is left after the context."""
    # Not pytest's tmp_path: that is this user's alone, and podman wants a short path.
    directory = Path(tempfile.mkdtemp(prefix="muster-rl-"))
    try:
        directory.chmod(0o755)
        shutil.copytree(_ROOT / "agent", directory / "agent")
        (directory / "etc").mkdir()
        for name in ("home", "run"):
            (directory / name).mkdir(mode=0o700)
            os.chown(directory / name, USER_ID, USER_ID)
        user = Rootless(directory)
        imported = subprocess.run(
            user.argv("podman", "import", "-", image),
            input=root_file_system(),
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert imported.returncode == 0, imported.stderr.decode()
        yield user
    finally:
        # The one that keeps podman's user namespace; a podman that forgot it has made another.
        paused = [each for each in psutil.process_iter() if each.uids().real == USER_ID]
        for process in paused:
            process.kill()
        psutil.wait_procs(paused)
        unmount_below(directory)
        shutil.rmtree(directory)
