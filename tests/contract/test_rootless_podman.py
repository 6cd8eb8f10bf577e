"""A rootless podman without control groups, whose container's user is another one on the host: no
environment, no descriptor, no group shows what the node runs.

Where systemd gives each user groups, there is a group too, and what is asked here holds all the
same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from agent.engine.parse import LOST
from tests.engines import IMAGE
from tests.rootless import Rootless, rootless

pytestmark = [pytest.mark.real("rootless"), pytest.mark.limit(120)]

# Runs a node as user 1234 of its container, and tells what an agent sees and does.
AGENT = """
import asyncio, json, os, shutil, sys
from pathlib import Path
from agent.core.assignment import ContainerSpec, NodeKey
from agent.engine.argv import Site
from agent.engine.podman import PodmanEngine
from agent.engine.port import EngineError

image, job_id, what = sys.argv[1:]
home, run = Path(os.environ["HOME"]), Path(os.environ["XDG_RUNTIME_DIR"])
key = NodeKey(job_id=job_id, attempt=1, node_index=0)
limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
script = "trap '' TERM; /bin/nc -l -p 42426 & /bin/sleep 1000"
spec = ContainerSpec(
    image=image, command=("env", "-i", "/bin/sh", "-c", script), vcpus=1, memory_mib=64,
    user="1234", environment=(("AWS_BATCH_JOB_ID", job_id), ("AWS_BATCH_JOB_ATTEMPT", "1")),
)

def engine():
    site = Site(host_id="h", private_ipv4="127.0.0.1", extra=limits)
    args = ("--runtime", "runc", "--cgroup-manager", "cgroupfs")
    return PodmanEngine("podman", site, home / "spool", 1 << 20, args)

async def said(verb):
    try:
        return str(await verb)
    except EngineError as error:
        return error.reason

async def main():
    podman = engine()
    await podman.start(key, spec)
    survivors = podman._survivors
    while not (ports := await survivors.note_ports(key)):
        await asyncio.sleep(0.05)
    pids = await survivors.pids(key)
    users = [os.stat(f"/proc/{pid}").st_uid for pid in pids]
    told = {"ports": [port.number for port in ports], "users": users}
    if what == "hangs":
        binary = home / "hanging"
        binary.write_text("#!/bin/sh\\nexec sleep 1000\\n")
        binary.chmod(0o755)
        podman._cli.binary, podman._cli.call_seconds = str(binary), 1
    else:
        for entry in run.iterdir():
            shutil.rmtree(entry)
        podman = engine()
    told["stop"] = await said(podman.stop(key, 0))
    told["alive"] = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    podman._cli.binary, podman._cli.call_seconds = "podman", 60
    async with asyncio.timeout(30):
        end = await podman.wait(key)
    told["end"] = [end.exit_code, end.reason]
    told["remove"] = await said(podman.remove(key))
    await podman.close()
    print(json.dumps(told))

asyncio.run(main())
"""


@pytest.fixture
def user() -> Iterator[Rootless]:
    with rootless(IMAGE) as made:
        yield made


def seen(told: dict[str, Any]) -> dict[str, Any]:
    """What is so whatever happens to podman: all is found, and all is gone in the end."""
    assert told.pop("ports") == [42426]
    assert told.pop("users") == [1_001_233] * 2
    assert told.pop("alive") == []
    assert told.pop("remove") == "None"
    return told


def test_a_podman_that_hangs(user: Rootless) -> None:
    told = seen(user.run(AGENT, IMAGE, "rootless-hangs", "hangs"))
    assert told["stop"].endswith("its 2 processes were killed directly")
    assert told["end"] == [137, ""]


def test_a_podman_whose_record_is_lost(user: Rootless) -> None:
    told = seen(user.run(AGENT, IMAGE, "rootless-forgets", "forgets"))
    assert told == {"stop": "None", "end": [None, LOST]}
