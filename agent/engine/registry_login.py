"""A registry's user name and password as docker and podman read them: a file, and never a flag.

The file lives as long as one pull, in memory where the host has a place for that. What an agent
leaves that was killed meanwhile goes with the next pull, or with the machine. Must not run a
process.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agent.core.assignment import Login

_IN_MEMORY = Path("/dev/shm")
_DOCKER_HUB = "https://index.docker.io/v1/"
_DOCKER_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_PREFIX = "muster-login-"


@contextlib.contextmanager
def login_directory(image: str, login: Login) -> Iterator[Path]:
    """A directory with a `config.json` that logs in to the image's registry: docker's `--config`,
    and its file podman's `--authfile`. For its owner only; gone with the context. OSError."""
    place = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    _sweep(place)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=place) as made:
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
    return first if is_host and first not in _DOCKER_HUB_NAMES else _DOCKER_HUB


def _sweep(place: Path | None) -> None:
    for left in (place or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
