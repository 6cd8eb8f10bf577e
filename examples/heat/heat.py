"""How heat spreads in a square plate, computed by all nodes of a job together.

The plate is cut into strips of rows, one a node. After each step a node gives its outermost rows to
the nodes above and below, over TCP: children talk to one another, not only to main. The start is
chosen such that mathematics knows the exact result, so main can tell whether the answer is right:
it exits with 0 only then.

When a child dies, the survivors share the plate anew and start over: the death of a child does not
end a multi-node job, and this program makes use of that.

One program for every node, and nothing but the standard library. What a node is it learns from
the environment that AWS Batch, and Muster, give it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import time
from array import array
from dataclasses import dataclass
from math import pi, sin
from typing import Any

CONDUCTIVITY = 0.2
PATIENCE_SECONDS = 60
Rows = list[list[float]]
Plan = list[tuple[int, str, int]]
"""Node, address and port of each strip."""


class Line:
    """A TCP connection that carries JSON documents, a line each, and rows of numbers."""

    def __init__(self, connection: socket.socket, patience_seconds: float | None) -> None:
        connection.settimeout(patience_seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.connection = connection
        self._file = connection.makefile("rb")

    def send(self, document: object) -> None:
        self.connection.sendall(json.dumps(document).encode() + b"\n")

    def receive(self) -> Any:  # noqa: ANN401 - any JSON
        line = self._file.readline()
        if not line:
            raise ConnectionError("the other side has gone")
        return json.loads(line)

    def send_row(self, row: list[float]) -> None:
        self.connection.sendall(array("d", row).tobytes())

    def receive_row(self, length: int) -> list[float]:
        wanted = length * 8
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise ConnectionError("the other side has gone")
        return array("d", data).tolist()

    def close(self) -> None:
        self._file.close()
        self.connection.close()


def find_main(port: int) -> Line:
    """Connect to the main node, which runs, but may still be on its way to listening."""
    address = os.environ["AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"]
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            # A round takes as long as it takes, so there is no limit on waiting for main.
            return Line(socket.create_connection((address, port), PATIENCE_SECONDS), None)
        except OSError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


def listen(address: str, port: int = 0) -> socket.socket:
    listener = socket.create_server((address, port), backlog=1024)
    listener.settimeout(PATIENCE_SECONDS)
    return listener


@dataclass(frozen=True)
class Plate:
    """The inner cells of a plate whose edge is kept cold, and what happens to it."""

    cells: int
    steps: int

    def start(self, row: int) -> list[float]:
        """Two waves laid over one another. Rows and columns count from 1."""
        return self._waves(row, 1, 1)

    def exact(self, row: int) -> list[float]:
        """The row after all steps: each wave keeps its shape and shrinks by a known factor."""
        return self._waves(row, self._shrunk(1, 1), self._shrunk(3, 2))

    def _waves(self, row: int, slow: float, fast: float) -> list[float]:
        return [
            slow * self._wave(1, 1, row, column) + fast * self._wave(3, 2, row, column)
            for column in range(1, self.cells + 1)
        ]

    def _wave(self, high: int, wide: int, row: int, column: int) -> float:
        width = self.cells + 1
        return sin(high * pi * row / width) * sin(wide * pi * column / width)

    def _shrunk(self, high: int, wide: int) -> float:
        width = 2 * (self.cells + 1)
        each_step = sin(high * pi / width) ** 2 + sin(wide * pi / width) ** 2
        return float((1 - 4 * CONDUCTIVITY * each_step) ** self.steps)

    def share(self, part: int, parts: int) -> range:
        """The rows of one of `parts` strips."""
        return range(1 + part * self.cells // parts, 1 + (part + 1) * self.cells // parts)


def spread(above: list[float], row: list[float], below: list[float]) -> list[float]:
    """One row one step later: each cell moves towards the mean of its four neighbours."""
    stay = 1 - 4 * CONDUCTIVITY
    return [
        stay * here + CONDUCTIVITY * (up + down + left + right)
        for here, up, down, left, right in zip(
            row, above, below, [0.0, *row[:-1]], [*row[1:], 0.0], strict=True
        )
    ]


def compute(
    plate: Plate, rows: range, above: Line | None, below: Line | None, die_at: int | None
) -> Rows:
    """All steps of one strip. ConnectionError when a neighbour has gone."""
    strip = [plate.start(row) for row in rows]
    cold = [0.0] * plate.cells
    for step in range(plate.steps):
        if step == die_at:
            print(f"step {step}: I die now, as I was told to", flush=True)
            os._exit(9)
        if above:
            above.send_row(strip[0])
        if below:
            below.send_row(strip[-1])
        first = above.receive_row(plate.cells) if above else cold
        last = below.receive_row(plate.cells) if below else cold
        padded = [first, *strip, last]
        strip = [spread(*padded[at : at + 3]) for at in range(len(strip))]
    return strip


def run_strip(
    plate: Plate, node: int, plan: Plan, listener: socket.socket, die_at: int | None
) -> Rows | None:
    """Compute this node's strip together with its neighbours; None when one of them died.

    The plan lists the nodes from the top strip down. A node dials the one below it and is dialled
    by the one above. Whoever loses a neighbour hangs up on the other one too, and closes its
    listener, so the news runs along all strips.
    """
    part = [member for member, _, _ in plan].index(node)
    rows = plate.share(part, len(plan))
    print(f"compute rows {rows.start} to {rows.stop - 1} of {plate.cells}", flush=True)
    with contextlib.ExitStack() as stack:
        stack.callback(listener.close)
        above = below = None
        try:
            if part + 1 < len(plan):
                _, address, port = plan[part + 1]
                connection = socket.create_connection((address, port), PATIENCE_SECONDS)
                below = Line(connection, PATIENCE_SECONDS)
                stack.callback(below.close)
            if part > 0:
                above = Line(listener.accept()[0], PATIENCE_SECONDS)
                stack.callback(above.close)
            return compute(plate, rows, above, below, die_at)
        except OSError as error:
            print(f"lost a neighbour: {error}", flush=True)
            return None


def run_child(args: argparse.Namespace, node: int) -> int:
    """Take part in each round that main begins, until main has what it wants."""
    main = find_main(args.port)
    main_address = main.connection.getpeername()[0]
    # The address that leads to main is the one that others on the same network can reach.
    address = main.connection.getsockname()[0]
    print(f"found main at {main_address}, I am at {address}", flush=True)
    main.send(node)
    plate = Plate(args.cells, args.steps)
    die_at = args.steps // 2 if node == args.die_node else None
    while main.receive() == "join":
        listener = listen(address)
        main.send([node, address, listener.getsockname()[1]])
        plan = [(member, at or main_address, port) for member, at, port in main.receive()]
        main.send(run_strip(plate, node, plan, listener, die_at))
    # Main exits once it has heard this, and the stop that follows should not make a failure of
    # work that is done.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    main.send("bye")
    return 0


def run_main(args: argparse.Namespace, node: int, nodes: int) -> int:
    """Gather the children, run rounds until none dies in one, and check the result."""
    plate = Plate(args.cells, args.steps)
    children: dict[int, Line] = {}
    with listen("", args.port) as listener:
        while len(children) < nodes - 1:
            connection, (address, _) = listener.accept()
            line = Line(connection, None)
            child = line.receive()
            children[child] = line
            print(f"node {child} came from {address}: {len(children)} of {nodes - 1}", flush=True)
    if os.environ["AWS_BATCH_JOB_ATTEMPT"] == str(args.fail_attempt):
        print(f"attempt {args.fail_attempt}: I fail now, as I was told to", flush=True)
        return 1
    while (result := run_round(plate, node, children)) is None:
        print(f"start over with {1 + len(children)} of {nodes} nodes", flush=True)
    for child in list(children):
        ask(children, child, "enough")
    return check(plate, result)


def run_round(plate: Plate, node: int, children: dict[int, Line]) -> Rows | None:
    """Have all nodes compute; the whole plate, or None when a child was lost on the way."""
    listener = listen("")
    # Children know main's address, which is more than main itself needs to know.
    plan: Plan = [(node, "", listener.getsockname()[1])]
    plan += [tuple(entry) for child in list(children) if (entry := ask(children, child, "join"))]
    plan.sort()
    for child in list(children):
        tell(children, child, plan)
    strips = {node: run_strip(plate, node, plan, listener, None)}
    strips |= {child: hear(children, child) for child in list(children)}
    whole: Rows = []
    for member, _, _ in plan:
        strip = strips.get(member)
        if strip is None:
            return None
        whole += strip
    return whole


def tell(children: dict[int, Line], child: int, document: object) -> None:
    """Send to a child. One that has gone shows when it is heard."""
    with contextlib.suppress(OSError):
        children[child].send(document)


def hear(children: dict[int, Line], child: int) -> Any:  # noqa: ANN401 - any JSON
    """What a child says; None, and it is forgotten, when it has gone."""
    try:
        return children[child].receive()
    except OSError as error:
        print(f"node {child} is lost: {error}", flush=True)
        children.pop(child).close()
        return None


def ask(children: dict[int, Line], child: int, document: object) -> Any:  # noqa: ANN401 - any JSON
    tell(children, child, document)
    return hear(children, child)


def check(plate: Plate, result: Rows) -> int:
    """Compare with what mathematics says; the exit code of main, and so of the job."""
    wrong = max(
        abs(computed - exact)
        for row, computed_row in enumerate(result, 1)
        for computed, exact in zip(computed_row, plate.exact(row), strict=True)
    )
    hottest = max(max(row) for row in result)
    right = wrong < 1e-9
    print(
        f"{plate.cells} x {plate.cells} cells, {plate.steps} steps: hottest cell {hottest:.6f}, "
        f"largest error {wrong:.1e}: {'right' if right else 'WRONG'}",
        flush=True,
    )
    return 0 if right else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--port", type=int, default=7411, help="where main listens")
    parser.add_argument("--cells", type=int, default=120, help="rows, and columns, of the plate")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--die-node", type=int, default=-1, help="this child dies half-way")
    parser.add_argument("--fail-attempt", type=int, default=0, help="main fails in this attempt")
    args = parser.parse_args()
    node = int(os.environ["AWS_BATCH_JOB_NODE_INDEX"])
    nodes = int(os.environ["AWS_BATCH_JOB_NUM_NODES"])
    if args.cells < nodes:
        parser.error(f"--cells is {args.cells}; it must be at least {nodes}, a row for each node")
    if node == int(os.environ["AWS_BATCH_JOB_MAIN_NODE_INDEX"]):
        return run_main(args, node, nodes)
    try:
        return run_child(args, node)
    except OSError as error:
        print(f"lost main: {error}", flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
