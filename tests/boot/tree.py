"""The file system that every machine of these tests begins with: a small Debian that boots.

`python -m tests.boot.tree`, as root, makes it beforehand. It is made once and kept; nothing writes
to it, since each machine has a layer of its own above it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SUITE = "bookworm"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "iproute2", "python3", "python3-venv"),
    *("podman", "runc", "catatonit", "containernetworking-plugins"),
)
_MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
_CACHE = Path(os.environ.get("MUSTER_BOOT_CACHE", "/var/cache/muster-boot"))

# They would reach for a network that is not there, or wake up in the midst of a test.
_MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "podman-auto-update.timer"),
    "podman-auto-update.service",
)


# systemd-nspawn shows the hierarchies of control groups version 1 read-only, although a machine has
# groups of its own there. Container engines need them.
_GROUPS_UNIT = """[Unit]
Description=Control groups for container engines
DefaultDependencies=no
Before=basic.target
[Service]
Type=oneshot
ExecStart=-/bin/sh -c 'for group in /sys/fs/cgroup/*/; do mount -o remount,bind,rw $$group; done'
[Install]
WantedBy=sysinit.target
"""


def tree() -> Path:
    """The tree, which is made now if this version of it is not in the cache. Nobody may write to
    it. AssertionError with the end of debootstrap's log when it cannot be made."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    made = _CACHE / f"{SUITE}-{version}"
    if made.exists():
        return made
    _CACHE.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=_CACHE))
    try:
        draft.chmod(0o755)
        _debootstrap(draft)
        _settle(draft)
        draft.rename(made)
    finally:
        if draft.exists():
            shutil.rmtree(draft)
    return made


def _debootstrap(directory: Path) -> None:
    made = subprocess.run(
        # What it mounts goes away with it.
        ["unshare", "--mount", "debootstrap", "--variant=minbase",
         f"--include={','.join(PACKAGES)}", SUITE, directory, _MIRROR],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    assert made.returncode == 0, f"debootstrap: {made.returncode}\n{made.stdout[-4000:]}"


def _settle(directory: Path) -> None:
    """What every machine has in common but for Muster."""
    for archive in (directory / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    unit = directory / "etc/systemd/system/control-groups.service"
    unit.write_text(_GROUPS_UNIT)
    enabled = ("systemd-networkd.service", unit.name)
    for words in (("enable", *enabled), ("mask", *_MASKED)):
        subprocess.run(["chroot", directory, "systemctl", *words], check=True, capture_output=True)
    # The console is what a machine that hangs is judged by.
    journald = directory / "etc/systemd/journald.conf.d/console.conf"
    journald.parent.mkdir(parents=True, exist_ok=True)
    journald.write_text("[Journal]\nForwardToConsole=yes\nMaxLevelConsole=info\n")
    (directory / "etc/hostname").unlink(missing_ok=True)


if __name__ == "__main__":
    print(tree())
