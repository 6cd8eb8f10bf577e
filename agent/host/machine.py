"""Which machine this is, by what a copied disk does not bring along. Imports nothing of this
project."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

_MACHINE_ID = re.compile("[0-9a-f]{32}")
_PERMANENT = "0"
"""`addr_assign_type` of an address that came with the interface (linux/netdevice.h)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineId:
    """Each is empty where this agent cannot know it: the product uuid is for root to read, a
    container has no interface of its own."""

    os_id: str
    product_uuid: str
    mac_addresses: tuple[str, ...]

    @property
    def digest(self) -> str:
        """A short name of the machine for marks. Interfaces come and go, so they are not in it."""
        text = f"{self.os_id}\n{self.product_uuid}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def machine_id(root: Path = Path("/")) -> MachineId:
    """What the files below `root` say of this machine."""
    return MachineId(
        os_id=_os_id(root / "etc/machine-id"),
        product_uuid=_text(root / "sys/class/dmi/id/product_uuid").lower(),
        mac_addresses=_permanent_addresses(root / "sys/class/net"),
    )


def _os_id(path: Path) -> str:
    """Empty for an image that has none yet: it says `uninitialized` then (machine-id(5)), and two
    of them would be one machine."""
    found = _text(path)
    return found if _MACHINE_ID.fullmatch(found) else ""


def _permanent_addresses(interfaces: Path) -> tuple[str, ...]:
    """Of interfaces with a device behind them: what engines and bridges make has none."""
    try:
        names = os.listdir(interfaces)  # noqa: PTH208
    except OSError:
        return ()
    found = set()
    for name in names:
        interface = interfaces / name
        if not (interface / "device").exists():
            continue
        # A bond gives all that it holds one address, and keeps what each came with.
        own = _text(interface / "bonding_slave/perm_hwaddr")
        if not own and _text(interface / "addr_assign_type") == _PERMANENT:
            own = _text(interface / "address")
        if own.strip("0:"):
            found.add(own.lower())
    return tuple(sorted(found))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
