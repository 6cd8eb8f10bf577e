"""What every ledger promises, asked of each: sqlite and memory."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agent.core.assignment import Assignment, ContainerSpec, Desired, NodeKey, Progress
from agent.core.state import Slot
from agent.ledger.damage import explained
from agent.ledger.memory import MemoryLedger
from agent.ledger.port import TOKEN_BYTES_MAX, Ledger, LedgerContents, LedgerError
from agent.ledger.sqlite import SqliteLedger

OTHER = NodeKey(job_id="other", attempt=1, node_index=0)
KEY = NodeKey(job_id="5b4d50f8-0000-4000-8000-000000000000", attempt=2, node_index=3)
SPEC = ContainerSpec(
    image="image",
    command=("sh", "-c", "echo \u00e4\n"),
    environment=(("A", "b\nc"), ("EMPTY", "")),
    vcpus=2,
    memory_mib=64,
    user="1:2",
)


def slot(key: NodeKey = KEY, desired: Desired = Desired.RUN, **members: object) -> Slot:
    assignment = Assignment(
        key=key, desired=desired, spec=SPEC, stop_grace_seconds=7, lease_seconds=60
    )
    made = Slot(key=key, desired=desired, assignment=assignment)
    for name, value in members.items():
        setattr(made, name, value)
    return made


@pytest.fixture(params=["sqlite", "memory"])
def reopened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Ledger]:
    """A maker of ledgers over the same facts, as after a restart of the agent."""
    if request.param == "sqlite":
        return lambda: SqliteLedger(tmp_path)
    memory = MemoryLedger()
    return lambda: memory


def test_slots_survive_a_restart(reopened: Callable[[], Ledger]) -> None:
    first = reopened()
    assert first.open("boot", "h1").slots == ()
    kept = slot(
        progress=Progress.EXITED, started_at_ms=5, exit_code=137, reason="why", stopped_at_ms=9
    )
    found = Slot(key=NodeKey(job_id="x", attempt=1, node_index=0), desired=Desired.STOP,
                 assignment=None)  # fmt: skip
    first.save([kept, found], [])
    first.close()
    second = reopened()
    assert second.open("boot", "h1").slots == (kept, found)
    second.close()


def test_the_newest_word_on_a_slot_counts(reopened: Callable[[], Ledger]) -> None:
    ledger = reopened()
    ledger.open("boot", "h1")
    ledger.save([slot(progress=Progress.STARTING)], [])
    ledger.save([slot(progress=Progress.RUNNING)], [])
    gone = NodeKey(job_id="gone", attempt=1, node_index=0)
    ledger.save([slot(gone)], [])
    ledger.save([], [gone, NodeKey(job_id="never", attempt=1, node_index=0)])
    ledger.close()
    again = reopened()
    assert [s.progress for s in again.open("boot", "h1").slots] == [Progress.RUNNING]
    again.close()


def test_starts_are_counted_and_a_new_boot_forgets_the_contact(
    reopened: Callable[[], Ledger],
) -> None:
    seen = []
    for boot_id, contact in (("one", 111), ("one", 222), ("two", 333)):
        ledger = reopened()
        contents = ledger.open(boot_id, "h1")
        seen.append((contents.incarnation, contents.boot_id, contents.last_contact_ms))
        ledger.keep_contact(contact)
        ledger.close()
    assert seen == [(1, "", None), (2, "one", 111), (3, "one", None)]


def test_a_contact_is_forgotten_when_that_is_asked_for(reopened: Callable[[], Ledger]) -> None:
    for contact in (111, None):
        ledger = reopened()
        ledger.open("one", "h1")
        ledger.keep_contact(contact)
        ledger.close()
    ledger = reopened()
    assert ledger.open("one", "h1").last_contact_ms is None
    ledger.close()


def test_what_was_seen_of_the_journal_survives_restarts_and_reboots(
    reopened: Callable[[], Ledger],
) -> None:
    told = []
    for boot_id, token in (("one", b"life:12345:mac"), ("one", b"life:9:mac"), ("two", b"")):
        ledger = reopened()
        contents = ledger.open(boot_id, "h1")
        told.append((contents.journal_token, contents.last_contact_ms))
        if token:
            ledger.keep_token(token)
            ledger.keep_contact(7)
        ledger.close()
    assert told == [(b"", None), (b"life:12345:mac", 7), (b"life:9:mac", None)]


def test_a_token_without_a_contact_is_none(reopened: Callable[[], Ledger]) -> None:
    for expected in (b"", b"x" * TOKEN_BYTES_MAX):
        ledger = reopened()
        contents = ledger.open("boot", "h1")
        assert (contents.journal_token, contents.last_contact_ms) == (expected, None)
        ledger.keep_token(b"x" * TOKEN_BYTES_MAX)
        ledger.close()


def test_slots_of_another_host_are_left_to_it(reopened: Callable[[], Ledger]) -> None:
    """The data directory is a copy, or the host has a new name."""
    ledger = reopened()
    ledger.open("boot", "h1")
    ledger.save([slot()], [])
    ledger.close()
    renamed = reopened()
    assert renamed.open("boot", "h2").slots == ()
    renamed.close()
    back = reopened()
    assert back.open("boot", "h1").slots == ()
    back.close()


def serve(ledger: Ledger, cluster_id: str, boot_id: str = "boot") -> LedgerContents:
    """A start of the agent, which is told of a cluster and then ends."""
    contents = ledger.open(boot_id, "h1")
    ledger.keep_cluster(cluster_id)
    ledger.close()
    return contents


def test_what_is_known_of_a_cluster_waits_until_the_agent_is_back(
    reopened: Callable[[], Ledger],
) -> None:
    """A coordinator that was started without its journal is another cluster."""
    serve(reopened(), "a")
    ledger = reopened()
    ledger.open("boot", "h1")
    ledger.save([slot()], [])
    ledger.keep_contact(7)
    ledger.keep_token(b"seen of a")
    ledger.close()
    assert serve(reopened(), "b").slots == (slot(),)

    ledger = reopened()
    contents = ledger.open("boot", "h1")
    assert (contents.cluster_id, contents.slots, contents.elsewhere) == ("b", (), (KEY,))
    # Nothing that this host has of the new cluster was ever in contact with it.
    assert (contents.journal_token, contents.last_contact_ms) == (b"", 0)
    ledger.save([slot(OTHER)], [])
    ledger.keep_contact(900)
    ledger.keep_token(b"seen of b, which is longer")
    ledger.close()
    serve(reopened(), "a", "boot after")

    ledger = reopened()
    contents = ledger.open("boot after", "h1")
    assert (contents.cluster_id, contents.slots, contents.elsewhere) == ("a", (slot(),), (OTHER,))
    assert contents.journal_token == b"seen of a"
    # What ran in the last boot that served this cluster cannot run, nor can its lease.
    assert (contents.boot_id, contents.last_contact_ms) == ("boot", None)
    assert contents.incarnation == 6
    ledger.keep_cluster("b")
    ledger.close()
    assert serve(reopened(), "a").slots == (slot(OTHER),)

    ledger = reopened()
    ledger.open("boot", "h1")
    ledger.close()
    copied = reopened()
    contents = copied.open("boot", "h2")
    assert (contents.slots, contents.elsewhere) == ((), ())
    # Nor has this host seen anything of the other cluster.
    copied.keep_cluster("b")
    copied.close()
    copied = reopened()
    contents = copied.open("boot", "h2")
    assert (contents.journal_token, contents.last_contact_ms) == (b"", 0)
    copied.close()


def test_a_contact_with_another_cluster_renews_no_lease(reopened: Callable[[], Ledger]) -> None:
    serve(reopened(), "a")
    ledger = reopened()
    ledger.open("boot", "h1")
    ledger.save([slot()], [])
    ledger.keep_contact(7)
    ledger.close()
    serve(reopened(), "b")
    ledger = reopened()
    ledger.open("boot", "h1")
    ledger.keep_contact(900)
    ledger.keep_cluster("a")
    ledger.close()
    contents = serve(reopened(), "a")
    assert (contents.boot_id, contents.last_contact_ms) == ("boot", 7)


def test_sqlite_is_for_one_agent_and_its_owner_alone(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path)
    ledger.open("boot", "h1")
    assert stat.S_IMODE((tmp_path / "agent.db").stat().st_mode) == 0o600
    with pytest.raises(LedgerError, match="another agent uses this data directory; stop it first"):
        SqliteLedger(tmp_path).open("boot", "h1")
    ledger.close()
    with pytest.raises(LedgerError, match="is closed"):
        ledger.save([slot()], [])


def test_a_contact_that_the_disk_does_not_take_is_told_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SqliteLedger(tmp_path)) as ledger:
        ledger.open("boot", "h1")

        def pwrite(fd: int, data: bytes, offset: int) -> int:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(OSError, match=f"Read-only file system: '{tmp_path}/contact'"):
            ledger.keep_contact(7)


def test_closing_waits_for_a_save_in_another_thread(tmp_path: Path) -> None:
    """A cancelled task leaves its save running; closing under it once crashed the process."""
    ledger = SqliteLedger(tmp_path)
    ledger.open("boot", "h1")
    saved = threading.Event()

    def save() -> None:
        for attempt in range(1, 200):
            try:
                ledger.save([slot(NodeKey(job_id="j", attempt=attempt, node_index=0))], [])
            except LedgerError:
                break
            saved.set()

    thread = threading.Thread(target=save)
    thread.start()
    assert saved.wait(10)
    ledger.close()
    thread.join(10)
    assert not thread.is_alive()


def kept_aside(directory: Path) -> list[str]:
    """The damaged ledgers in a directory, without their dates."""
    return sorted(
        re.sub(r"\d{8}T\d{6}Z", "DATE", file.name) for file in directory.glob("*damaged*")
    )


def noise(directory: Path) -> None:
    for file in directory.glob("agent.db*"):
        file.write_bytes(b"not a database" * 600)


def truncate(directory: Path) -> None:
    os.truncate(directory / "agent.db", 5000)


def zero_a_page(directory: Path) -> None:
    with (directory / "agent.db").open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))


def statement(text: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        with closing(sqlite3.connect(directory / "agent.db")) as db:
            db.execute(text)
            db.commit()

    return damage


@pytest.mark.parametrize(
    ("damage", "says", "incarnation"),
    [
        (noise, "file is not a database", 1),
        (truncate, "malformed|not a database", 1),
        (zero_a_page, "malformed|Page 2", 1),
        (statement("drop table slot"), "no such table: slot", 1),
        (statement("delete from life"), "the table life is empty", 1),
        (statement("pragma user_version = -7"), "the format -7", 1),
        # The rest is whole: what it says of the agent itself counts.
        (statement("update slot set body = '{}'"), f"the row of {KEY.name} .* KeyError: 'key'", 3),
        (
            statement("update slot set body = replace(body, 'RUN', 'FLY')"),
            f"the row of {KEY.name} .* 'FLY' is not a valid Desired",
            3,
        ),
        (
            statement("update slot set body = cast(x'7b226b' || x'ff' as text)"),
            f"the row of {KEY.name} .* 'utf-8' codec",
            3,
        ),
    ],
)
def test_a_damaged_ledger_is_set_aside_whole(
    damage: Callable[[Path], None],
    says: str,
    incarnation: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its agent goes on without it, and a person finds out."""
    for _ in range(2):
        ledger = SqliteLedger(tmp_path)
        ledger.open("boot", "h1")
        ledger.save([slot(progress=Progress.RUNNING)], [])
        ledger.keep_cluster("c")
        ledger.keep_contact(5)
        ledger.close()
    damage(tmp_path)
    before = (tmp_path / "agent.db").read_bytes()
    ledger = SqliteLedger(tmp_path)
    contents = ledger.open("boot", "h1")
    assert contents.slots == ()
    assert (contents.incarnation, contents.cluster_id) == (incarnation, "c" * (incarnation > 1))
    # The contact is in a file of its own: no lease gets longer.
    assert contents.last_contact_ms == 5
    assert kept_aside(tmp_path)[0] == "agent.db.damaged-DATE"
    assert next(iter(sorted(tmp_path.glob("*damaged*")))).read_bytes() == before
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert re.search(rf"agent\.db is damaged: .*({says}).*is kept as agent", record.getMessage())
    ledger.save([slot()], [])
    ledger.close()
    again = SqliteLedger(tmp_path)
    assert again.open("boot", "h1").slots == (slot(),)
    again.close()
    assert len(caplog.records) == 1


