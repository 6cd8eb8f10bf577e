"""Whatever a job leaves in its directory goes, and nothing else does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agent.host.tree import remove_tree
from tests.unprivileged import unprivileged

DEEP = 2500


def nested(top: Path, depth: int) -> None:
    """Directories one in the other, deeper than any path can name, with a file in the deepest."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("directory", dir_fd=here)
        below = os.open("directory", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_a_tree_deeper_than_paths_and_stacks_go(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    nested(tmp_path / "a", DEEP)
    (tmp_path / "a" / "directory" / "beside").mkdir()
    remove_tree(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_names_in_no_encoding(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe\n \x01")
    directory = tmp_path / "a" / name
    (directory / name).mkdir(parents=True)
    (directory / f"{name}2").touch()
    os.mkfifo(directory / "-fifo")
    remove_tree(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_delete(tmp_path: Path) -> None:
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "a" / "b")


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "a" / "b" / "broken").symlink_to("nowhere")
    remove_tree(tmp_path / "a")
    (tmp_path / "a").symlink_to(tmp_path / "kept")
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "a")
    assert (tmp_path / "kept" / "file").exists()


REMOVE = """
import json, sys
from pathlib import Path
from agent.host.tree import remove_tree
try:
    said = str(remove_tree(Path(sys.argv[1])))
except OSError as error:
    said = str(error)
print(json.dumps(said), flush=True)
"""


@pytest.mark.real("setpriv")
def test_directories_without_permissions(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch(mode=0o000)
    for path in ("a/b/c", "a/b", "a"):
        (tmp_path / path).chmod(0o000)
    with unprivileged(REMOVE, str(tmp_path / "a")) as script:
        assert script.says() == "None"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real("setpriv")
def test_what_may_not_be_deleted_is_named(tmp_path: Path) -> None:
    """As what sudo has left: only its user, or root, can delete it."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    os.chown(tmp_path / "a" / "b", 1, 1)
    with unprivileged(REMOVE, str(tmp_path / "a")) as script:
        assert script.says() == f"[Errno 13] Permission denied ({tmp_path}/a): 'file'"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("options", [("-t", "tmpfs", "tmpfs"), ("--bind", "{outside}")])
@pytest.mark.parametrize(
    ("where", "named"), [("a/b/point", r"a, 2 deep\): 'point'"), ("a", r"a\): 'a'")]
)
def test_a_mount_is_not_entered(
    tmp_path: Path, options: tuple[str, ...], where: str, named: str
) -> None:
    """Nor a bind mount of the same disk, whose device is the same; not at the top either."""
    (tmp_path / "outside").mkdir()
    point = tmp_path / where
    point.mkdir(parents=True)
    given = [option.format(outside=tmp_path / "outside") for option in options]
    subprocess.run(["mount", *given, str(point)], check=True)
    try:
        (point / "kept").touch()
        with pytest.raises(OSError, match=rf"something is mounted here \({tmp_path}/{named}"):
            remove_tree(tmp_path / "a")
        assert (point / "kept").exists()
    finally:
        subprocess.run(["umount", str(point)], check=True)
    remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()
