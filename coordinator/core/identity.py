"""Is the caller the host that is known? What tells machines apart, and what a Hello proves.

An agent's uuid, its host id and its ledger are files: a golden image and a restored snapshot bring
them to another machine, or to another time. What comes with a disk proves nothing by itself. The
machine tells itself by what disks do not carry, and a new boot id is a reboot only where the agent
also knows the boot before. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineId:
    """What an agent says of the machine that it runs on; empty where it cannot know."""

    os_id: str = ""
    """/etc/machine-id, which clones of a disk share."""
    product_uuid: str = ""
    """The firmware's, by DMI, which clones of a virtual machine do not share."""
    mac_addresses: tuple[str, ...] = ()
    """Permanent addresses of its network interfaces."""


UNKNOWN_MACHINE = MachineId()


def is_same(known: MachineId, said: MachineId) -> bool | None:
    """Whether both are one machine; None where nothing says so. An interface may be added or taken
    away, so that one address in common is enough."""
    compared = [
        mine == other
        for mine, other in (
            (known.os_id, said.os_id),
            (known.product_uuid, said.product_uuid),
        )
        if mine and other
    ]
    if known.mac_addresses and said.mac_addresses:
        compared.append(not set(known.mac_addresses).isdisjoint(said.mac_addresses))
    return all(compared) if compared else None


def difference(known: MachineId, said: MachineId) -> str:
    """For people: what tells the two machines apart."""
    pairs = (
        ("machine-id", known.os_id, said.os_id),
        ("product uuid", known.product_uuid, said.product_uuid),
        ("network addresses", ", ".join(known.mac_addresses), ", ".join(said.mac_addresses)),
    )
    return "; ".join(
        f"{what} {mine}, here {other}"
        for what, mine, other in pairs
        if mine and other not in ("", mine)
    )
