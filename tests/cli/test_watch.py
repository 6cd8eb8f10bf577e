"""`watch`: lines where output is kept, a picture on a terminal, and a stream that comes back."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import struct
import termios

import pytest

from cli.table import Style
from cli.view import View, exit_code
from cli.watch import frame
from tests.cli.conftest import Muster, spawn
from tests.cli.fake_coordinator import AWAY, FakeCoordinator
from tests.cli.records import JOB, event, node, summary, told

_BEGIN = told(
    summary("RUNNABLE"),
    node(0, "PREPARING"),
    node(1, "PREPARING"),
    events=(event("GangReserved", "2 hosts reserved"),),
    reset=True,
)
_MAIN_RUNS = told(
    summary("RUNNING"), node(0, "RUNNING"), events=(event("NodeRunning", "it runs", 0),)
)
_ENDED = told(
    summary("SUCCEEDED", exit_code=0, reason="Essential container in task exited"),
    node(0, "SUCCEEDED"),
    node(1, "FAILED", reason="it was told to"),
)


async def test_plain_lines_tell_each_change_once(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("WatchJob", [_BEGIN, _MAIN_RUNS, _ENDED])
    ended = await muster("watch", JOB)
    assert ended.code == 0
    assert "\x1b" not in ended.text
    assert [line.split("  ", 1)[-1] for line in ended.text.splitlines()] == [
        "job   GangReserved: 2 hosts reserved",
        "#0    PREPARING on host-0 at 10.0.0.0",
        "#1    PREPARING on host-1 at 10.0.0.1",
        f"job {JOB} RUNNABLE",
        "#0    NodeRunning: it runs [RUNNING on host-0 at 10.0.0.0]",
        f"job {JOB} RUNNING",
        "#0    SUCCEEDED on host-0 at 10.0.0.0",
        "#1    FAILED on host-1 at 10.0.0.1: it was told to",
        f"job {JOB} SUCCEEDED: Essential container in task exited",
    ]


async def test_a_silent_host_is_told_once_and_so_is_its_return(
    fake: FakeCoordinator, muster: Muster
) -> None:
    silent = told(summary("RUNNING", reason="The main node's host h1 is silent"))
    fake.answer("WatchJob", [_BEGIN, _MAIN_RUNS, silent, silent, told(summary("RUNNING")), _ENDED])
    ended = await muster("watch", JOB)
    assert [line for line in ended.text.splitlines() if "RUNNING" in line][1:] == [
        f"job {JOB} RUNNING",
        f"job {JOB} RUNNING: The main node's host h1 is silent",
        f"job {JOB} RUNNING",
    ]


async def test_a_reconnect_is_told_and_repeats_nothing(
    fake: FakeCoordinator, muster: Muster
) -> None:
    # What a coordinator that was restarted sends: everything, once more.
    again = told(
        summary("RUNNING"),
        node(0, "RUNNING"),
        node(1, "PREPARING"),
        events=(*_BEGIN.events, *_MAIN_RUNS.events),
        reset=True,
    )
    fake.answer("WatchJob", [_BEGIN, _MAIN_RUNS, AWAY], AWAY, [again, _ENDED])
    ended = await muster("watch", JOB)
    assert ended.code == 0
    assert len(ended.text.splitlines()) == 9
    assert [line.split(";")[0] for line in ended.err.splitlines()] == [
        f"muster: lost the coordinator at {fake.address} (going away)",
        "muster: connected again",
    ]


async def test_a_coordinator_that_was_never_there_is_not_waited_for(
    fake: FakeCoordinator, muster: Muster
) -> None:
    fake.answer("WatchJob", AWAY)
    assert (await muster("watch", JOB)).code == 4
    assert len(fake.asked("WatchJob")) == 1


async def test_json_is_a_document_a_line(fake: FakeCoordinator, muster: Muster) -> None:
    fake.answer("WatchJob", [_BEGIN, _ENDED])
    lines = (await muster("watch", JOB, "-o", "json")).text.splitlines()
    assert [json.loads(line)["reset"] for line in lines] == [True, False]
    assert json.loads(lines[0])["events"][0]["at"] == 1700000000123


async def test_a_terminal_shows_one_picture(fake: FakeCoordinator) -> None:
    go_on = asyncio.Event()
    fake.answer("WatchJob", [_BEGIN, go_on, _MAIN_RUNS, _ENDED])
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = await spawn(fake, "watch", JOB, stdout=theirs)
    os.close(theirs)
    shown = b""
    loop = asyncio.get_running_loop()
    while b"GangReserved" not in shown:
        shown += await loop.run_in_executor(None, os.read, ours, 65536)
    assert b"\x1b[2mRUNNABLE\x1b[0m" in shown
    assert b"#0 main  \x1b[33mPREPARING\x1b[0m" in shown
    go_on.set()
    assert await process.wait() == 0
    rest = os.read(ours, 65536).decode()
    os.close(ours)
    # A job line, a header, two nodes and the last event: five lines up, and over them.
    assert rest.startswith("\x1b[5F")
    final = rest.rpartition("\x1b[5F")[2].replace("\x1b[K", "")
    assert "\x1b[32mSUCCEEDED\x1b[0m" in final
    assert "\x1b[31mFAILED" in final
    assert "Essential container in task exited" in final


def test_a_crowd_is_counted_and_trouble_comes_first() -> None:
    view = View()
    nodes = [node(index, "FAILED" if index == 700 else "RUNNING") for index in range(1000)]
    view.apply(told(summary("RUNNING"), *nodes, reset=True))
    picture = frame(view, "12:00:00 NodeExited: it died", Style(width=79), 10)
    assert len(picture) == 10
    assert max(map(len, picture)) <= 79
    assert [line.split()[0] for line in picture[2:8]] == ["#0", "#1", "#2", "#3", "#4", "#700"]
    assert picture[8] == "... 994 more of 1000 nodes: 1 FAILED, 999 RUNNING"
    assert picture[9] == "12:00:00 NodeExited: it died"


def test_a_new_attempt_replaces_the_nodes() -> None:
    view = View()
    view.apply(told(summary("RUNNING"), node(0, "FAILED"), node(1, "FAILED"), reset=True))
    change = view.apply(told(summary("RUNNABLE"), node(0, "PREPARING", attempt=2), reset=True))
    assert list(view.nodes) == [0]
    assert view.attempt == 2
    assert change.status
    assert "attempt 2" in frame(view, "", Style(), 24)[0]


def test_a_failed_job_never_exits_with_0() -> None:
    assert exit_code(summary("SUCCEEDED", exit_code=0)) == 0
    assert exit_code(summary("FAILED", exit_code=7)) == 7
    assert exit_code(summary("FAILED", exit_code=0)) == 1
    assert exit_code(summary("FAILED")) == 1


def test_what_was_told_is_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that waits for days is told about for days."""
    monkeypatch.setattr("cli.view._TOLD_MAX", 3)
    view = View()
    refusals = [event("NodeRefused", f"no, {number}") for number in range(5)]
    for each in refusals:
        assert view.apply(told(summary("RUNNABLE"), events=(each,))).events == [each]
    assert view.apply(told(summary("RUNNABLE"), events=tuple(refusals[2:]))).events == []
    assert len(view._told) == 3
