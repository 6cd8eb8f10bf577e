"""The machines of these tests keep what they promise: nothing of one is left, whatever becomes of
the test, and one that does not boot says why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.boot.machine import Machine, machine
from tests.boot.network import network
from tests.boot.tree import tree

pytestmark = [pytest.mark.real("boot"), pytest.mark.limit(480)]


class Unlucky(Exception):
    """What a test may raise at any time."""


@contextlib.contextmanager
def alone(directory: Path, lower: Path) -> Iterator[Machine]:
    """One machine with a network to itself, switched on."""
    with (
        network() as plugged_into,
        machine("m", 2, directory / "m", [lower], plugged_into) as made,
    ):
        made.power_on()
        yield made


def fails(directory: Path) -> None:
    """A test that fails while a machine is in the midst of a boot."""
    with alone(directory, tree()) as made:
        made.until_booted()
        assert made.run("hostname") == "m\n"
        made.reboot()
        made.try_run("systemctl", "reboot")
        raise Unlucky


def test_nothing_of_a_machine_is_left_when_a_test_fails(tmp_path: Path) -> None:
    """Its processes and files are looked after as those of any test, its control groups and links
    by those who made them. What else comes and goes here is not ours."""
    with pytest.raises(Unlucky):
        fails(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_a_machine_is_one_process_to_who_looks_for_leaks(tmp_path: Path) -> None:
    """What runs inside comes and goes as it likes; a machine that is left is found all the same."""
    before = leaks.snapshot()
    with alone(tmp_path, tree()) as made:
        made.until_booted()
        (supervisor,) = leaks.snapshot().new_processes(before)
        assert supervisor.name() == "unshare"


def test_a_machine_keeps_its_disk_and_gets_a_new_boot_id(tmp_path: Path) -> None:
    with alone(tmp_path, tree()) as made:
        made.until_booted()
        boot_ids = {made.run("cat", "/proc/sys/kernel/random/boot_id")}
        made.sh("echo kept >/var/lib/kept")
        made.cut_power()
        made.power_on()
        made.until_booted()
        boot_ids.add(made.run("cat", "/proc/sys/kernel/random/boot_id"))
        made.reboot()
        boot_ids.add(made.run("cat", "/proc/sys/kernel/random/boot_id"))
        assert len(boot_ids) == 3
        assert made.run("cat", "/var/lib/kept") == "kept\n"


def test_a_machine_that_does_not_boot_shows_its_console(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    with (
        alone(tmp_path, nothing) as made,
        pytest.raises(AssertionError, match=r"(?s)m does not boot.*console of m.*OS root"),
    ):
        made.until_booted()
