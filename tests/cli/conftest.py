"""One fake coordinator a test, and the command run against it."""

from __future__ import annotations

import os
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli import main
from tests.cli.fake_coordinator import FakeCoordinator, running

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


Muster = Callable[..., Awaitable[Ended]]


@pytest.fixture
async def fake() -> AsyncIterator[FakeCoordinator]:
    async with running() as coordinator:
        yield coordinator


@pytest.fixture
def muster(
    fake: FakeCoordinator,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> Muster:
    """Run the command in this process; usage errors too end as they do for a user."""
    monkeypatch.setenv("MUSTER_COORDINATOR", fake.address)

    async def run(*argv: str) -> Ended:
        try:
            code = await main.run(main.parse(argv))
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
        written = capsysbinary.readouterr()
        return Ended(code, written.out, written.err.decode())

    return run


async def spawn(fake: FakeCoordinator, *argv: str, **options: int) -> Process:
    """The command as a process of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
        "MUSTER_COORDINATOR": fake.address,
        "TERM": "xterm",
        "PYTHONWARNINGS": "error",
    }
    return await create_subprocess_exec(
        sys.executable,
        "-m",
        "cli.main",
        *argv,
        env=environment,
        **{"stdin": PIPE, "stdout": PIPE, "stderr": PIPE, **options},  # type: ignore[arg-type]
    )
