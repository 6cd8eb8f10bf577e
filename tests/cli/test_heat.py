"""The example that the demo runs is right by itself: nodes as processes, with no cluster."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

HEAT = Path(__file__).parents[2] / "examples" / "heat" / "heat.py"
NODES = 4


def _run(main: int, *flags: str, attempt: int = 1) -> tuple[list[int], list[str]]:
    """Exit codes and outputs by node; main is any node, children know its address alone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [sys.executable, "-I", str(HEAT), "--port", str(port), "--cells", "24", "--steps", "30"]
    processes: list[subprocess.Popen[str]] = []
    try:
        for index in range(NODES):
            environment = {
                "AWS_BATCH_JOB_NODE_INDEX": str(index),
                "AWS_BATCH_JOB_MAIN_NODE_INDEX": str(main),
                "AWS_BATCH_JOB_NUM_NODES": str(NODES),
                "AWS_BATCH_JOB_ATTEMPT": str(attempt),
            }
            if index != main:
                environment["AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"] = "127.0.0.11"
            processes.append(
                subprocess.Popen(
                    [*argv, *flags],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return [process.returncode for process in processes], outputs


@pytest.mark.parametrize("main", [0, 2])
def test_all_nodes_reach_the_known_answer(main: int) -> None:
    codes, outputs = _run(main)
    assert codes == [0] * NODES, outputs
    assert outputs[main].endswith(": right\n")
    assert "compute rows 7 to 12 of 24" in outputs[1]


def test_survivors_of_a_dead_child_start_over() -> None:
    codes, outputs = _run(0, "--die-node", "2")
    assert codes == [0, 0, 9, 0], outputs
    assert "start over with 3 of 4 nodes" in outputs[0]
    assert outputs[0].endswith(": right\n")
    assert "compute rows 9 to 16 of 24" in outputs[1]


def test_main_fails_in_the_attempt_it_is_told_to() -> None:
    codes, outputs = _run(0, "--fail-attempt", "1")
    assert codes == [1] * NODES, outputs
    assert _run(0, "--fail-attempt", "1", attempt=2)[0] == [0] * NODES


def test_a_wrong_result_is_not_success() -> None:
    """The check is worth something: it notices one cell that is off by a millionth."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("heat", HEAT)
    assert spec
    assert spec.loader
    heat = importlib.util.module_from_spec(spec)
    sys.modules["heat"] = heat
    try:
        spec.loader.exec_module(heat)
        plate = heat.Plate(10, 5)
        rows = [plate.exact(row) for row in range(1, 11)]
        assert heat.check(plate, rows) == 0
        rows[3][4] += 1e-6
        assert heat.check(plate, rows) == 1
    finally:
        del sys.modules["heat"]
