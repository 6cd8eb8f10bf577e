"""Who only looks like a part of an engine is not believed: name and arguments are anybody's."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.assignment import NodeKey
from agent.engine import cli
from agent.engine.argv import Site
from agent.engine.coming import coming
from agent.engine.podman import PodmanEngine
from agent.host import survivors
from agent.host.ids import container_id
from agent.host.origin import Origin
from tests.unprivileged import OTHER_UID, copied

pytestmark = [
    pytest.mark.real("setpriv"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else"),
]

KEY = NodeKey(job_id=f"impostor-{os.getpid()}", attempt=1, node_index=0)
VICTIM = container_id("0123456789abcdef" * 4)
"""The container of somebody else, whose processes would be killed as the node's."""

OTHER_USER = ("setpriv", f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups", "--")
IN_A_CONTAINER = ("unshare", "--pid", "--kill-child", "--")
SET_UID = ("setpriv", f"--ruid={OTHER_UID}", "--")
"""As a set-uid program that a user has started under a name of his own."""


@contextlib.contextmanager
def running(prefix: tuple[str, ...], program: Path, *arguments: str) -> Iterator[None]:
    """While a process waits that has this command line. Its parents have another."""
    wrapper = program.parent / "wrapper"
    wrapper.write_text(shlex.join(["exec", str(program), *arguments]))
    with subprocess.Popen(
        [*prefix, "sh", str(wrapper)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        process.stdin.close()


def waiting(tmp_path: Path, name: str) -> tuple[Path, str]:
    """A shell by another name, and what it runs: it says that it is ready, and waits."""
    script = tmp_path / "script"
    script.write_text("echo ready; read -r _ || exit 0")
    return copied("sh", tmp_path / name, 0o755), str(script)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Which everybody may look into, unlike those that pytest makes."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize(
    ("prefix", "is_believed"),
    [((), True), (OTHER_USER, False), (IN_A_CONTAINER, False), (SET_UID, False)],
    ids=["own", "other user", "in a container", "set-uid"],
)
def test_a_supervisor_is_the_agents_or_roots(
    directory: Path, prefix: tuple[str, ...], is_believed: bool
) -> None:
    """A job that calls itself conmon could otherwise have any container of its host killed."""
    podman = PodmanEngine("podman", Site(host_id="h", private_ipv4=""), directory, 1 << 20)
    program, script = waiting(directory, "conmon")
    with running(prefix, program, script, "-c", VICTIM, "-n", KEY.name):
        assert podman._supervised(KEY) == (VICTIM if is_believed else None)
        assert survivors.pids_of(Origin(key=KEY, container=VICTIM)) == []


@pytest.mark.parametrize(
    ("prefix", "is_believed"),
    [((), True), (OTHER_USER, False), (IN_A_CONTAINER, False)],
    ids=["own", "other user", "in a container"],
)
def test_a_call_under_way_is_the_agents_or_roots(
    directory: Path, prefix: tuple[str, ...], is_believed: bool
) -> None:
    """Any user could otherwise keep a host from starting and from letting go."""
    program, script = waiting(directory, "podman")
    labels = ("--label=muster.host=h1", "--label=muster.node=0")
    with running(prefix, program, script, "run", "--name", KEY.name, *labels):
        assert bool(cli.calls_under_way(KEY.name)) is is_believed
        assert [found.key for found in coming("h1")] == [KEY] * is_believed
        assert coming("h2") == []
