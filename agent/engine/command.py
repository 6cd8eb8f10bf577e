"""The last steps of a shim's child before it is the node's command, and what says why it is not.

Standard library only, and little of it, as in the shim. Imports nothing of this project.
"""
# ruff: noqa: PTH118

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def set_limits(ulimits: list[tuple[str, int, int]]) -> None:
    """-1 is unlimited, to the kernel too. OSError or ValueError for what the kernel refuses."""
    if not ulimits:
        return
    import resource  # here, since only a node with limits should pay for it

    for name, soft, hard in ulimits:
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None:
            raise OSError(errno.EINVAL, f"this host has no limit {name}")
        resource.setrlimit(number, (soft, hard))


def execute(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Search the PATH of `environment`. Not os.execvpe, which imports a module, and the user
    switched to may not be allowed to read this Python."""
    failure: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    directories = [""] if "/" in command[0] else environment["PATH"].split(":")
    for directory in directories:
        try:
            os.execve(os.path.join(directory, command[0]), command, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            # As a shell does: go on looking, but say this if nothing else is found.
            failure = error
    raise failure


def failure(program: str, error: Exception) -> str:
    """For people, as runc says it."""
    if isinstance(error, FileNotFoundError) and "/" not in program:
        return f'exec: "{program}": executable file not found in $PATH'
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f'exec: "{program}": {why.lower()}'
