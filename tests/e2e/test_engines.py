"""One job in real containers, with each engine, main and children alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.cluster import cluster, definition
from tests.engines import RealEngine

pytestmark = pytest.mark.limit(180)


@pytest.mark.real("docker")
async def test_job_in_docker(tmp_path: Path, docker_host: RealEngine) -> None:
    await _job_in_containers(tmp_path, docker_host)


@pytest.mark.real("podman")
async def test_job_in_podman(tmp_path: Path, podman_host: RealEngine) -> None:
    await _job_in_containers(tmp_path, podman_host)


async def _job_in_containers(tmp_path: Path, engine: RealEngine) -> None:
    pass
