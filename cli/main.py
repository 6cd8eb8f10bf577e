"""The `muster` command: finds the subcommand, runs it, turns its end into an exit code.

A subcommand is a module of this package with `arguments(parser)` and `async run(args) -> int`.
Only the one that was asked for is imported: gRPC alone takes longer to import than a person
wants to wait for `--help`. The command is a client of the coordinator: nothing in this package
imports `coordinator` or `agent`.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, cast

from cli.arguments import Parser, fill_defaults
from cli.failure import ExitCode, Failure

COMMANDS = {
    "submit": ("cli.submit", "run a job; with --wait until it ends, exiting as main did"),
    "describe": ("cli.describe", "show jobs and nodes in full"),
    "list": ("cli.list", "list the jobs of a queue, or the nodes of a job"),
    "watch": ("cli.watch", "show a job's nodes live, until the job has ended"),
    "logs": ("cli.logs", "print the output of a job's nodes, or follow it"),
    "cancel": ("cli.cancel", "end jobs that have not started"),
    "terminate": ("cli.cancel", "end jobs, or single child nodes, in any state"),
    "explain": ("cli.explain", "say why a job waits, host by host"),
    "hosts": ("cli.hosts", "list, describe, drain, resume and fence hosts"),
    "definitions": ("cli.definitions", "list, register, describe and deregister job definitions"),
    "queues": ("cli.queues", "list, create, update and delete job queues"),
    "demo": ("cli.demo", "run a whole cluster and three jobs on this machine"),
}

_EPILOG = """\
`muster COMMAND --help` has the flags of a command. -o json prints the API's own JSON.
exit codes: 0 done, 1 failed, 2 wrong usage or request, 3 not found, 4 coordinator not reached;
`submit --wait` exits as the job's main node did.
"""


class _Version(argparse.Action):
    """Looked up only when it is asked for: that takes as long as all of `--help`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"muster {version('muster')}")
        except PackageNotFoundError:
            print("muster 0+uninstalled")
        parser.exit()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What was asked for; `module` names who does it. SystemExit(2) with a reason on stderr."""
    commands = "\n".join(f"  {name:<13}{summary}" for name, (_, summary) in COMMANDS.items())
    top = Parser(
        prog="muster",
        usage="muster [--coordinator HOST:PORT] [-o table|json] COMMAND ...",
        description=f"Multi-node jobs on hosts that you own.\n\ncommands:\n{commands}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    top.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    top.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = top.parse_args(argv)
    name, rest = args.command, args.rest
    if name is None:
        top.error("no command; it must be one of " + ", ".join(COMMANDS))
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        top.error(
            f"there is no command {name!r}; "
            + (f"did you mean {near[0]}?" if near else "it must be one of " + ", ".join(COMMANDS))
        )
    del args.command, args.rest
    args.module, summary = COMMANDS[name]
    parser = Parser(prog=f"muster {name}", description=f"{summary[0].upper()}{summary[1:]}.")
    importlib.import_module(args.module).arguments(parser)
    args = parser.parse_args(rest, args)
    fill_defaults(args, os.environ)
    return args


async def run(args: argparse.Namespace) -> int:
    """Do what `parse` made of the command line; the exit code. A failure is told on stderr."""
    command = cast(
        "Callable[[argparse.Namespace], Awaitable[int]]", importlib.import_module(args.module).run
    )
    try:
        return await command(args)
    except Failure as failure:
        print(f"muster: {failure}", file=sys.stderr)
        return failure.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; `argv` without the program's name."""
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        import asyncio  # as late as the subcommand, and for the same reason

        code = asyncio.run(run(args))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. The interpreter would flush what is
        # left once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    return code


if __name__ == "__main__":
    sys.exit(main())
