"""What this machine is: the facts that an agent says in its Hello.

They are read once, at start. What changes while the agent runs (load, free space) is not here.
Imports nothing of this project.
"""

from __future__ import annotations

import platform
import socket
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The machine itself, whatever cgroup or affinity the agent runs under: jobs run beside the
    agent, not in it. `vcpus` counts hardware threads, as EC2 does; `memory_mib` is rounded down.
    """

    vcpus: int
    memory_mib: int
    hostname: str
    os_release: str
    kernel: str
    architecture: str


def fingerprint() -> HostFacts:
    """Ask the operating system. OSError when it does not say."""
    vcpus = psutil.cpu_count(logical=True)
    if vcpus is None:
        raise OSError("cannot count processors: the operating system does not tell")
    return HostFacts(
        vcpus=vcpus,
        memory_mib=psutil.virtual_memory().total // 2**20,
        hostname=socket.gethostname(),
        os_release=_os_release(),
        kernel=platform.release(),
        architecture=platform.machine(),
    )


def _os_release() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        # Minimal images have no os-release; the name of the kernel is all there is to say.
        return platform.system()
