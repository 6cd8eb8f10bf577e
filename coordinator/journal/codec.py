"""Values to text and back: what the journal's bodies are made of.

Dataclasses become JSON as their type hints say. Each class is compiled once to a pair of closures,
because every event passes here twice. A value that could not be read back is refused when it is
written, since a journal that cannot be replayed is the worst of failures.

A class may grow while old journals live: a member equal to its default is not written, so a new
member needs only a default, and a key that no member claims is ignored. It follows that a default
never changes and a member is never renamed. Must not import `coordinator.core` nor any adapter.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import reprlib
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import (
    Generic,
    NamedTuple,
    NewType,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

T = TypeVar("T")

Convert = Callable[[object], object]


@runtime_checkable
class HasPlain(Protocol):
    """A class that says itself what it is in JSON."""

    def to_plain(self) -> object: ...

    @classmethod
    def from_plain(cls, found: object) -> HasPlain:
        """What `to_plain` gave, in this release or in one before it. ValueError for all else."""
        ...


class CodecError(Exception):
    """A value and its type disagree; the message names the class, the member and what was found."""


class _Fault(Exception):
    """What is wrong with a value or a hint; the innermost class around it adds where."""


class _Codec(NamedTuple):
    """How one type becomes plain JSON values and comes back. Both raise _Fault or CodecError."""

    encode: Convert
    decode: Convert


def encode(value: object) -> str:
    """The text of a dataclass instance. Raises CodecError."""
    return _to_text(_of_class(type(value)).encode(value))


def decode(cls: type[T], text: str) -> T:
    """The instance of dataclass `cls` that `text` was made from. Raises CodecError."""
    try:
        return cast("T", _of_class(cls).decode(json.loads(text)))
    except (_Fault, ValueError) as fault:
        raise CodecError(f"{cls.__name__}: {fault}") from None


class EventCodec(Generic[T]):
    """A closed vocabulary: each class goes under its own name. Hints are checked here, so that a
    member of an unsupported type is found at start and not at its first use."""

    def __init__(self, kinds: Sequence[type[T]]) -> None:
        self._classes = {cls.__name__: cls for cls in kinds}
        self._codecs = {cls: _of_class(cls) for cls in kinds}
        if len(self._classes) != len(self._codecs):
            raise CodecError("two kinds have the same name")

    def encode(self, event: T) -> tuple[str, str]:
        """(kind, body). Raises CodecError."""
        cls = type(event)
        codec = self._codecs.get(cls)
        if codec is None:
            raise CodecError(f"{cls.__name__} is not a kind of this journal")
        return cls.__name__, _to_text(codec.encode(event))

    def decode(self, kind: str, body: str) -> T:
        """The event that `encode` was given. Raises CodecError."""
        cls = self._classes.get(kind)
        if cls is None:
            raise CodecError(
                f"unknown event kind {kind!r}: the journal was written by a newer version; "
                "run that version or a later one"
            )
        return decode(cls, body)


# ASCII output keeps NUL and lone surrogates out of what a database must store as text.
_to_text = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def _unexpected(expected: str, found: object) -> _Fault:
    return _Fault(f"expected {expected}, found {_short.repr(found)} ({type(found).__name__})")


def _of_class(cls: type) -> _Codec:
    if not dataclasses.is_dataclass(cls):
        raise CodecError(f"{cls.__name__} is not a dataclass")
    return _of(cls)


@cache
def _of(hint: object) -> _Codec:
    """The codec of any supported type hint; raises _Fault for others."""
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, NewType):
        return _of(hint.__supertype__)
    if origin in (Union, UnionType) and len(args) == 2 and NoneType in args:
        return _optional(_of(args[0] if args[1] is NoneType else args[1]))
    if origin is list or (origin is tuple and args[1:] == (...,)):
        return _sequence(list if origin is list else tuple, _of(args[0]))
    if origin is tuple:
        return _fixed_tuple(tuple, [_of(arg) for arg in args])
    if origin is dict:
        return _mapping(args[0], _of(args[0]), _of(args[1]))
    if hint is None:
        return _LEAVES[NoneType]
    if not isinstance(hint, type):
        raise _Fault(f"the codec does not support {hint}")
    if issubclass(hint, HasPlain):
        return _plain(hint)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint)
    if issubclass(hint, Enum):
        return _enum(hint)
    if issubclass(hint, tuple) and hasattr(hint, "_make"):
        return _fixed_tuple(hint, [_of(member) for member in get_type_hints(hint).values()])
    if hint in _LEAVES:
        return _LEAVES[hint]
    raise _Fault(f"the codec does not support {hint}")


def _scalar(kind: type) -> _Codec:
    """A type that JSON has itself. bool is no int here, although Python says so."""

    def check(value: object) -> object:
        if type(value) is kind or (isinstance(value, kind) and not isinstance(value, bool)):
            return value
        raise _unexpected(kind.__name__, value)

    return _Codec(check, check)


def _float(value: object) -> object:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return float(value)
    raise _unexpected("float", value)


def _bytes_to_base64(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise _unexpected("bytes", value)


def _base64_to_bytes(found: object) -> object:
    if not isinstance(found, str):
        raise _unexpected("base64", found)
    try:
        return base64.b64decode(found, validate=True)
    except ValueError:
        raise _unexpected("base64", found) from None


_LEAVES: dict[type, _Codec] = {
    str: _scalar(str),
    int: _scalar(int),
    bool: _scalar(bool),
    NoneType: _scalar(NoneType),
    float: _Codec(_float, _float),
    bytes: _Codec(_bytes_to_base64, _base64_to_bytes),
}


def _enum(cls: type[Enum]) -> _Codec:
    members = {member.value: member for member in cls}

    def to_value(member: object) -> object:
        if isinstance(member, cls):
            return member.value
        raise _unexpected(cls.__name__, member)

    def from_value(found: object) -> object:
        member = members.get(found) if type(found) in (str, int) else None
        if member is None:
            raise _unexpected(f"a value of {cls.__name__}", found)
        return member

    return _Codec(to_value, from_value)


def _plain(cls: type[HasPlain]) -> _Codec:
    def to_plain(value: object) -> object:
        if isinstance(value, cls):
            return value.to_plain()
        raise _unexpected(cls.__name__, value)

    def from_plain(found: object) -> object:
        try:
            return cls.from_plain(found)
        except ValueError as error:
            raise _Fault(f"expected {cls.__name__}, found {_short.repr(found)}: {error}") from None

    return _Codec(to_plain, from_plain)


def _optional(inner: _Codec) -> _Codec:
    inner_encode, inner_decode = inner.encode, inner.decode
    return _Codec(
        lambda value: None if value is None else inner_encode(value),
        lambda found: None if found is None else inner_decode(found),
    )


def _sequence(kind: type[list[object]] | type[tuple[object, ...]], item: _Codec) -> _Codec:
    item_encode, item_decode = item.encode, item.decode

    def to_list(value: object) -> object:
        if isinstance(value, kind):
            return [item_encode(each) for each in value]
        raise _unexpected(kind.__name__, value)

    def from_list(found: object) -> object:
        if isinstance(found, list):
            return kind([item_decode(each) for each in found])
        raise _unexpected("array", found)

    return _Codec(to_list, from_list)


def _fixed_tuple(kind: type[tuple[object, ...]], items: Sequence[_Codec]) -> _Codec:
    """A tuple with one type for each place, or a NamedTuple."""
    build: Callable[[list[object]], object] = getattr(kind, "_make", kind)

    def to_list(value: object) -> object:
        if isinstance(value, kind) and len(value) == len(items):
            return [item.encode(each) for item, each in zip(items, value, strict=True)]
        raise _unexpected(f"{kind.__name__} of {len(items)}", value)

    def from_list(found: object) -> object:
        if isinstance(found, list) and len(found) == len(items):
            return build([item.decode(each) for item, each in zip(items, found, strict=True)])
        raise _unexpected(f"array of {len(items)}", found)

    return _Codec(to_list, from_list)


def _mapping(key_hint: object, key: _Codec, item: _Codec) -> _Codec:
    """An object if the keys are strings or integers, else an array of pairs; in order."""
    while isinstance(key_hint, NewType):
        key_hint = key_hint.__supertype__
    if not isinstance(key_hint, type) or not issubclass(key_hint, str | int) or key_hint is bool:
        return _pairs(_fixed_tuple(tuple, [key, item]))
    from_key = _integer if issubclass(key_hint, int) else _same

    def to_object(value: object) -> object:
        if isinstance(value, dict):
            # An int key becomes a string in the JSON encoder.
            return {key.encode(name): item.encode(each) for name, each in value.items()}
        raise _unexpected("dict", value)

    def from_object(found: object) -> object:
        if isinstance(found, dict):
            return {key.decode(from_key(name)): item.decode(each) for name, each in found.items()}
        raise _unexpected("object", found)

    return _Codec(to_object, from_object)


def _pairs(pair: _Codec) -> _Codec:
    def to_list(value: object) -> object:
        if isinstance(value, dict):
            return [pair.encode(each) for each in value.items()]
        raise _unexpected("dict", value)

    def from_list(found: object) -> object:
        if isinstance(found, list):
            return dict(cast("tuple[object, object]", pair.decode(each)) for each in found)
        raise _unexpected("array of pairs", found)

    return _Codec(to_list, from_list)


def _same(key: str) -> object:
    return key


def _integer(key: str) -> object:
    try:
        return int(key)
    except ValueError:
        raise _unexpected("an integer as key", key) from None


_REQUIRED = object()
"""Stands for the default of a member that has none, and equals no value."""


def _default_of(field: dataclasses.Field[object]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _REQUIRED if field.default is dataclasses.MISSING else field.default


def _dataclass(cls: type) -> _Codec:
    hints = get_type_hints(cls)
    members: list[tuple[str, Convert, Convert, object]] = []
    for field in dataclasses.fields(cls):
        try:
            if not field.init:
                raise _Fault("the codec does not support init=False")
            codec = _of(hints[field.name])
        except _Fault as fault:
            raise CodecError(f"{cls.__name__}.{field.name}: {fault}") from None
        members.append((field.name, codec.encode, codec.decode, _default_of(field)))

    def to_object(value: object) -> object:
        if type(value) is not cls:
            raise _unexpected(cls.__name__, value)
        found: dict[str, object] = {}
        name = ""
        try:
            for name, member_encode, _, default in members:
                member = getattr(value, name)
                if member != default:
                    found[name] = member_encode(member)
        except _Fault as fault:
            raise CodecError(f"{cls.__name__}.{name}: {fault}") from None
        return found

    def from_object(found: object) -> object:
        if not isinstance(found, dict):
            raise _unexpected(cls.__name__, found)
        arguments: dict[str, object] = {}
        name = ""
        try:
            for name, _, member_decode, default in members:
                if name in found:
                    arguments[name] = member_decode(found[name])
                elif default is _REQUIRED:
                    raise _Fault(f"required, and missing in {_short.repr(found)}")
        except _Fault as fault:
            raise CodecError(f"{cls.__name__}.{name}: {fault}") from None
        return cls(**arguments)

    return _Codec(to_object, from_object)
