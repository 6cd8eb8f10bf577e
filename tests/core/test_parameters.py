"""`Ref::name` in commands: what is replaced, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.errors import InvalidArgument
from coordinator.core.parameters import substitute
from coordinator.core.submission import resolve
from tests.core.shapes import PLAIN, SUBMISSION, multinode, node_range


@pytest.mark.parametrize(
    ("argument", "result"),
    [
        ("Ref::a", "1"),
        ("x=Ref::a,y=Ref::a-b.txt", "x=1,y=2.txt"),
        ("Ref::a Ref::nested", "1 Ref::a"),
        ("Ref::empty", ""),
        ("Ref:a Ref:: ref::a ::a Ref::é", "Ref:a Ref:: ref::a ::a Ref::é"),
    ],
)
def test_references(argument: str, result: str) -> None:
    container = replace(PLAIN, command=("sh", argument))
    definition = replace(
        multinode(node_range("0:", container)),
        parameters={"a": "0", "a-b": "2", "nested": "Ref::a", "unused": "x", "empty": ""},
    )
    spec = resolve(replace(SUBMISSION, parameters={"a": "1"}), definition, 0)
    assert spec.groups[0].container.command == ("sh", result)
    assert spec.parameters == definition.parameters | {"a": "1"}


def test_a_reference_without_a_parameter() -> None:
    container = replace(PLAIN, command=("sh", "x Ref::a_b/y"))
    definition = multinode("0", node_range("1:", container))
    message = (
        "Unable to substitute value. No parameter found for reference a_b "
        "(nodeProperties.nodeRangeProperties[1].container.command[1])"
    )
    with pytest.raises(InvalidArgument, match=f"^{re.escape(message)}$"):
        resolve(replace(SUBMISSION, parameters={"a": "1"}), definition, 0)


def test_values_cannot_blow_up_a_command_or_bring_nul() -> None:
    with pytest.raises(InvalidArgument, match=r"^c has more than 65536 characters after param"):
        substitute(("sh", " ".join(["Ref::a"] * 3000)), {"a": "x" * 30_000}, "c")
    assert substitute(("Ref::a",), {"a": "x" * 65_536}, "c") == ("x" * 65_536,)
    with pytest.raises(InvalidArgument, match=r"^parameters\.a has a NUL character"):
        substitute(("Ref::a",), {"a": "x\0"}, "c")


PIECES = st.one_of(
    st.tuples(st.just(False), st.text(" ./$Ré", max_size=3)),
    st.tuples(st.just(True), st.sampled_from(["a", "a-b", "A_1", "Ref"])),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(PIECES, max_size=8),
    st.fixed_dictionaries({name: st.text(max_size=4) for name in ("a", "a-b", "A_1", "Ref")}),
)
def test_substitution_replaces_each_reference_and_nothing_else(
    pieces: list[tuple[bool, str]], parameters: dict[str, str]
) -> None:
    parameters = {name: value.replace("\0", "") for name, value in parameters.items()}
    # A slash ends each name, as the longest run of name characters is the name.
    argument = "".join(f"Ref::{text}/" if is_name else text for is_name, text in pieces)
    expected = "".join(f"{parameters[text]}/" if is_name else text for is_name, text in pieces)
    assert substitute((argument,), parameters, "command") == (expected,)
