"""Reads a JSON file into a request, and says which member of which file is wrong.

protobuf's own parser names neither the file nor, mostly, the member, so shapes are checked here
first. What a value may be is the coordinator's business.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from cli.failure import ExitCode, Failure

Request = TypeVar("Request", bound=Message)

_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
_NUMBERS = (
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_DOUBLE,
)


DESCRIBED = ("jobDefinitionArn", "revision", "status", "containerOrchestrationType")
"""What DescribeJobDefinitions adds to a registration; AWS's documents show definitions with it."""


class _Wrong(Exception):
    """What is wrong about `member`, the last one of the path."""

    def __init__(self, text: str, member: str) -> None:
        super().__init__(text)
        self.member = member


def read(path: str, request: Request, echoes: Sequence[str] = ()) -> Request:
    """Fill `request` from the file, `-` for stdin. Failure (usage) when it does not fit.

    `echoes` are members at the top that only a reply has; a reply that is sent back may have them,
    and stderr is told that they do nothing.
    """
    name = "stdin" if path == "-" else path
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=_no_duplicates)
        if isinstance(value, dict) and (told := [name for name in echoes if name in value]):
            value = {name: member for name, member in value.items() if name not in told}
            print(f"{name}: {', '.join(told)} say nothing to a registration", file=sys.stderr)
        _check(cast("Descriptor", request.DESCRIPTOR), value, "")
        return ParseDict(value, request)
    except OSError as error:
        reason = f"cannot read {name}: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"{name} is not UTF-8: byte {error.start} is {error.object[error.start]:#x}"
    except json.JSONDecodeError as error:
        reason = f"{name}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
    except _Wrong as error:
        reason = f"{name}{_line(text, error.member)}: {error}"
    except ParseError as error:
        reason = f"{name}: {str(error).splitlines()[0]}"
    raise Failure(reason, ExitCode.USAGE)


def _line(text: str, member: str) -> str:
    """`, line N` when the member stands in one place only; the parser keeps no positions."""
    quoted = json.dumps(member)
    if not member or text.count(quoted) != 1:
        return ""
    return f", line {text[: text.index(quoted)].count(chr(10)) + 1}"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise _Wrong(f"{key} is there twice in one object", "")
        members[key] = value
    return members


def _check(descriptor: Descriptor, value: object, path: str) -> None:
    if descriptor.full_name.startswith("google.protobuf."):
        return
    if not isinstance(value, dict):
        raise _Wrong(f"{path or 'the whole'} must be an object", path.rpartition(".")[2])
    fields = {field.json_name: field for field in descriptor.fields}
    fields |= {field.name: field for field in descriptor.fields}
    for key, member in value.items():
        where = f"{path}.{key}" if path else key
        if key not in fields:
            known = [field.json_name for field in descriptor.fields]
            near = difflib.get_close_matches(key, known, n=1)
            right = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise _Wrong(f"unknown member {where}; {right}", key)
        if member is not None:
            _check_field(fields[key], member, where, key)


def _check_field(field: FieldDescriptor, value: object, where: str, key: str) -> None:
    message = field.message_type
    if message and message.GetOptions().map_entry:
        _expect(dict, value, where, key)
        assert isinstance(value, dict)
        for name, member in value.items():
            _check_value(message.fields_by_name["value"], member, f"{where}.{name}", name)
    # A repeated field; the property that says so is younger than our oldest protobuf.
    elif field.default_value == []:
        _expect(list, value, where, key)
        assert isinstance(value, list)
        for index, member in enumerate(value):
            _check_value(field, member, f"{where}[{index}]", key)
    else:
        _check_value(field, value, where, key)


def _check_value(field: FieldDescriptor, value: object, where: str, key: str) -> None:
    if field.message_type:
        _check(field.message_type, value, where)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        _expect(str, value, where, key)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        _expect(bool, value, where, key)
    elif field.enum_type:
        words = [word.name for word in field.enum_type.values if word.number]
        if value not in words:
            raise _Wrong(f"{where} is {json.dumps(value)}; it must be one of {words}", key)
    elif field.cpp_type in _NUMBERS and not _is_number(value):
        raise _Wrong(f"{where} is {json.dumps(value)}; it must be a whole number", key)


def _expect(kind: type, value: object, where: str, key: str) -> None:
    if not isinstance(value, kind):
        raise _Wrong(f"{where} is {json.dumps(value)}; it must be {_KINDS[kind]}", key)


def _is_number(value: object) -> bool:
    # proto3's JSON also takes a number as text.
    if isinstance(value, str):
        return value.removeprefix("-").isdecimal()
    return not isinstance(value, bool) and isinstance(value, int | float) and value == int(value)
