"""`-o json`: the API's own JSON, as AWS Batch writes it.

Imported only when JSON is asked for. Must not rename or leave out a member.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message


def document(message: Message) -> dict[str, Any]:
    """The message as AWS Batch's JSON: empty lists are there, absent members are not."""
    written = MessageToDict(message, always_print_fields_with_no_presence=True)
    whole: dict[str, Any] = _whole_numbers(written)
    return whole


def show(message: Message) -> None:
    """Print one reply, for people and programs."""
    print(json.dumps(document(message), indent=2))


def show_line(message: Message) -> None:
    """Print one document of a stream on a line of its own, at once."""
    print(json.dumps(document(message)), flush=True)


def _whole_numbers(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Times are doubles on the wire (job.proto says why), but AWS prints them as integers."""
    match value:
        case dict():
            return {key: _whole_numbers(member) for key, member in value.items()}
        case list():
            return [_whole_numbers(member) for member in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
