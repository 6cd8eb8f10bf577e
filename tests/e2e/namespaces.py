"""Hosts with addresses of their own: network namespaces on a bridge."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from collections.abc import Iterator

NETWORK = "10.213.77"
"""The bridge is at .1, the namespaces from .2 on."""


@contextlib.contextmanager
def namespaces(count: int, network: str = NETWORK) -> Iterator[list[str]]:
    """Names of `count` namespaces, each with lo and an eth0 on one bridge of our own."""
    tag = uuid.uuid4().hex[:6]
    bridge, names = f"mb{tag}", [f"muster-{tag}-{n}" for n in range(2, 2 + count)]
    ip("link", "add", bridge, "type", "bridge")
    try:
        ip("address", "add", f"{network}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for n, name in enumerate(names, 2):
            ip("netns", "add", name)
            ip("link", "add", f"mv{tag}{n}", "type", "veth", "peer", "eth0", "netns", name)
            ip("link", "set", f"mv{tag}{n}", "master", bridge, "up")
            ip("-n", name, "address", "add", f"{network}.{n}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        ip("link", "delete", bridge)


def inside(name: str) -> list[str]:
    """What goes before a command that is to run in the namespace. Not `ip netns exec`, which
    hides the control groups."""
    return ["nsenter", f"--net=/run/netns/{name}"]


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)
