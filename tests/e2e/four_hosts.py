"""Four hosts on this machine, each a network namespace with its own address and podman, and a job
definition run on them: `python -m tests.e2e.four_hosts DEFINITION.json`, as root.

What `make example-...` runs, and the tests of the examples.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from muster.v1 import job_pb2
from tests.e2e.cluster import Cluster, cluster
from tests.e2e.namespaces import NETWORK, inside, namespaces
from tests.engines import PODMAN

HOSTS = 4
_JOB_SECONDS = 240.0


@asynccontextmanager
async def four_hosts(directory: Path, *agent_flags: str) -> AsyncIterator[Cluster]:
    """A coordinator on the bridge and four agents, all FREE."""
    flags = [*PODMAN.agent_flags, *agent_flags]
    with namespaces(HOSTS) as names:
        listen = f"{NETWORK}.1:7400"
        async with cluster(directory, coordinator_args=["--insecure"], listen=listen) as c:
            for n, name in enumerate(names, 1):
                agent = c.agent(f"h{n}", None, *flags, prefix=inside(name), engine="podman")
                await agent.start()
            await c.until_hosts({f"h{n}": "FREE" for n in range(1, HOSTS + 1)})
            yield c


async def run(c: Cluster, definition: dict[str, Any]) -> tuple[job_pb2.JobDetail, list[str]]:
    """Register the definition as it is, run it to its end; the job and the output of its nodes."""
    name = await c.register(definition)
    job_id = await c.submit(name)
    await c.until_gone(job_id, _JOB_SECONDS)
    job = await c.describe(job_id)
    assert job is not None
    outputs = [await c.log(f"{job_id}#{n}") for n in range(job.node_properties.num_nodes)]
    return job, outputs


def read(definition: Path) -> dict[str, Any]:
    """The JSON of a definition's file."""
    return cast("dict[str, Any]", json.loads(definition.read_text("utf-8")))


def secrets(directory: Path) -> Path:
    """A secrets file with a key pair for the MPI example, as an operator would make it."""
    key = directory / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True
    )
    file = directory / "secrets.toml"
    file.touch(mode=0o600)
    file.write_text(f"[secrets]\nmpi-ssh-key = '''{key.read_text()}'''\n")
    return file


async def _main(definition: Path) -> int:
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        flags = (
            f"--secrets-file={secrets(directory)}",
            "--allow-host-paths=/opt/muster-example:ro",
        )
        async with four_hosts(directory, *flags) as c:
            job, outputs = await run(c, read(definition))
    for index, output in enumerate(outputs):
        sys.stdout.writelines(f"#{index} | {line}\n" for line in output.splitlines())
    print(f"{job_pb2.JobStatus.Name(job.status)}: {job.status_reason}")
    return 0 if job.status == job_pb2.SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(Path(sys.argv[1]))))