def test_a_damaged_row_shows_nothing_of_a_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = SqliteLedger(tmp_path)
    ledger.open("boot", "h1")
    ledger.save([slot()], [])
    ledger.close()
    statement("update slot set body = cast(body || x'ff' as text)")(tmp_path)
    ledger = SqliteLedger(tmp_path)
    ledger.open("boot", "h1")
    ledger.close()
    assert "is damaged" in caplog.text
    assert SPEC.environment[0][1] not in caplog.text
    assert "environment" not in caplog.text


def test_what_is_wrong_around_a_ledger_is_not_damage(tmp_path: Path) -> None:
    """It is left as it is, with a word on what would be right."""
    directory = tmp_path / "agent.db"
    directory.mkdir()
    with pytest.raises(LedgerError, match=r"agent\.db: Is a directory"):
        SqliteLedger(tmp_path).open("boot", "h1")
    directory.rmdir()
    ledger = SqliteLedger(tmp_path)
    ledger.open("boot", "h1")
    ledger.close()
    statement("pragma user_version = 2")(tmp_path)
    with pytest.raises(LedgerError, match=r"written by a newer agent .*; upgrade this agent"):
        SqliteLedger(tmp_path).open("boot", "h1")
    assert kept_aside(tmp_path) == []


def test_a_file_that_may_not_be_written_says_who_has_to_be_able_to(tmp_path: Path) -> None:
    refused = PermissionError(13, "Permission denied")
    assert str(explained(tmp_path / "agent.db", refused)) == (
        f"{tmp_path}/agent.db: Permission denied; this agent's user must be able to write to it "
        "and to its directory"
    )


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_ledger_that_is_gone_is_missed(
    is_empty: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = SqliteLedger(tmp_path)
    ledger.open("boot", "h1")
    ledger.close()
    assert not caplog.records
    (tmp_path / "agent.db").unlink()
    if is_empty:
        (tmp_path / "agent.db").touch()
    ledger = SqliteLedger(tmp_path)
    assert ledger.open("boot", "h1").slots == ()
    ledger.close()
    assert "agent.db is not there, or is empty, though an agent has run here" in caplog.text
