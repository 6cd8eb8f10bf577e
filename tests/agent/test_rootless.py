"""A rootless podman is looked into from within its user namespace, where its users are its own."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from agent.core.assignment import NodeKey
from agent.engine.argv import Site
from agent.engine.podman import PodmanEngine
from agent.host import ports

KEY = NodeKey(job_id=f"rootless-{os.getpid()}", attempt=1, node_index=0)
MARKS = {"AWS_BATCH_JOB_ID": f"{KEY.job_id}#0", "AWS_BATCH_JOB_ATTEMPT": "1"}


@pytest.mark.parametrize(("unshare", "is_seen"), [('exec "$@"', True), ("exit 125", False)])
async def test_ports_of_a_user_of_the_container(
    tmp_path: Path,
    unshare: str,
    is_seen: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    binary = tmp_path / "podman"
    binary.write_text(f'#!/bin/sh\n[ "$1" = unshare ] || exit 9\nshift\n{unshare}\n')
    binary.chmod(0o755)
    site = Site(host_id="h", private_ipv4="127.0.0.1")
    podman = PodmanEngine(str(binary), site, tmp_path / "spool", 1 << 20)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    # Stands for descriptors that another user's are to this agent.
    monkeypatch.setattr(ports, "unseen", list)
    monkeypatch.setattr(ports, "sockets", lambda pids: set())
    with socket.create_server(("127.0.0.1", 0)) as server:
        sleep = await asyncio.create_subprocess_exec(
            *("sleep", "1000"), env={**os.environ, **MARKS}, pass_fds=(server.fileno(),)
        )
        try:
            seen = await podman._survivors.note_ports(KEY)
        finally:
            sleep.kill()
            await sleep.wait()
        number = server.getsockname()[1]
    assert [port.number for port in seen] == ([number] if is_seen else [])
    assert ("what these listen on cannot be seen" in caplog.text) is not is_seen
