"""Any message of the contract, drawn from its descriptor."""

from __future__ import annotations

from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

_OPAQUE = ("google.protobuf.Struct", "google.protobuf.ListValue")
_TEXTS = st.text(max_size=6) | st.sampled_from(
    ["", "0:", "1", "*", "a*", "default", "one", "one:1", "gang", "#1", "\0", "é" * 2_000, "10"]
)
_NUMBERS = st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 3)


def is_offered(field: FieldDescriptor) -> bool:
    """False for a member that is in the contract only to be refused by name."""
    if field.message_type is not None and field.message_type.full_name in _OPAQUE:
        return False
    return field.name not in ("secret_options", "scheduling_policy_arn", "array_job_id")


def is_repeated(field: FieldDescriptor) -> bool:
    return isinstance(field.default_value, list)


def messages(
    cls: type[Message], *, sound: bool = False, most: int | None = None
) -> SearchStrategy[Any]:
    """Any message of this class; `sound` ones say all that may be required and nothing that is not
    offered, so that they can be read. `most` is how many members may be set."""
    required, optional = {}, {}
    for field in cast("Descriptor", cls.DESCRIPTOR).fields:
        if not sound:
            optional[field.name] = _member(field, sound)
        elif is_offered(field):
            is_word = field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_ENUM)
            needed = is_word and not field.has_presence and not is_repeated(field)
            member = _member(field, sound)
            if needed:
                required[field.name] = member.filter(bool)
            else:
                optional[field.name] = member
    members = st.fixed_dictionaries(required, optional=optional)
    if most is not None:
        names = (
            st.sets(st.sampled_from(sorted(optional)), max_size=most)
            if optional
            else st.just(set())
        )
        members = names.flatmap(
            lambda chosen: st.fixed_dictionaries({name: optional[name] for name in sorted(chosen)})
        )
    return members.map(lambda drawn: cls(**drawn))


def _member(field: FieldDescriptor, sound: bool) -> SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return st.dictionaries(_TEXTS, _TEXTS, max_size=2)
    value = _value(field, sound)
    return st.lists(value, max_size=3) if is_repeated(field) else value


def _value(field: FieldDescriptor, sound: bool) -> SearchStrategy[Any]:
    if field.message_type is not None:
        cls = GetMessageClass(field.message_type)
        return messages(cls, sound=sound) if is_offered(field) else st.builds(cls)
    if field.enum_type is not None:
        numbers = [value.number for value in field.enum_type.values]
        return st.sampled_from([n for n in numbers if n] if sound else [*numbers, 99, -1])
    if field.type == FieldDescriptor.TYPE_STRING:
        return _TEXTS
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_INT64:
        return st.integers(-(2**63), 2**63 - 1) | _NUMBERS
    return _NUMBERS
