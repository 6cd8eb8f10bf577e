"""The codec gives back what it was given, grows with its classes, and names what it refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, IntEnum, StrEnum
from types import ModuleType, NoneType
from typing import NamedTuple, NewType, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core import container, definition, events, state
from coordinator.core.node_set import NodeSet
from coordinator.journal.codec import CodecError, EventCodec, decode, encode

Name = NewType("Name", str)


class Shade(StrEnum):
    DARK = "dark"
    LIGHT = "light"


class Rank(IntEnum):
    LOW = 10
    HIGH = 20


class Plain(Enum):
    ONE = 1
    TWO = "two"


class Place(NamedTuple):
    name: Name
    number: int


@dataclass(slots=True, kw_only=True)
class Leaf:
    number: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    text: str
    number: int
    ratio: float
    flag: bool
    raw: bytes
    name: Name
    shade: Shade
    rank: Rank
    plain: Plain
    leaf: Leaf
    perhaps: int | None
    texts: tuple[str, ...]
    pair: tuple[int, str]
    place: Place
    leaves: list[Leaf]
    by_text: dict[Name, int]
    by_number: dict[int, Leaf]
    by_rank: dict[Rank, Shade]
    by_place: dict[Place, None]
    by_flag: dict[bool, int]
    tags: dict[str, str] = field(default_factory=dict)
    perhaps_leaf: Leaf | None = None
    count: int = 3
    cleared: str | None = "set"


def values_of(hint: object) -> st.SearchStrategy[object]:
    """Any value of a type hint. Unlike `st.from_type` it also fills members that have a default."""
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, NewType):
        return values_of(hint.__supertype__)
    if hint is None:
        return st.none()
    if NoneType in args and origin is not dict:
        return st.none() | values_of(args[0])
    if origin is list:
        return st.lists(values_of(args[0]), max_size=2)
    if origin is tuple and args[-1] is ...:
        return st.lists(values_of(args[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, args))
    if origin is dict:
        return st.dictionaries(values_of(args[0]), values_of(args[1]), max_size=2)
    assert isinstance(hint, type)
    if hint is NodeSet:
        return st.sets(st.integers(0, 9)).map(sorted).map(NodeSet.of)
    if dataclasses.is_dataclass(hint) or hasattr(hint, "_make"):
        members = {name: values_of(member) for name, member in get_type_hints(hint).items()}
        return st.builds(hint, **members)
    return st.floats(allow_nan=False) if hint is float else st.from_type(hint)


def dataclasses_in(module: ModuleType) -> list[type]:
    members = vars(module).values()
    return [each for each in members if isinstance(each, type) and dataclasses.is_dataclass(each)]


any_dataclass = st.sampled_from(
    [
        Everything,
        state.Job,
        *events.ALL_EVENTS,
        *dataclasses_in(container),
        *dataclasses_in(definition),
    ]
).flatmap(lambda cls: values_of(cls))


@settings(deadline=None)
@given(any_dataclass)
def test_what_goes_in_comes_out(value: object) -> None:
    assert decode(type(value), encode(value)) == value


@settings(deadline=None)
@given(values_of(Everything))
def test_types_survive_not_only_equality(value: object) -> None:
    """`True == 1` and a StrEnum equals its text, so equality alone would not notice."""
    assert repr(decode(Everything, encode(value))) == repr(value)


def test_members_equal_to_their_default_are_not_written() -> None:
    assert encode(Leaf(number=1)) == '{"number":1}'
    assert encode(Leaf(number=0, note="n")) == '{"number":0,"note":"n"}'


def test_absent_members_get_their_default_and_no_two_values_share_a_mutable_one() -> None:
    text = encode(
        definition.JobDefinition(job_definition_name="d", type=definition.DefinitionType.CONTAINER)
    )
    first, second = (decode(definition.JobDefinition, text) for _ in range(2))
    first.tags["key"] = "value"
    assert second.tags == {}


def test_a_newer_release_may_have_written_more() -> None:
    assert decode(Leaf, '{"number": 1, "colour": {"r": 1}}') == Leaf(number=1)


def test_dicts_keep_their_order() -> None:
    value = dataclasses.replace(SAMPLE, by_text={Name("z"): 1, Name("a"): 2})
    assert list(decode(Everything, encode(value)).by_text) == ["z", "a"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}", "Leaf.number: required, and missing in {}"),
        ('{"number": "4"}', "Leaf.number: expected int, found '4' (str)"),
        ('{"number": true}', "Leaf.number: expected int, found True (bool)"),
        ('{"number": 4.0}', "Leaf.number: expected int, found 4.0 (float)"),
        ('{"number": null}', "Leaf.number: expected int, found None (NoneType)"),
        ('{"number": 1, "note": 1}', "Leaf.note: expected str, found 1 (int)"),
        ("[]", "Leaf: expected Leaf, found [] (list)"),
        ("{", "Leaf: Expecting property name enclosed in double quotes"),
    ],
)
def test_decode_names_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode(Leaf, text)
    assert str(caught.value).startswith(complaint)


SAMPLE = Everything(
    text="é\0\U0001f600",
    number=2**70,
    ratio=0.5,
    flag=True,
    raw=b"\0\xff",
    name=Name("n"),
    shade=Shade.DARK,
    rank=Rank.LOW,
    plain=Plain.TWO,
    leaf=Leaf(number=1),
    perhaps=None,
    texts=("a",),
    pair=(1, "x"),
    place=Place(Name("p"), 1),
    leaves=[Leaf(number=2)],
    by_text={Name("k"): 1},
    by_number={7: Leaf(number=3)},
    by_rank={Rank.HIGH: Shade.LIGHT},
    by_place={Place(Name("q"), 2): None},
    by_flag={True: 1},
    cleared=None,
)


WRONG = [
    ("text", 1, "expected str"),
    ("number", True, "expected int"),
    ("ratio", "1.5", "expected float"),
    ("flag", 1, "expected bool"),
    ("raw", "*", "expected base64"),
    ("shade", "grey", "expected a value of Shade"),
    ("rank", 15, "expected a value of Rank"),
    ("plain", [], "expected a value of Plain"),
    ("leaf", 1, "expected Leaf"),
    ("perhaps", "1", "expected int"),
    ("texts", "abc", "expected array"),
    ("texts", ["a", 1], "expected str, found 1"),
    ("pair", [1], "expected array of 2"),
    ("place", ["p", "1"], "expected int, found '1'"),
    ("leaves", {}, "expected array"),
    ("by_text", [], "expected object"),
    ("by_number", {"x": {"number": 1}}, "expected an integer as key"),
    ("by_rank", {"15": "dark"}, "expected a value of Rank"),
    ("by_place", {}, "expected array of pairs"),
    ("by_place", [[["p", 1]]], "expected array of 2"),
]


@pytest.mark.parametrize(("member", "found", "complaint"), WRONG)
def test_decode_checks_every_type(member: str, found: object, complaint: str) -> None:
    body = json.loads(encode(SAMPLE))
    assert decode(Everything, json.dumps(body)) == SAMPLE
    with pytest.raises(CodecError, match=rf"^Everything\.{member}: {complaint}"):
        decode(Everything, json.dumps(body | {member: found}))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("text", b"bytes"),
        ("number", True),
        ("number", "1"),
        ("flag", 1),
        ("raw", "text"),
        ("shade", "dark"),
        ("leaf", None),
        ("leaf", SAMPLE),
        ("texts", ["a list"]),
        ("leaves", ()),
        ("pair", (1, "x", 2)),
        ("place", ("p", 1)),
        ("by_number", {"1": Leaf(number=1)}),
        ("by_place", [Place(Name("p"), 1)]),
        ("tags", {"a": None}),
    ],
)
def test_encode_refuses_what_could_not_be_read_back(member: str, value: object) -> None:
    change: Callable[..., Everything] = dataclasses.replace
    with pytest.raises(CodecError, match=rf"^Everything\.{member}: expected "):
        encode(change(SAMPLE, **{member: value}))


def test_the_innermost_class_is_named() -> None:
    spoiled = json.loads(encode(SAMPLE)) | {"by_number": {"7": {"number": "3"}}}
    with pytest.raises(CodecError, match=r"^Leaf\.number: expected int, found '3' \(str\)$"):
        decode(Everything, json.dumps(spoiled))


def test_a_long_value_is_not_quoted_in_full() -> None:
    with pytest.raises(CodecError) as caught:
        decode(Leaf, json.dumps({"number": "x" * 10_000}))
    assert len(str(caught.value)) < 200


@dataclass(frozen=True)
class HasNodes:
    nodes: NodeSet


@pytest.mark.parametrize(
    ("text", "nodes", "written"),
    [
        ("[]", [], "[]"),
        ("[3]", [3], "[3]"),
        # What releases wrote that knew lists only.
        ("[0,1,2,5]", [0, 1, 2, 5], "[[0,2],5]"),
        ("[[0,999]]", list(range(1000)), "[[0,999]]"),
    ],
)
def test_a_set_of_nodes_is_read_from_runs_and_from_a_list(
    text: str, nodes: list[int], written: str
) -> None:
    found = decode(HasNodes, f'{{"nodes":{text}}}')
    assert list(found.nodes) == nodes
    assert encode(found) == f'{{"nodes":{written}}}'


@pytest.mark.parametrize(
    "wrong",
    ["1", "{}", "[true]", '["1"]', "[[0]]", "[[0,1,2]]", "[2,1]", "[1,1]", "[-1]", "[[3,2]]"],
)
def test_what_is_no_set_of_nodes_is_refused(wrong: str) -> None:
    with pytest.raises(CodecError, match=r"^HasNodes\.nodes: expected NodeSet, found "):
        decode(HasNodes, f'{{"nodes":{wrong}}}')


@dataclass
class HasUnion:
    either: Leaf | Everything


@dataclass
class HasSet:
    names: list[set[str]]


@dataclass
class HasDerived:
    size: int = field(init=False, default=0)


@pytest.mark.parametrize("cls", [HasUnion, HasSet, HasDerived])
def test_unsupported_members_are_found_before_first_use(cls: type) -> None:
    with pytest.raises(CodecError, match=rf"^{cls.__name__}\.\w+: the codec does not support "):
        EventCodec([cls])


def test_only_dataclasses_have_a_text() -> None:
    with pytest.raises(CodecError, match="int is not a dataclass"):
        encode(1)
    with pytest.raises(CodecError, match="str is not a dataclass"):
        decode(str, '"x"')


def test_events_go_under_the_name_of_their_class() -> None:
    codec = EventCodec[Leaf | Everything]([Leaf, Everything])
    kind, body = codec.encode(Leaf(number=1, note="n"))
    assert (kind, body) == ("Leaf", '{"number":1,"note":"n"}')
    assert codec.decode(kind, body) == Leaf(number=1, note="n")


def test_an_unknown_kind_says_that_a_newer_version_wrote_it() -> None:
    with pytest.raises(CodecError, match="'JobTeleported': the journal was written by a newer ver"):
        EventCodec([Leaf]).decode("JobTeleported", "{}")


def test_an_event_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(CodecError, match="Everything is not a kind of this journal"):
        EventCodec[object]([Leaf]).encode(SAMPLE)


def test_two_kinds_of_one_name_are_refused() -> None:
    namesake = dataclasses.make_dataclass("Leaf", ["number"])
    namesake.__annotations__["number"] = int
    with pytest.raises(CodecError, match="same name"):
        EventCodec([Leaf, namesake])
