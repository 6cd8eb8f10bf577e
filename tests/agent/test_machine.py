"""Which machine this is, read from a made-up /sys and /etc."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.host.machine import MachineId, machine_id

OS_ID = "0123456789abcdef" * 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "etc/machine-id", f"{OS_ID}\n")
    write(tmp_path / "sys/class/dmi/id/product_uuid", "EC2ABC\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def interface(root: Path, name: str, address: str, *, kind: str = "0", device: bool = True) -> Path:
    own = root / "sys/class/net" / name
    write(own / "address", f"{address}\n")
    write(own / "addr_assign_type", f"{kind}\n")
    if device:
        (own / "device").mkdir()
    return own


def test_it_is_what_disks_do_not_bring_along(root: Path) -> None:
    interface(root, "ens6", "02:00:00:00:00:0B")
    interface(root, "ens5", "02:00:00:00:00:0a")
    assert machine_id(root) == MachineId(
        os_id=OS_ID,
        product_uuid="ec2abc",
        mac_addresses=("02:00:00:00:00:0a", "02:00:00:00:00:0b"),
    )


def test_what_is_made_in_software_or_given_at_random_is_left_out(root: Path) -> None:
    interface(root, "lo", "00:00:00:00:00:00")
    interface(root, "docker0", "02:42:00:00:00:01", device=False)
    interface(root, "vf0", "02:00:00:00:00:01", kind="1")
    assert machine_id(root).mac_addresses == ()


def test_of_a_bond_each_interface_counts_with_its_own_address(root: Path) -> None:
    own = interface(root, "eth1", "02:00:00:00:00:01", kind="3")
    write(own / "bonding_slave/perm_hwaddr", "02:00:00:00:00:02\n")
    assert machine_id(root).mac_addresses == ("02:00:00:00:00:02",)


@pytest.mark.parametrize("content", ["", "uninitialized\n", "0123\n"])
def test_an_image_that_has_no_machine_id_yet_is_no_machine(root: Path, content: str) -> None:
    """All that began from it would be the same one."""
    write(root / "etc/machine-id", content)
    assert machine_id(root).os_id == ""


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    unknown = machine_id(tmp_path)
    assert unknown == MachineId(os_id="", product_uuid="", mac_addresses=())


def test_marks_name_the_machine_and_not_its_interfaces(root: Path) -> None:
    before = machine_id(root)
    interface(root, "ens5", "02:00:00:00:00:0a")
    assert machine_id(root).digest == before.digest
    write(root / "etc/machine-id", "4567\n")
    assert machine_id(root).digest != before.digest
