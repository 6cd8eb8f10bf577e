"""Which components of this machine the tests may use, and why not where not.

Looks, and starts nothing that stays.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

TORCH = Path("/opt/muster-example/torch")
EXAMPLE_IMAGES = {
    "image-mpi": "localhost/muster-example-mpi:1",
    "image-pytorch": "localhost/muster-example-pytorch:1",
}
"""Made by `make example-mpi` and `make example-pytorch-ddp`."""

_NEEDS: dict[str, tuple[str, ...]] = {
    "podman": ("podman", "runc", "busybox"),
    "rootless": ("podman", "runc", "busybox", "newuidmap", "setpriv", "unshare"),
    "docker": ("docker", "dockerd", "containerd", "runc", "busybox"),
    "netns": ("ip", "nsenter"),
    "grpcurl": ("grpcurl",),
    "systemd": ("systemd-analyze",),
    "systemd-analyze": ("systemd-analyze",),
    "systemd-sysusers": ("systemd-sysusers",),
    "openssl": ("openssl",),
    "ssh-keygen": ("ssh-keygen",),
    "setpriv": ("setpriv",),
    "image-mpi": ("podman",),
    "image-pytorch": ("podman",),
    "torch": (),
    "registry": ("docker-registry", "htpasswd"),
    "busybox": ("busybox",),
    "boot": ("systemd-nspawn", "debootstrap", "setpriv", "unshare", "nsenter", "ip"),
}


@functools.cache
def missing(name: str) -> str | None:
    """Why the component `name` cannot be used here; None when it can.

    KeyError for a component that this file does not know.
    """
    for program in _NEEDS[name]:
        if shutil.which(program) is None:
            return f"{name}: no program {program}"
    as_root = ("podman", "docker", "netns", "rootless", "setpriv", "boot")
    if name in as_root and os.geteuid() != 0:
        return f"{name}: the tests are not run as root"
    if name == "netns":
        return _fails("netns", ["ip", "netns", "list"])
    if name == "boot":
        return _fails("boot", ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"])
    if name.startswith("image-"):
        return _fails(name, ["podman", "image", "exists", EXAMPLE_IMAGES[name]])
    if name == "torch" and not TORCH.is_dir():
        return f"torch: no {TORCH} (examples/pytorch-ddp/install-torch.sh)"
    if name == "podman":
        return _fails("podman", ["podman", "--runtime", "runc", "info", "--format", "ok"])
    return None


def _fails(name: str, argv: list[str]) -> str | None:
    try:
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return f"{name}: {' '.join(argv)} does not end"
    return None if ended.returncode == 0 else f"{name}: {ended.stderr.strip()[-500:]}"
