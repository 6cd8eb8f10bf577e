"""The network of the machines: a bridge of the test, which is the machines' only way out.

The test itself has an address on it, so it reaches the machines as any user would.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from tests.e2e.namespaces import ip

_PREFIX = "10.213.78"
"""The bridge, and with it the test, is at .1."""


@dataclass(frozen=True, slots=True)
class Network:
    """A bridge. The machine `name` has a link to it whose outer end is ours to cut."""

    tag: str

    @property
    def bridge(self) -> str:
        """The bridge's name, for those that plug in."""
        return f"mb{self.tag}"

    def machine(self, name: str) -> str:
        """What systemd-nspawn has to call a machine, so that its link has the name of `link`."""
        return f"{self.tag}-{name}"

    def link(self, name: str) -> str:
        """The outer end of a machine's link, as systemd-nspawn calls it."""
        return f"vb-{self.machine(name)}"

    def cut(self, name: str) -> None:
        """Pull the machine's cable."""
        ip("link", "set", self.link(name), "down")

    def heal(self, name: str) -> None:
        """Put it back; it may be there already."""
        ip("link", "set", self.link(name), "up")


def address(number: int) -> str:
    """The address of a machine, from 2 on."""
    return f"{_PREFIX}.{number}"


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A bridge without machines. It is removed afterwards, and what is left of their links."""
    made = Network(uuid.uuid4().hex[:6])
    ip("link", "add", made.bridge, "type", "bridge")
    try:
        ip("address", "add", f"{address(1)}/24", "dev", made.bridge)
        ip("link", "set", made.bridge, "up")
        yield made
    finally:
        # A connection whose other end is gone keeps its machine's end of a link for minutes.
        for link in _links(made.tag):
            subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)
    assert _links(made.tag) == []


def _links(tag: str) -> list[str]:
    """All that there is of a network, by name."""
    shown = subprocess.run(["ip", "-json", "link"], check=True, capture_output=True, text=True)
    return [link["ifname"] for link in json.loads(shown.stdout) if tag in link["ifname"]]
