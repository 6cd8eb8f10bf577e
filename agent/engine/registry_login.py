"""A registry's user name and password as docker and podman read them: a file, and never a flag.

The file lives as long as one pull, in memory where the host has a place for that, so that nothing
is left of it whatever happens. Must not run a process.
"""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agent.core.assignment import Login

_IN_MEMORY = Path("/dev/shm")
_DOCKER_HUB = "https://index.docker.io/v1/"


@contextlib.contextmanager
def login_directory(image: str, login: Login) -> Iterator[Path]:
    """A directory with a `config.json` that logs in to the image's registry: docker's `--config`,
    and its file podman's `--authfile`. For its owner only; gone with the context. OSError."""
    place = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="muster-", dir=place) as made:
        directory = Path(made)
        pair = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
        auths = {_registry(image): {"auth": pair}}
        file = directory / "config.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps({"auths": auths}), encoding="utf-8")
        yield directory


def _registry(image: str) -> str:
    """As the engines take an image's name apart: its first part is a registry only if it looks
    like a host."""
    first, slash, _ = image.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first if is_host else _DOCKER_HUB
