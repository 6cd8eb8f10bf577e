"""What processes say of the nodes that they are, on real processes of this host."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.assignment import NodeKey
from agent.core.marks import Marks
from agent.host import nodes
from agent.lease_file import HeldLease, Leases

HOST = f"host-{uuid.uuid4()}"
"""Of this run of the test alone: all of this machine is looked at."""
KEY = NodeKey(job_id=str(uuid.uuid4()), attempt=2, node_index=3)
MARKS = Marks(cluster_id="c", host_id=HOST, machine="m", lease_seconds=600, grace_seconds=30)

Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that waits, with these variables alone; its pid."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(
        variables: dict[str, str], words: tuple[str, ...] = (), user: int | None = None
    ) -> int:
        process = subprocess.Popen(
            ["/bin/sh", "-c", "echo; read -r _", *words],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            user=user,
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    yield begin
    for process in started:
        process.communicate()


def shim_of(directory: Path, marks: Marks = MARKS) -> dict[str, str]:
    return {**marks.labels, nodes.NODE: KEY.name, nodes.DIRECTORY: str(directory)}


def test_a_shim_says_whose_it_is(start: Start, tmp_path: Path) -> None:
    pid = start(shim_of(tmp_path))
    start(shim_of(tmp_path, replace(MARKS, host_id="another")))
    start({nodes.NODE: KEY.name, "muster.host": HOST})
    found = nodes.shims(HOST)
    assert found == [nodes.FoundShim(key=KEY, pid=pid, directory=tmp_path, marks=MARKS)]


def test_what_another_user_runs_is_no_shim(start: Start, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can start a process of another user")
    start(shim_of(tmp_path), user=65534)
    start({}, (nodes.KEEPER, "/leases/x", "30", KEY.name), user=65534)
    assert nodes.shims(HOST) == []
    assert KEY.name not in nodes.keepers()


def test_a_keeper_says_whose_lease_it_holds(start: Start) -> None:
    pid = start({}, (nodes.KEEPER, "/leases/x", "30", KEY.name, "--", "podman"))
    assert nodes.keepers()[KEY.name] == pid


@pytest.mark.parametrize("job_id", [f"{KEY.job_id}#3", KEY.job_id])
def test_what_a_node_runs_says_which_node(start: Start, job_id: str) -> None:
    variables = {**dict(MARKS.variables), "AWS_BATCH_JOB_ID": job_id, "AWS_BATCH_JOB_ATTEMPT": "2"}
    pid = start(variables)
    start(variables | {"AWS_BATCH_JOB_ATTEMPT": "soon"})
    key = KEY if "#" in job_id else NodeKey(job_id=KEY.job_id, attempt=2, node_index=0)
    assert nodes.running(HOST) == {key: nodes.FoundNode(key=key, cluster_id="c", pid=pid)}


def test_an_agent_that_was_started_by_a_node_waits_for_nobody_but_the_node() -> None:
    """It has the variables too, and would wait for itself."""
    variables = {
        **dict(MARKS.variables),
        "AWS_BATCH_JOB_ID": KEY.job_id,
        "AWS_BATCH_JOB_ATTEMPT": "2",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    program = f"from agent.host import nodes; print(nodes.running({HOST!r}))"
    said = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True
    )
    assert said.stdout == "{}\n"


def test_a_lease_is_written_where_its_holder_reads_it(tmp_path: Path) -> None:
    """The directory was deleted, and made anew with a file of the same name."""
    before = Leases(tmp_path / "leases")
    before.set(KEY.name, 1_000, 7)
    held = HeldLease(before.path(KEY.name))
    Path(before.path(KEY.name)).unlink()
    after = Leases(tmp_path / "leases")
    after.set(KEY.name, 5, 7)
    after.find(KEY.name, os.getpid())
    assert after.ends_ms(KEY.name) == 1_000
    after.set(KEY.name, None, 7)
    held.look()
    assert held.ends_ms is None
    # Not before: `after` would get its descriptor, and this process, which is the holder as well,
    # would be found to hold the new file first.
    before.close()
    after.close()
    for fd in (held.fd, *held.fds):
        os.close(fd)
