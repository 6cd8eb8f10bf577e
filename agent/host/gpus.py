"""Which GPUs this machine has: the driver's own tool, and CDI for engines that go by it.

Read once, at the agent's start. A machine without a driver has none, and that is no error.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

CDI_DIRECTORIES = (Path("/etc/cdi"), Path("/var/run/cdi"))
_CDI_KIND = "nvidia.com/gpu"
_LIMIT_SECONDS = 30.0
_NAME = re.compile(r"^\s*(?:-\s+)?[\"']?name[\"']?\s*:\s*[\"']?([^\"'\s]+)", re.MULTILINE)
_KIND = re.compile(r"^\s*[\"']?kind[\"']?\s*:\s*[\"']?nvidia\.com/gpu[\"']?\s*$", re.MULTILINE)


def gpus(engine: str, cdi_directories: Sequence[Path] = CDI_DIRECTORIES) -> tuple[str, ...]:
    """Ids of this machine's GPUs that `engine` can give to a container, in a stable order.

    nvidia-smi's are UUIDs. Podman takes GPUs by CDI only, so for podman an id is the name of a
    CDI device: the UUIDs if those are listed, else the indices.
    """
    if engine != "podman":
        return _of_driver()
    return _of_cdi(cdi_directories)


def _of_driver() -> tuple[str, ...]:
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        asked = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_LIMIT_SECONDS
        )
    except FileNotFoundError:
        return ()
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("no GPUs: nvidia-smi: %s", error)
        return ()
    return tuple(line.strip() for line in asked.stdout.splitlines() if line.strip())


def _of_cdi(directories: Sequence[Path]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for directory in directories:
        for file in sorted(directory.glob("*")) if directory.is_dir() else ():
            if file.suffix in (".json", ".yaml", ".yml"):
                names |= dict.fromkeys(_devices(file))
    by_id = [name for name in names if name.startswith(("GPU-", "MIG-"))]
    by_index = sorted((name for name in names if name.isdigit()), key=int)
    others = [name for name in names if name != "all" and ":" not in name]
    return tuple(by_id or by_index or others)


def _devices(file: Path) -> list[str]:
    """Names in one CDI file. YAML is read only as far as what nvidia-ctk writes needs."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            read = json.loads(text)
            ours = read["kind"] == _CDI_KIND
            return [str(device["name"]) for device in read["devices"]] if ours else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("not looking for GPUs in %s: %s", file, error)
        return []
    if not _KIND.search(text):
        return []
    devices = text.partition("\ndevices:")[2]
    # The list ends where the next key of the document begins.
    return _NAME.findall(re.split(r"^\w", devices, maxsplit=1, flags=re.MULTILINE)[0])
