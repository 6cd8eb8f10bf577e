"""`muster watch`: a job's nodes live, one line a node.

On a terminal the picture is redrawn in place; anywhere else each change is a line of its own,
so that the output can be kept and searched.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import TextIO

from cli.arguments import Parser
from cli.connect import Coordinator, coordinator
from cli.stream import tell, watch_job
from cli.table import Style, clock, is_dumb, plain, rows
from cli.view import Change, View
from muster.v1.job_service_pb2 import NodeView, WatchJobResponse

_HEADERS = ("NODE", "STATE", "HOST", "ADDRESS", "SINCE", "EXIT", "REASON")
_QUIET_SECONDS = 3.0
"""How long after a job's end it is no news that something of it is still left."""
_UNHAPPY_FIRST = ("FAILED", "STOPPING", "PREPARING", "PREPARED", "STARTING", "RUNNING")


def arguments(parser: Parser) -> None:
    parser.add_argument("job", metavar="JOB", help="id or ARN of a job")


async def run(args: argparse.Namespace) -> int:
    async with coordinator(args) as there:
        if args.output == "json":
            from cli.jsonout import show_line

            async for response in watch_job(there, args.job):
                show_line(response)
        else:
            await show(there, args.job, sys.stdout)
    return 0


async def show(there: Coordinator, job_id: str, out: TextIO) -> View:
    """Show a job on `out` until it has ended and its nodes are gone; what it was at the end."""
    view = View()
    live = out.isatty() and not is_dumb()
    draw: Callable[[View, Change], None] = Screen(out).draw if live else Lines(out).draw
    waits: asyncio.TimerHandle | None = None
    try:
        async for response in watch_job(there, job_id):
            draw(view, view.apply(response))
            _tell_skipped(response)
            if view.ended and waits is None:
                waits = asyncio.get_running_loop().call_later(_QUIET_SECONDS, _tell_waits, job_id)
    finally:
        if waits is not None:
            waits.cancel()
    return view


def _tell_waits(job_id: str) -> None:
    tell(
        f"job {job_id} has ended; this goes on until nothing of it is left on any host (`muster "
        "describe` says where it may still run; Ctrl-C ends only the watching)"
    )


def _tell_skipped(response: WatchJobResponse) -> None:
    if response.events_skipped:
        tell(f"{response.events_skipped} events left out: this terminal was too slow")


class Lines:
    """Each event and change on a line of its own."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._style = Style.of(out)

    def draw(self, view: View, change: Change) -> None:
        for line in lines(view, change, self._style):
            print(line, file=self._out, flush=True)


def lines(view: View, change: Change, style: Style) -> Iterable[str]:
    """What happened, then the nodes that are new without a word why, then the job's status."""
    new = {node.node_index: node for node in change.nodes}
    # With a reset the events are of the past, and the nodes perhaps of a newer attempt.
    last = {
        event.node_index: event
        for event in change.events
        if event.HasField("node_index") and not change.reset
    }
    for event in change.events:
        if not event.HasField("node_index"):
            yield _line(event.at, "job", f"{event.kind}: {plain(event.message)}")
            continue
        index, told = event.node_index, f"{event.kind}: {plain(event.message)}"
        if index in new and last.get(index) is event:
            told += f" [{_place(new[index], style)}]"
        yield _line(event.at, f"#{index}", told)
    for index, node in new.items():
        if index not in last:
            reason = f": {plain(node.reason)}" if node.reason else ""
            yield _line(node.since, f"#{index}", _place(node, style) + reason)
    if change.status:
        reason = f": {plain(view.job.status_reason)}" if view.job.status_reason else ""
        yield f"job {view.job.job_id} {style.state(view.status)}{reason}"


def _line(at_ms: float, who: str, told: str) -> str:
    return f"{clock(at_ms)}  {who:<5} {told}"


def _place(node: NodeView, style: Style) -> str:
    address = f" at {node.private_ipv4_address}" if node.private_ipv4_address else ""
    return f"{style.state(node.state)} on {plain(node.host_id + address)}"


class Screen:
    """A picture of the job that replaces itself, as many nodes as the terminal is high."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._height = 0
        self._event = ""

    def draw(self, view: View, change: Change) -> None:
        for event in change.events:
            self._event = f"{clock(event.at)} {event.kind}: {plain(event.message)}"
        columns, lines = shutil.get_terminal_size()
        # The last column stays free: a full line would wrap on some terminals.
        style = Style(Style.of(self._out).colour, columns - 1)
        picture = frame(view, self._event, style, lines - 1)
        up = f"\x1b[{self._height}F" if self._height else ""
        self._out.write(up + "".join(f"{line}\x1b[K\n" for line in picture) + "\x1b[J")
        self._out.flush()
        self._height = len(picture)


def frame(view: View, event: str, style: Style, height: int) -> list[str]:
    """The picture, at most `height` lines: the job, its nodes, and what happened last.

    When not all nodes fit, main and those in trouble come first, and the rest is counted.
    """
    job = view.job
    head = f"{job.job_name}  {job.job_id}  {view.status}"
    if view.attempt > 1:
        head += f"  attempt {view.attempt}"
    head = head[: style.width].replace(view.status, style.state(view.status), 1)
    nodes = list(view.nodes.values())
    # The job's line, the header and the last event always stand.
    room = max(height - 3, 1)
    rest: list[str] = []
    if len(nodes) > room:
        room = max(room - 1, 1)
        nodes.sort(key=_importance)
        counts = ", ".join(f"{number} {state}" for state, number in view.counts().items())
        rest = [f"... {len(nodes) - room} more of {len(nodes)} nodes: {counts}"[: style.width]]
    shown = sorted(nodes[:room], key=lambda node: node.node_index)
    table = rows(_HEADERS, map(_cells, shown), style) if shown else []
    last = plain(job.status_reason) if view.ended or view.held_up or not event else event
    return [head, *table, *rest, last[: style.width]]


def _importance(node: NodeView) -> tuple[bool, int, int]:
    known = node.state in _UNHAPPY_FIRST
    rank = _UNHAPPY_FIRST.index(node.state) if known else len(_UNHAPPY_FIRST)
    return (not node.is_main_node, rank, node.node_index)


def _cells(node: NodeView) -> tuple[object, ...]:
    return (
        f"#{node.node_index}{' main' if node.is_main_node else ''}",
        node.state,
        node.host_id,
        node.private_ipv4_address,
        clock(node.since),
        node.exit_code if node.HasField("exit_code") else "",
        node.reason,
    )
