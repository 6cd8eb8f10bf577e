"""The lease as its holder sees it: by its own descriptor, and woken by the kernel."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.lease_file import HeldLease, Leases, now_ms

NAME = "muster-job-1-0"
HOUR_MS = 3_600_000
ROOT = Path(__file__).parents[2]


@pytest.fixture
def leases(tmp_path: Path) -> Iterator[Leases]:
    made = Leases(tmp_path / "leases")
    yield made
    made.close()


@pytest.fixture
def held(leases: Leases) -> Iterator[HeldLease]:
    """Of a lease that never ends."""
    leases.set(NAME, None, 7)
    made = HeldLease(leases.path(NAME))
    yield made
    for fd in (made.fd, *made.fds):
        os.close(fd)


def woken(held: HeldLease, limit_ms: int = 0) -> bool:
    """Whether there is something to look at, within that time."""
    return bool(select.select(held.fds, [], [], limit_ms / 1000)[0])


def test_what_is_written_is_read(leases: Leases, held: HeldLease) -> None:
    at_ms = now_ms() + HOUR_MS
    leases.set(NAME, at_ms, 7)
    assert not held.look()
    assert held.ends_ms == at_ms
    assert leases.grace_seconds(NAME) == 7
    assert not leases.is_over(NAME)
    assert (Path(leases.path(NAME)).stat().st_mode & 0o777) == 0o600


def test_a_lease_that_never_ends_wakes_its_holder_when_it_ends_after_all(
    leases: Leases, held: HeldLease
) -> None:
    assert not woken(held)
    leases.set(NAME, now_ms() + HOUR_MS, 7)
    assert woken(held)
    assert not held.look()
    leases.set(NAME, now_ms() + 2 * HOUR_MS, 7)
    assert not woken(held), "a holder that knows an end is not woken by each contact"
    leases.set(NAME, None, 7)
    assert not held.look()
    leases.set(NAME, now_ms(), 7)
    assert woken(held)
    assert held.look()


def test_its_holder_is_woken_at_the_end(leases: Leases, held: HeldLease) -> None:
    leases.set(NAME, now_ms() + 100, 7)
    assert not held.look()
    assert woken(held, 10_000)
    assert held.look()
    assert leases.is_over(NAME)


def test_a_lease_that_was_renewed_goes_on(leases: Leases, held: HeldLease) -> None:
    leases.set(NAME, now_ms() + 200, 7)
    assert not held.look()
    leases.set(NAME, now_ms() + HOUR_MS, 7)
    assert woken(held, 10_000)
    assert not held.look()
    assert not woken(held)


@pytest.mark.parametrize("content", [b"", b"0000", b"not twenty digits at all", b"-1" * 10])
def test_damage_leaves_the_deadline_that_was_read_last(
    leases: Leases, held: HeldLease, content: bytes
) -> None:
    leases.set(NAME, now_ms() + 200, 7)
    assert not held.look()
    Path(leases.path(NAME)).write_bytes(content)
    assert woken(held, 10_000)
    assert held.look()


@pytest.mark.parametrize("content", [b"", b"0000", b"not twenty digits at all"])
def test_what_holds_no_lease_has_no_holder(leases: Leases, content: bytes) -> None:
    leases.set(NAME, None, 7)
    Path(leases.path(NAME)).write_bytes(content)
    with pytest.raises(OSError, match="holds no lease"):
        HeldLease(leases.path(NAME))


def test_a_moved_and_a_wiped_directory_change_nothing(
    leases: Leases, held: HeldLease, tmp_path: Path
) -> None:
    (tmp_path / "leases").rename(tmp_path / "moved")
    leases.set(NAME, now_ms() + 200, 7)
    assert woken(held)
    assert not held.look()
    (tmp_path / "moved" / NAME).unlink()
    assert not held.look()
    assert not held.is_gone
    assert woken(held, 10_000)
    assert held.look()


def test_the_end_of_a_node_wakes_its_holder(leases: Leases, held: HeldLease) -> None:
    leases.set(NAME, now_ms() + HOUR_MS, 7)
    assert not held.look()
    leases.remove(NAME)
    assert woken(held)
    assert not held.look()
    assert held.is_gone
    assert not Path(leases.path(NAME)).exists()
    leases.remove(NAME)


def test_the_note_of_an_end_stays_whatever_is_written_after_it(
    leases: Leases, held: HeldLease
) -> None:
    assert not leases.is_end_noted(NAME)
    held.note_end()
    leases.set(NAME, now_ms() + HOUR_MS, 9)
    assert leases.is_end_noted(NAME)
    assert leases.grace_seconds(NAME) == 9


def test_of_an_unknown_node_nothing_is_known(leases: Leases) -> None:
    leases.note_end(NAME)
    leases.remove(NAME)
    assert not leases.is_end_noted(NAME)
    assert not leases.is_over(NAME)
    assert leases.grace_seconds(NAME) is None
    # Nobody holds it: it is over, and not one that never ends.
    assert leases.ends_ms(NAME) == 1


def test_a_lease_that_ended_before_this_boot_is_not_one_that_never_ends(
    leases: Leases, held: HeldLease
) -> None:
    leases.set(NAME, 0, 7)
    assert leases.is_over(NAME)
    assert held.look()


def test_only_those_that_are_named_are_kept(leases: Leases) -> None:
    leases.keep_only([])
    for name in ("muster-a-1-0", "muster-b-1-0"):
        leases.set(name, None, 7)
    leases.keep_only(["muster-b-1-0"])
    assert leases.grace_seconds("muster-a-1-0") is None
    assert leases.grace_seconds("muster-b-1-0") == 7


def test_where_inotify_is_used_up_the_holder_looks_by_itself(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.lease_file._LOOK_MS", 30)
    monkeypatch.setattr("agent.lease_file._inotify", lambda: -1)
    leases.set(NAME, None, 7)
    held = HeldLease(leases.path(NAME))
    try:
        leases.set(NAME, now_ms(), 7)
        assert woken(held, 10_000)
        assert held.look()
    finally:
        for fd in (held.fd, *held.fds):
            os.close(fd)


def test_a_holder_that_has_ended_has_no_file(tmp_path: Path) -> None:
    Leases(tmp_path / "leases").find("muster-j-1-0", 2**22)


_LOOKS = "import sys; from agent.lease_file import HeldLease; print(HeldLease(sys.argv[1]).look())"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a time namespace")
def test_a_machine_whose_clock_stood_still_ends_its_leases_late_by_as_much(leases: Leases) -> None:
    """As a hypervisor does that stops a guest with its clock: nobody on the guest can know of it.
    In a time namespace the clock since boot is behind by what it was stopped for."""
    stopped_seconds = now_ms() // 2000

    def is_over_there() -> str:
        behind = ("unshare", "--time", "--boottime", str(-stopped_seconds), "--fork")
        return subprocess.run(
            [*behind, sys.executable, "-c", _LOOKS, leases.path(NAME)],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
        ).stdout.strip()

    leases.set(NAME, now_ms() - 1, 7)
    assert leases.is_over(NAME)
    assert is_over_there() == "False"
    leases.set(NAME, now_ms() - 1000 * stopped_seconds - 1, 7)
    assert is_over_there() == "True"
