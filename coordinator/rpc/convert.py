"""The border post between muster.v1 and the core: messages to values and back, by name.

A dataclass says what the core knows and a message what a client may say; each pair is compared
once, and whatever a client sets that the dataclass lacks is refused by its path. So a member that
AWS Batch has and Muster does not offer needs no code: its absence from the core is the refusal.
Must not import a service or the machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from coordinator.core.errors import InvalidArgument

T = TypeVar("T")
M = TypeVar("M", bound=Message)
Read = Callable[[Any, str], object]
"""A value of a message and its path, which complaints name, to a value of the core."""
Write = Callable[[Message, str, Any], None]
"""Puts a value of the core into a message, under this name."""

PARTS_MAX = 4_000
"""An object that means something takes a dozen bytes, and a submission has 30 KiB."""

_FARGATE = (
    "ephemeral_storage",
    "fargate_platform_configuration",
    "network_configuration",
    "runtime_platform",
)
_WHY = {
    "array_job_id": "Muster has no array jobs",
    "array_properties": "Muster has no array jobs",
    "consumable_resource_properties": "Muster has no consumable resources",
    "consumable_resource_properties_override": "Muster has no consumable resources",
    "ecs_properties": "a node runs one container, which container or containerProperties gives",
    "ecs_properties_override": "a node runs one container, which containerOverrides changes",
    "efs_volume_configuration": "a volume is a directory of the host or scratch space",
    "eks_properties": "Muster does not run jobs on Kubernetes",
    "eks_properties_override": "Muster does not run jobs on Kubernetes",
    "s3files_volume_configuration": "a volume is a directory of the host or scratch space",
    "scheduling_policy_arn": "a job queue is first in, first out",
    "secret_options": "Muster captures output itself and hands the log driver no secrets",
    "service_environment_order": "Muster has no service jobs",
}
"""Members that AWS Batch has and Muster does not offer, and why."""


def from_proto(cls: type[T], message: Message, path: str = "") -> T:
    """The value that a message stands for. `path` is where the message is in the request.

    InvalidArgument names the path of a member that is not offered, a required one that is
    absent, and an enum number that has no word.
    """
    return cast("T", _shape(cls, _descriptor(message)).read(message, path))


def to_proto(value: object, message_cls: type[M]) -> M:
    """The message of a value. Nothing is lost: a member that the message lacks is a TypeError."""
    message = message_cls()
    _shape(type(value), _descriptor(message)).write(value, message)
    return message


def refuse(message: Message, *names: str) -> None:
    """InvalidArgument if one of these members is set; they are known but not offered."""
    for field, _ in message.ListFields():
        if field.name in names:
            raise _not_offered(field, "")


def refuse_unknown(message: Message) -> None:
    """InvalidArgument if the request, or a message in it, has a member of a newer contract:
    leaving it out in silence would do something other than what was asked for."""
    for count, (path, part) in enumerate(_parts(message, "")):
        if count > PARTS_MAX:
            raise InvalidArgument(
                f"{path}: the request has more than {PARTS_MAX} objects; none that could be "
                "taken has so many"
            )
        unknown = UnknownFieldSet(part)
        if len(unknown):
            raise InvalidArgument(
                f"{path or message.DESCRIPTOR.name}: member number {unknown[0].field_number} "
                "is not known to this coordinator"
            )


def _parts(message: Message, path: str) -> Iterator[tuple[str, Message]]:
    """The message and every message of ours in it, with paths."""
    yield path, message
    for field, value in message.ListFields():
        inner = field.message_type
        if inner is None or inner.file.package != message.DESCRIPTOR.file.package:
            continue
        where = _join(path, field.json_name)
        if isinstance(value, Message):
            yield from _parts(value, where)
        elif not inner.GetOptions().map_entry:
            for index, each in enumerate(value):
                yield from _parts(each, f"{where}[{index}]")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _not_offered(field: FieldDescriptor, path: str) -> InvalidArgument:
    where = _join(path, field.json_name)
    if field.name in _FARGATE:
        # AWS's text, with our path behind it.
        return InvalidArgument(f"{field.json_name} not applicable for EC2. ({where})")
    return InvalidArgument(f"{where} is not supported: {_WHY[field.name]}")


def _descriptor(message: Message) -> Descriptor:
    # The runtime has two classes of descriptors with the same face.
    return cast("Descriptor", message.DESCRIPTOR)


class _Codec(NamedTuple):
    """How one kind of value crosses; `write_each` is for a repeated member."""

    read: Read
    write_one: Write
    write_each: Write


class _Member(NamedTuple):
    """How one member crosses."""

    json_name: str
    read: Read
    write: Write
    if_absent: str | None
    """What to say when it is required and absent; None when absence is fine."""
    default: object
    """What absence means where the dataclass has no default of its own: 0 or False."""


_NO_DEFAULT = object()


class _Shape:
    """One dataclass and one message, compared member by member."""

    def __init__(self, cls: type, descriptor: Descriptor) -> None:
        if not dataclasses.is_dataclass(cls):
            raise TypeError(f"{cls.__name__} is not a dataclass")
        self._cls = cls
        self._descriptor = descriptor
        self._members: dict[str, _Member] = {}
        self._without_place: list[str] = []
        hints = get_type_hints(cls)
        for each in dataclasses.fields(cls):
            field = descriptor.fields_by_name.get(each.name)
            required = (
                each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
            )
            if field is not None:
                self._members[each.name] = _member(field, hints[each.name], required)
            elif required:
                raise TypeError(f"{descriptor.full_name} lacks {cls.__name__}.{each.name}")
            else:
                self._without_place.append(each.name)

    def read(self, message: Message, path: str) -> object:
        arguments: dict[str, object] = {}
        for field, value in message.ListFields():
            member = self._members.get(field.name)
            if member is None:
                raise _not_offered(field, path)
            arguments[field.name] = member.read(value, _join(path, member.json_name))
        for name, member in self._members.items():
            if name in arguments:
                continue
            if member.if_absent is not None:
                raise InvalidArgument(f"{_join(path, member.json_name)} {member.if_absent}")
            if member.default is not _NO_DEFAULT:
                arguments[name] = member.default
        return self._cls(**arguments)

    def write(self, value: object, message: Message) -> None:
        if self._without_place:
            raise TypeError(f"{self._descriptor.full_name} has no place for {self._without_place}")
        for name, member in self._members.items():
            each = getattr(value, name)
            if each is not None:
                member.write(message, name, each)


_shapes: dict[tuple[type, str], _Shape] = {}


def _shape(cls: type, descriptor: Descriptor) -> _Shape:
    """Compared at the first use, since every request passes here."""
    key = cls, descriptor.full_name
    if key not in _shapes:
        _shapes[key] = _Shape(cls, descriptor)
    return _shapes[key]


def _member(field: FieldDescriptor, hint: object, required: bool) -> _Member:
    kind = _without_none(hint)
    read: Read
    write: Write
    if kind == dict[str, str]:
        read, write = _read_map, _write_map
    elif get_origin(kind) is tuple:
        codec = _codec(field, get_args(kind)[0])
        read, write = _read_each(codec.read), codec.write_each
    else:
        codec = _codec(field, kind)
        read, write = codec.read, codec.write_one
    if_absent, default = None, _NO_DEFAULT
    if required and kind in (int, bool):
        default = kind()
    elif required:
        if_absent = "is required" + (f": {_words(field.enum_type)}" if field.enum_type else "")
    return _Member(field.json_name, read, write, if_absent, default)


def _without_none(hint: object) -> Any:  # noqa: ANN401 - a hint can be anything
    if get_origin(hint) is UnionType:
        (hint,) = (each for each in get_args(hint) if each is not NoneType)
    return hint


def _codec(field: FieldDescriptor, kind: type) -> _Codec:
    if field.message_type is not None:
        return _message(_shape(kind, field.message_type))
    if field.enum_type is not None:
        return _enum(field.enum_type, kind)
    if kind not in (str, int, bool):
        raise TypeError(f"{field.full_name} cannot be {kind}")
    return _Codec(
        lambda value, path: value,
        setattr,
        lambda message, name, values: getattr(message, name).extend(values),
    )


def _message(shape: _Shape) -> _Codec:
    def write_one(message: Message, name: str, value: object) -> None:
        part = getattr(message, name)
        # Present, also when nothing in it is set.
        part.SetInParent()
        shape.write(value, part)

    def write_each(message: Message, name: str, values: tuple[object, ...]) -> None:
        parts = getattr(message, name)
        for value in values:
            shape.write(value, parts.add())

    return _Codec(shape.read, write_one, write_each)


def _words(enum: EnumDescriptor) -> str:
    return ", ".join(value.name for value in enum.values if value.number)


def _enum(enum: EnumDescriptor, kind: type) -> _Codec:
    words = {value.number: value.name for value in enum.values if value.number}
    if not issubclass(kind, StrEnum) or set(words.values()) != {word.value for word in kind}:
        raise TypeError(f"{enum.full_name} and {kind.__name__} have different words")
    numbers = {kind(word): number for number, word in words.items()}

    def read(number: int, path: str) -> object:
        if number not in words:
            raise InvalidArgument(f"{path} is {number}; it must be one of {_words(enum)}")
        return kind(words[number])

    return _Codec(
        read,
        lambda message, name, word: setattr(message, name, numbers[word]),
        lambda message, name, words: getattr(message, name).extend(numbers[w] for w in words),
    )


def _read_each(read: Read) -> Read:
    def read_each(values: Iterable[object], path: str) -> object:
        return tuple(read(value, f"{path}[{index}]") for index, value in enumerate(values))

    return read_each


def _read_map(value: Mapping[str, str], path: str) -> object:
    # A protobuf map has no order, and the core must not depend on one.
    return dict(sorted(value.items()))


def _write_map(message: Message, name: str, value: Mapping[str, str]) -> None:
    getattr(message, name).update(value)
