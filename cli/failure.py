"""Why a command could not do what it was asked, and the exit code that says so to scripts.

Imports nothing, so that every module of the command may raise it.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """docs/cli.md lists these; `submit --wait` answers with the main node's own code instead."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class Failure(Exception):
    """Ends the command. The message says what was wrong, where, and what would be right."""

    def __init__(self, message: str, exit_code: int = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
