"""The architecture as rules over the source: who may import whom, what core never does, sizes.

`broken_rules` works on any tree, so that the second half of this file can show that each rule
fails where it should. A new file that no entry of MAY_IMPORT covers is a broken rule too: say here
what it may know.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WIRE = {"muster", "grpc", "google.protobuf"}

# What a module or package of ours may import of this project and of others; the longest name that
# fits a file counts, and everything may import its own package. `main -> daemon -> {rpc, journal,
# engine, link, ...} -> core`, and the coordinator, the agent and the command share `muster` alone.
MAY_IMPORT: dict[str, set[str]] = {
    "coordinator.core": set(),
    "coordinator.options": set(),
    "coordinator.notify": set(),
    "coordinator.garbage": set(),
    "coordinator.config": {"coordinator.options"},
    "coordinator.journal": set(),
    "coordinator.rpc": {"coordinator.core", "coordinator.journal.port", "coordinator.options"}
    | WIRE,
    "coordinator.shell": {"coordinator.core", "coordinator.journal"},
    "coordinator.repair": {"coordinator.core", "coordinator.journal", "coordinator.shell"},
    "coordinator.check": {"coordinator.journal", "coordinator.repair"},
    "coordinator.backup": {"coordinator.core", "coordinator.journal", "coordinator.shell"},
    "coordinator.watch": {"coordinator.core", "coordinator.rpc.ports"},
    "coordinator.daemon": {
        *("coordinator.core", "coordinator.journal", "coordinator.rpc", "coordinator.watch"),
        *("coordinator.notify", "coordinator.shell"),
    },
    "coordinator.main": {"coordinator"},
    "coordinator.__main__": {"coordinator.main"},
    "agent.core": set(),
    "agent.options": set(),
    "agent.notify": set(),
    "agent.spool": set(),
    "agent.lease_file": set(),
    "agent.config": {"agent.options", "agent.policy"},
    "agent.policy": {"agent.core"},
    "agent.secret_store": {"agent.core"},
    "agent.convert": {"agent.core", "agent.host.machine"} | WIRE,
    # Runs without the agent, as a file of its own; whatever it imports is paid for by each job.
    "agent.engine.shim": {
        *("agent.engine.command", "agent.engine.user", "agent.lease_file", "agent.spool"),
    },
    "agent.engine.command": set(),
    "agent.engine.user": set(),
    "agent.engine.keeper": {"agent.core", "agent.engine.cli", "agent.host", "agent.lease_file"},
    "agent.engine": {"agent.core", "agent.host", "agent.lease_file", "agent.spool"},
    "agent.host": {"agent.core", "agent.options", "psutil"},
    "agent.ledger": {"agent.core"},
    "agent.kit": {"agent.core", "agent.host"},
    "agent.shell": {"agent.core", "agent.ledger.port"},
    "agent.whereabouts": {"agent.core", "agent.engine.port", "agent.host"},
    "agent.admission": {"agent.core", "agent.policy", "agent.secret_store"},
    "agent.link": {"agent.convert", "agent.notify", "agent.options"} | WIRE,
    "agent.spool_follow": {"agent.host", "agent.spool"},
    "agent.logs": {
        *("agent.core", "agent.host", "agent.link", "agent.spool", "agent.spool_follow", "muster"),
    },
    "agent.daemon": {
        *("agent.convert", "agent.core", "agent.engine.port", "agent.host.machine", "agent.link"),
        *("agent.admission", "agent.kit", "agent.logs", "agent.notify", "agent.options", "muster"),
        *("agent.ledger.port", "agent.lease_file", "agent.shell", "agent.verbs"),
        "agent.whereabouts",
    },
    "agent.verbs": {
        *("agent.admission", "agent.core", "agent.engine.port", "agent.kit", "agent.lease_file"),
        "agent.host.shutdown",
    },
    "agent.main": {"agent", "muster"},
    "agent.__main__": {"agent.main"},
    "cli": WIRE,
    "examples": set(),
    "examples.pytorch-ddp": {"torch"},
}
PACKAGES = ("coordinator", "agent", "cli", "examples")
ALSO_MEASURED = ("tests", "bench", "docs", "proto/generate.py")

DATA_MODULES = {
    *("__future__", "bisect", "collections", "dataclasses", "datetime", "enum", "functools"),
    *("hashlib", "heapq", "hmac", "ipaddress", "itertools", "math", "re", "statistics", "string"),
    *("types", "typing"),
}
CLOCKS = {"date.today", "datetime.now", "datetime.today", "datetime.utcnow"}
SLEEPS = {"asyncio.sleep", "sleep", "time.sleep"}

# Nothing waits for time to pass but a back-off, a heartbeat and what has nobody to wake it.
MAY_SLEEP = {
    "agent/host/inotify.py": "while others have used up inotify nobody tells of a change",
    "agent/engine/keeper.py": "before an end that failed is tried again: nobody else would",
    "agent/daemon.py": "heartbeats, and back-off before an engine that does not answer",
    "agent/link.py": "back-off before the next dial",
    "agent/main.py": "back-off of a start that fails each time: systemd's own does not grow",
    "coordinator/daemon.py": "before a full disk is tried again: nobody tells when there is room",
    "cli/cluster.py": "the demo's hosts: the API has no stream of hosts",
    "cli/connect.py": "back-off before a stream is resumed",
    "examples/heat/heat.py": "until the main node listens: its start tells no child",
    "tests/e2e/node.py": "the program of a node: a file is how a test tells it to go on",
    "tests/sim/readers.py": "a slow reader, in the time of the simulated world",
    "tests/wait.py": "the tests' one way to wait for what tells nobody",
}

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70
NOT_A_NOUN = {"base", "common", "helpers", "misc", "shared", "util", "utils"}

Rule = Callable[[str, ast.Module], Iterator[str]]


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of all that is imported, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def unit_of(file: str) -> str | None:
    """The entry of MAY_IMPORT that a file falls under."""
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return max((unit for unit in MAY_IMPORT if within(module, unit)), key=len, default=None)


def imports_point_one_way(file: str, tree: ast.Module) -> Iterator[str]:
    if not file.startswith(tuple(f"{package}/" for package in PACKAGES)):
        return
    unit = unit_of(file)
    if unit is None:
        if tree.body:
            yield "1: no entry of MAY_IMPORT says what it may import"
        return
    known = {unit, *MAY_IMPORT[unit]}
    for line, name in imports(tree):
        root = name.split(".")[0]
        if root in sys.stdlib_module_names:
            if unit.endswith(".core") and root not in DATA_MODULES:
                yield f"{line}: core is pure and imports {name}"
        elif root.startswith("grpc_") and "grpc" in known:
            continue
        elif not any(within(name, other) for other in known):
            yield f"{line}: {unit} imports {name}"


def core_is_pure(file: str, tree: ast.Module) -> Iterator[str]:
    if "/core/" not in file:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield f"{node.lineno}: async in core"
        elif isinstance(node, ast.For | ast.comprehension) and is_set(node.iter):
            yield f"{node.iter.lineno}: the order of a set is nobody's; sort it"
        elif isinstance(node, ast.Call) and called(node) in {"open", *CLOCKS}:
            yield f"{node.lineno}: core asks nobody, so not {called(node)}"


def is_set(node: ast.expr) -> bool:
    made = isinstance(node, ast.Call) and called(node) in ("set", "frozenset")
    return made or isinstance(node, ast.Set | ast.SetComp)


def calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def nothing_sleeps(file: str, tree: ast.Module) -> Iterator[str]:
    if file.startswith("bench/"):
        return  # what it measures over is time
    for call in calls(tree):
        # sleep(0) lets others run; no time passes.
        passes_time = called(call) in SLEEPS and ast.unparse(call.args[0]) != "0"
        if passes_time and file not in MAY_SLEEP:
            yield f"{call.lineno}: sleeps; wait for what is meant, or say why in MAY_SLEEP"


def daemons_log(file: str, tree: ast.Module) -> Iterator[str]:
    if file.startswith(("coordinator/", "agent/")):
        for call in calls(tree):
            if called(call) == "print":
                yield f"{call.lineno}: a daemon logs and does not print"


def functions_are_short(_file: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {lines} lines of {MAX_FUNCTION_LINES}"


def names_are_nouns(file: str, _tree: ast.Module) -> Iterator[str]:
    if NOT_A_NOUN & set(Path(file).with_suffix("").parts):
        yield "1: is named after nothing"


RULES: tuple[Rule, ...] = (
    *(imports_point_one_way, core_is_pure, nothing_sleeps, daemons_log),
    *(functions_are_short, names_are_nouns),
)


def broken_rules(root: Path) -> list[str]:
    """`file:line: what is wrong`, for all hand-written source below `root`."""
    found = []
    for place in (*PACKAGES, *ALSO_MEASURED):
        path = root / place
        for source in [path] if path.is_file() else sorted(path.rglob("*.py")):
            file = source.relative_to(root).as_posix()
            text = source.read_text("utf-8")
            tree = ast.parse(text, file)
            found += [f"{file}:{broken}" for rule in RULES for broken in rule(file, tree)]
            if (lines := text.count("\n")) > MAX_FILE_LINES:
                found.append(f"{file}:1: has {lines} lines of {MAX_FILE_LINES}")
    return found


def test_this_project_keeps_its_rules() -> None:
    assert broken_rules(ROOT) == []


def test_no_exception_outlives_its_need() -> None:
    assert [file for file in MAY_SLEEP if "sleep(" not in (ROOT / file).read_text("utf-8")] == []
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/*.py")}
    packages = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/") if path.is_dir()}
    units = {unit_of(file) for file in modules | packages}
    assert sorted(MAY_IMPORT.keys() - units) == []


LONG_FUNCTION = "def f() -> None:\n" + "    f()\n" * MAX_FUNCTION_LINES


@pytest.mark.parametrize(
    ("file", "source", "broken"),
    [
        ("coordinator/rpc/a.py", "import agent.core.state", "coordinator.rpc imports agent.core"),
        ("agent/link.py", "from coordinator import options", "imports coordinator.options"),
        ("agent/link.py", "from agent import daemon", "agent.link imports agent.daemon"),
        ("agent/link.py", "from . import core", "agent.link imports ..core"),
        ("coordinator/journal/a.py", "import coordinator.rpc", "imports coordinator.rpc"),
        (
            "coordinator/rpc/a.py",
            "import coordinator.journal.sqlite",
            "imports coordinator.journal",
        ),
        (
            "coordinator/daemon.py",
            "def f():\n  from coordinator import main",
            "2: coordinator.daemon",
        ),
        ("coordinator/core/a.py", "import coordinator.options", "imports coordinator.options"),
        ("coordinator/core/a.py", "import coordinator.corelike", "imports coordinator.corelike"),
        ("coordinator/core/a.py", "import os.path", "core is pure and imports os.path"),
        ("coordinator/core/a.py", "from muster.v1 import job_pb2", "imports muster.v1.job_pb2"),
        ("coordinator/journal/a.py", "import muster.v1", "imports muster.v1"),
        ("coordinator/rpc/a.py", "import psutil", "coordinator.rpc imports psutil"),
        ("coordinator/rpc/a.py", "import requests", "coordinator.rpc imports requests"),
        ("agent/engine/docker.py", "import muster.v1.job_pb2", "imports muster.v1"),
        ("agent/engine/shim.py", "import agent.engine.port", "shim imports agent.engine.port"),
        ("agent/spool.py", "import psutil", "agent.spool imports psutil"),
        ("agent/host/facts.py", "import grpc_health", "agent.host imports grpc_health"),
        ("cli/a.py", "import coordinator.core.ids", "cli imports coordinator.core.ids"),
        ("cli/a.py", "import psutil", "cli imports psutil"),
        ("examples/x/a.py", "import numpy", "examples imports numpy"),
        ("agent/new.py", "import os", "agent/new.py:1: no entry of MAY_IMPORT"),
        ("agent/core/a.py", "async def f(): pass", "agent/core/a.py:1: async in core"),
        ("agent/core/a.py", "for x in {1, 2}: pass", "the order of a set is nobody's"),
        ("agent/core/a.py", "[x for x in frozenset(y)]", "the order of a set is nobody's"),
        ("agent/core/a.py", "datetime.now(UTC)", "so not datetime.now"),
        ("agent/core/a.py", "open('f')", "so not open"),
        ("agent/main.py", "print(1)", "a daemon logs"),
        ("agent/logs.py", "await asyncio.sleep(1)", "agent/logs.py:1: sleeps"),
        ("tests/test_x.py", "time.sleep(0.1)", "tests/test_x.py:1: sleeps"),
        ("tests/test_x.py", LONG_FUNCTION, "f has 71 lines"),
        ("bench/run.py", "\n" * 501, "has 501 lines"),
        ("docs/utils.py", "", "is named after nothing"),
        ("tests/utils/x.py", "", "is named after nothing"),
    ],
)
def test_a_broken_rule_is_seen(tmp_path: Path, file: str, source: str, broken: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source, "utf-8")
    (found,) = broken_rules(tmp_path)
    assert broken in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("coordinator/core/a.py", "import re, collections.abc\nfrom coordinator.core import ids"),
        ("coordinator/core/a.py", "for x in sorted({1, 2}): pass"),
        (
            "coordinator/rpc/a.py",
            "import grpc.aio, grpc_health.v1\nfrom google.protobuf import any",
        ),
        ("coordinator/rpc/a.py", "from muster.v1 import job_pb2\nimport coordinator.journal.port"),
        ("coordinator/main.py", "import os\nfrom coordinator.journal.sqlite import x"),
        ("agent/engine/shim.py", "import os, agent.spool"),
        ("agent/engine/process.py", "from agent.engine import shim"),
        ("agent/new/__init__.py", ""),
        ("agent/link.py", "await asyncio.sleep(1)"),
        ("agent/main.py", "await asyncio.sleep(0)"),
        ("tests/test_x.py", LONG_FUNCTION.removesuffix("    f()\n")),
        ("bench/run.py", "\n" * 500),
        ("bench/run.py", "time.sleep(1)"),
    ],
)
def test_what_keeps_the_rules_passes(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source, "utf-8")
    assert broken_rules(tmp_path) == []
