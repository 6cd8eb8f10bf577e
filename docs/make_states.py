# ruff: noqa: E501 - a row of a table is one line
"""Writes docs/states.md from the transition tables, so that the page cannot disagree with the code.

Run by `make docs`; a test compares the committed page with what this makes.
"""

from __future__ import annotations

from pathlib import Path

from coordinator.core.states import JOB_TRANSITIONS, NODE_TRANSITIONS, JobState, NodeState

PAGE = Path(__file__).with_name("states.md")

_HEAD = """\
# States

This page is made by `make docs` from the tables in `coordinator/core/states.py`; edit those.

A job has AWS Batch's statuses. They mirror the **main node**, and nothing else: RUNNING says that
the main's container runs, not that any child does. A retry goes back to RUNNABLE, at its old place
in line. While hosts are being asked for their vote (its rules, image pull, leftovers) a job is still
RUNNABLE: nobody has started and no attempt is used up.
"""

_NODES = """\
## A node of an attempt

PREPARING and PREPARED are the vote; users see a node's record only from STARTING on. Every node is
in one of these states *per attempt*, and a state never goes back. A node whose host votes no, does
not answer, or is lost before the launch is taken away (`NodeRefused`, `GangAbandoned`) and another
host is asked.
"""

_RULES = """\
## Each sentence of AWS's page, and what keeps it

| rule | kept by |
|---|---|
| A job needs a host for every node at once; until then it is RUNNABLE. | `placement.place`, all or none; `GangReserved` |
| One node container on a host, and nothing else of Muster's. | `scheduler.is_free`; invariant *single tenant* |
| The main node is launched first, and alone. | `gang._start_main` after the last vote |
| Children are launched when the main is RUNNING, with its private address. | `gang._node_is_up` emits `ChildrenLaunched`; `derive.environment` |
| The main's address is absent on the main itself. | `derive._multinode` |
| The main's exit ends the job, whatever its code; it decides the status. | `ending.end_attempt` |
| Then the children are stopped: SIGTERM, grace, SIGKILL. | `derive.desired` is STOP once the attempt is over |
| A child's death changes its own record and nothing else. | `gang._node_has_ended` ends the attempt for the main only |
| A main failure triggers another attempt; a child failure does not. | `ending._may_retry` |
| Each attempt updates the matching attempt of its children. | `Job.attempts[k].nodes` |
| The timeout is for the whole job, from the main's RUNNING, per attempt; no retry. | `ending.check_timeout` |
| Cancel ends a job before STARTING; later it does nothing. | `ending.cancel_job` |
| Terminate ends a job in any state, with the caller's reason. | `ending.terminate_job` |
| All dependencies SUCCEEDED lets a job go on; one FAILED fails it. | `ending.end_dependents_of` |
| Never two attempts alive. | a job is not placed while `Job.unsettled`; see architecture.md |
"""


def _name(state: JobState | NodeState | None) -> str:
    return "[*]" if state is None else state.value


def _diagram(edges: list[tuple[str, str, str]], terminal: list[str]) -> str:
    lines = [f"    {before} --> {after}: {fact}" for before, after, fact in edges]
    lines += [f"    {state} --> [*]" for state in terminal]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def _table(edges: list[tuple[str, str, str]]) -> str:
    rows = [f"| {before} | {fact} | {after} |" for before, after, fact in edges]
    return "\n".join(["| from | by | to |", "|---|---|---|", *rows])


def page() -> str:
    """The whole of docs/states.md."""
    jobs = [(_name(before), after.value, fact) for (before, fact), after in JOB_TRANSITIONS.items()]
    nodes = [
        (_name(before), after.value, fact)
        for (before, fact), afters in NODE_TRANSITIONS.items()
        for after in afters
    ]
    parts = [
        _HEAD,
        "## A job\n",
        _diagram(jobs, [s.value for s in JobState if s.is_terminal]),
        "",
        _table(jobs),
        "",
        _NODES,
        _diagram(nodes, [s.value for s in NodeState if s.is_terminal]),
        "",
        _table(nodes),
        "",
        _RULES,
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
