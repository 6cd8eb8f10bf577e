"""What has the form of an id, a pid and a port, and what has not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.host import ids

ID = "0123456789abcdef" * 4


def test_what_is_one() -> None:
    assert ids.container_id(ID) == ID
    assert (ids.pid(2), ids.pid(4_194_304)) == (2, 4_194_304)
    assert (ids.port(1), ids.port(65_535)) == (1, 65_535)


@pytest.mark.parametrize(
    "given",
    [
        "",
        ID[:12],
        ID[1:],
        f"{ID}0",
        ID.upper(),
        f"{ID}\n",
        f"warning\n{ID}",
        f" {ID}",
        None,
        0,
        b"a" * 64,
    ],
)
def test_what_is_no_container_id(given: object) -> None:
    with pytest.raises(
        ids.Malformed, match=r"is no container id: one has 64 lower-case hex digits"
    ):
        ids.container_id(given)


@pytest.mark.parametrize("given", [0, 1, -1, 4_194_305, "7", 7.0, True, None])
def test_what_is_no_pid_of_a_node(given: object) -> None:
    with pytest.raises(ids.Malformed, match="is no pid of a node: one is 2 to 4194304"):
        ids.pid(given)


@pytest.mark.parametrize("given", [0, -1, 65_536, "80", None])
def test_what_is_no_port(given: object) -> None:
    with pytest.raises(ids.Malformed, match="is no port: one is 1 to 65535"):
        ids.port(given)


@pytest.mark.parametrize("check", [ids.container_id, ids.pid, ids.port])
def test_what_is_wrong_is_named(check: Callable[[object], object]) -> None:
    with pytest.raises(ids.Malformed, match=r"^'x{99} is no "):
        check("x" * 1000)
