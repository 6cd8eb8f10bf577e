"""The contract's own rules: committed stubs are fresh, everything is explained, names fit."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
)

import generate

ROOT = Path(__file__).parents[2]
MADE = ("api.txtpb", "muster/v1/*_pb2*.py*")


@pytest.fixture(scope="module")
def files() -> list[FileDescriptorProto]:
    return list(generate.describe(comments=True).file)


def made_in(directory: Path) -> dict[str, bytes]:
    files = (file for pattern in MADE for file in sorted(directory.glob(pattern)))
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}


def test_generated_files_are_those_of_the_proto_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "proto/generate.py", "--out", tmp_path], check=True)
    fresh, committed = made_in(tmp_path), made_in(ROOT / "proto")
    assert sorted(fresh) == sorted(committed)
    stale = [name for name in fresh if fresh[name] != committed[name]]
    assert stale == [], "run `make proto` and review the change of proto/api.txtpb"


# A path into source_code_info: field numbers of descriptor.proto and indexes, in turn.
MESSAGES, ENUMS, SERVICES = 4, 5, 6
FIELDS, NESTED, NESTED_ENUMS, ONEOFS = 2, 3, 4, 8
VALUES, METHODS = 2, 2
Place = tuple[int, ...]


def message_paths(message: DescriptorProto, path: Place) -> Iterator[tuple[Place, str]]:
    yield path, message.name
    for i, field in enumerate(message.field):
        yield (*path, FIELDS, i), f"{message.name}.{field.name}"
    # protoc makes a oneof of its own for each optional member, after all real ones.
    made_up = sum(field.proto3_optional for field in message.field)
    for i, oneof in enumerate(message.oneof_decl[: len(message.oneof_decl) - made_up]):
        yield (*path, ONEOFS, i), f"{message.name}.{oneof.name}"
    for i, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from message_paths(nested, (*path, NESTED, i))
    for i, enum in enumerate(message.enum_type):
        yield from enum_paths(enum, (*path, NESTED_ENUMS, i))


def enum_paths(enum: EnumDescriptorProto, path: Place) -> Iterator[tuple[Place, str]]:
    yield path, enum.name
    for i, value in enumerate(enum.value):
        yield (*path, VALUES, i), f"{enum.name}.{value.name}"


def declarations(file: FileDescriptorProto) -> Iterator[tuple[Place, str]]:
    for i, message in enumerate(file.message_type):
        yield from message_paths(message, (MESSAGES, i))
    for i, enum in enumerate(file.enum_type):
        yield from enum_paths(enum, (ENUMS, i))
    for i, service in enumerate(file.service):
        yield (SERVICES, i), service.name
        for j, method in enumerate(service.method):
            yield (SERVICES, i, METHODS, j), f"{service.name}.{method.name}"


def comments(file: FileDescriptorProto) -> dict[Place, str]:
    locations = file.source_code_info.location
    return {tuple(place.path): place.leading_comments.strip() for place in locations}


def uncommented(file: FileDescriptorProto) -> list[str]:
    texts = comments(file)
    return [f"{file.name}: {name}" for path, name in declarations(file) if not texts.get(path)]


def test_everything_has_a_comment(files: list[FileDescriptorProto]) -> None:
    assert [line for file in files for line in uncommented(file)] == []


def test_a_missing_comment_is_seen(files: list[FileDescriptorProto]) -> None:
    for file in files:
        bare = FileDescriptorProto.FromString(file.SerializeToString())
        bare.ClearField("source_code_info")
        assert len(uncommented(bare)) == len(list(declarations(file))) > 0


def methods(files: list[FileDescriptorProto]) -> Iterator[tuple[str, str, MethodDescriptorProto]]:
    for file in files:
        texts = comments(file)
        for i, service in enumerate(file.service):
            for j, method in enumerate(service.method):
                yield service.name, texts[SERVICES, i, METHODS, j], method


def test_every_call_says_whether_it_may_be_repeated(files: list[FileDescriptorProto]) -> None:
    silent = [
        f"{service}.{method.name}"
        for service, text, method in methods(files)
        # What an agent streams to us is a conversation: docs/protocol.md says how it goes on.
        if not method.client_streaming
        and not any(word in text for word in ("dempotent", "Reads only"))
    ]
    assert silent == []


def test_every_call_has_its_own_request_and_response(files: list[FileDescriptorProto]) -> None:
    for service, _, method in methods(files):
        if (service, method.name) == ("AgentService", "Session"):
            continue
        assert method.input_type == f".muster.v1.{method.name}Request"
        assert method.output_type == f".muster.v1.{method.name}Response"


def test_package_and_zero_values(files: list[FileDescriptorProto]) -> None:
    for file in files:
        assert file.package == "muster.v1"
        assert all(service.name.endswith("Service") for service in file.service)
        for enum in file.enum_type:
            zero = enum.value[0]
            assert zero.number == 0
            assert zero.name.endswith("_UNSPECIFIED")
