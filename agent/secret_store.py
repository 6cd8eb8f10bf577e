"""The host's secrets: values that jobs name, and logins to registries.

One TOML file for its owner only, read anew each time, so that an edit needs no restart. No value
is ever part of a message. Must not import an engine.
"""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.core.assignment import Login


class SecretError(Exception):
    """A secret cannot be had. The text names it and the file, and no value."""


@dataclass(frozen=True, slots=True)
class SecretStore:
    """`path` None is a host without secrets. Tables: `[secrets]` name = "value", and
    `[registries.NAME]` with username and password."""

    path: Path | None
    _shown: str = field(default="secrets_file", init=False, repr=False)

    def value(self, key: str) -> str:
        """The secret of that name. Raises SecretError."""
        found = self._table("secrets").get(key)
        if not isinstance(found, str):
            raise SecretError(f"no secret {key!r} in {self.path}, table [secrets]")
        return found

    def login(self, name: str) -> Login:
        """The registry login of that name. Raises SecretError."""
        found = self._table("registries").get(name)
        if not isinstance(found, dict) or not all(
            isinstance(found.get(member), str) for member in ("username", "password")
        ):
            raise SecretError(
                f"no registry login {name!r} in {self.path}, table [registries], "
                "with username and password"
            )
        return Login(username=found["username"], password=found["password"])

    def _table(self, name: str) -> dict[str, Any]:
        if self.path is None:
            raise SecretError(f"this host has no secrets ({self._shown} is not set)")
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SecretError(f"{self._shown} {self.path}: {error.strerror}") from error
        with open(fd, "rb") as file:
            mode = os.fstat(fd)
            if stat.S_IMODE(mode.st_mode) & 0o077 or mode.st_uid not in (0, os.geteuid()):
                raise SecretError(
                    f"{self._shown} {self.path} can be read by others; chmod 600, and the owner "
                    "must be who the agent runs as"
                )
            try:
                table = tomllib.load(file).get(name, {})
            except ValueError as error:
                # Its text can quote the file.
                where = str(error).rpartition("(")[2].rstrip(")")
                raise SecretError(f"{self._shown} {self.path} is not TOML ({where})") from None
        return table if isinstance(table, dict) else {}
