"""The JSON of our job messages is AWS Batch's: same members, same kinds, same words.

aws_shapes.json holds AWS's own contract (extract_aws_shapes.py makes it). Each difference that is
meant stands below with its reason; every other one fails.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from muster.v1 import job_service_pb2

AWS: dict[str, Any] = json.loads(Path(__file__).with_name("aws_shapes.json").read_text("utf-8"))
SERVICE = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]

NOT_ON_OWN_HOSTS = "only sent about jobs that RegisterJobDefinition and SubmitJob refuse"
ABSENT = {
    "AttemptDetail.taskProperties": NOT_ON_OWN_HOSTS,
    "ContainerDetail.ephemeralStorage": NOT_ON_OWN_HOSTS,
    "ContainerDetail.fargatePlatformConfiguration": NOT_ON_OWN_HOSTS,
    "ContainerDetail.networkConfiguration": NOT_ON_OWN_HOSTS,
    "ContainerDetail.runtimePlatform": NOT_ON_OWN_HOSTS,
    "JobDefinition.consumableResourceProperties": NOT_ON_OWN_HOSTS,
    "JobDefinition.ecsProperties": NOT_ON_OWN_HOSTS,
    "JobDefinition.eksProperties": NOT_ON_OWN_HOSTS,
    "JobDetail.arrayProperties": NOT_ON_OWN_HOSTS,
    "JobDetail.consumableResourceProperties": NOT_ON_OWN_HOSTS,
    "JobDetail.ecsProperties": NOT_ON_OWN_HOSTS,
    "JobDetail.eksAttempts": NOT_ON_OWN_HOSTS,
    "JobDetail.eksProperties": NOT_ON_OWN_HOSTS,
    "JobQueueDetail.serviceEnvironmentOrder": NOT_ON_OWN_HOSTS,
    "JobSummary.arrayProperties": NOT_ON_OWN_HOSTS,
}
OURS = {
    "SubmitJobRequest.clientToken": "AWS Batch has no idempotency token",
    "JobDefinition.verdictAfterSeconds": "how long a silent host is waited for",
    "JobDetail.verdictAfterSeconds": "how long a silent host is waited for",
    "JobDetail.mayStillRun": "AWS Batch ends instances, so that nothing runs on",
    "RegisterJobDefinitionRequest.verdictAfterSeconds": "how long a silent host is waited for",
    "SubmitJobRequest.verdictAfterSeconds": "how long a silent host is waited for",
    "SubmitJobResponse.warning": "AWS Batch ends instances, so that nothing runs on",
    "JobDefinition.startBarrier": "AWS Batch starts children without a barrier",
    "JobDetail.startBarrier": "AWS Batch starts children without a barrier",
    "RegisterJobDefinitionRequest.startBarrier": "AWS Batch starts children without a barrier",
    "SubmitJobRequest.startBarrier": "AWS Batch starts children without a barrier",
}
RPCS_OF_OURS = {"WatchJob", "GetNodeLog", "ExplainJob"}

SCALARS = {
    "string": FieldDescriptor.TYPE_STRING,
    "integer": FieldDescriptor.TYPE_INT32,
    "boolean": FieldDescriptor.TYPE_BOOL,
    "double": FieldDescriptor.TYPE_DOUBLE,
    # Milliseconds. proto3's JSON writes an int64 as text; AWS has a number.
    "long": FieldDescriptor.TYPE_DOUBLE,
}
# A member that is known only to be refused by its name.
OPAQUE = {"google.protobuf.Struct", "google.protobuf.ListValue"}


def is_map_entry(message: Descriptor) -> bool:
    return message.GetOptions().map_entry


class Comparison:
    """Walks AWS's structures and our messages side by side."""

    def __init__(self, aws: dict[str, Any]) -> None:
        self.aws = aws
        self.met: set[tuple[str, str]] = set()
        self.used: set[str] = set()

    def differences(self) -> list[str]:
        found = []
        for name, shapes in self.aws["operations"].items():
            method = SERVICE.methods_by_name.get(name)
            if method is None:
                found.append(f"no RPC {name}")
                continue
            for shape, message in zip(shapes, (method.input_type, method.output_type), strict=True):
                found += self.structure(shape, message)
        extra = set(SERVICE.methods_by_name) - set(self.aws["operations"]) - RPCS_OF_OURS
        found += [f"RPC {name} is neither AWS's nor listed as ours" for name in sorted(extra)]
        unused = sorted((ABSENT.keys() | OURS.keys()) - self.used)
        return found + [f"the exception {name} is not needed" for name in unused]

    def structure(self, shape: str, message: Descriptor) -> Iterator[str]:
        if (shape, message.full_name) in self.met:
            return
        self.met.add((shape, message.full_name))
        fields = {field.json_name: field for field in message.fields}
        members: dict[str, str] = self.aws["structures"][shape]
        for member, kind in members.items():
            name = f"{shape}.{member}"
            if member in fields:
                yield from self.member(name, kind, fields[member])
            elif name in ABSENT:
                self.used.add(name)
            else:
                yield f"{name} is missing in {message.full_name}"
        for member in fields.keys() - members.keys():
            name = f"{shape}.{member}"
            if name in OURS:
                self.used.add(name)
            else:
                yield f"AWS has no {name}"

    def member(self, name: str, kind: str, field: FieldDescriptor) -> Iterator[str]:
        message = field.message_type
        if message is not None and message.full_name in OPAQUE:
            return
        value = message.fields_by_name["value"] if message and is_map_entry(message) else None
        # protobuf 5 lacks is_repeated and 7 lacks label; both have this.
        repeated = field.default_value == []
        ours = "{" if value else "[" if repeated else ""
        theirs = kind[0] if kind[0] in "{[" else ""
        if ours != theirs:
            yield f"{name} is {kind} and {field.full_name} is not"
        elif value is not None:
            yield from self.single(name, kind[1:-1], value)
        else:
            yield from self.single(name, kind.strip("[]"), field)

    def single(self, name: str, kind: str, field: FieldDescriptor) -> Iterator[str]:
        if kind in self.aws["enums"]:
            if field.enum_type is not None:
                yield from self.words(kind, field.enum_type)
            elif field.type != FieldDescriptor.TYPE_STRING:
                yield f"{name} is a word of {kind} and {field.full_name} is not"
        elif kind in SCALARS:
            # The JSON of an enum is its word, so AWS's plain strings may be enums of ours.
            word = kind == "string" and field.enum_type is not None
            if field.type != SCALARS[kind] and not word:
                yield f"{name} is {kind} and {field.full_name} is of another type"
        elif field.message_type is None:
            yield f"{name} is {kind} and {field.full_name} is no message"
        else:
            yield from self.structure(kind, field.message_type)

    def words(self, kind: str, enum: EnumDescriptor) -> Iterator[str]:
        for value in enum.values:
            if value.number != 0 and value.name not in self.aws["enums"][kind]:
                yield f"{kind} has no word {value.name}"


def test_names_kinds_and_words_are_aws_batchs() -> None:
    assert Comparison(AWS).differences() == []


@pytest.mark.parametrize(
    ("section", "name", "change", "difference"),
    [
        ("operations", "MoveJob", ["A", "B"], "no RPC MoveJob"),
        ("structures", "JobTimeout", {"x": "string"}, "JobTimeout.x is missing in"),
        ("structures", "JobTimeout", {}, "AWS has no JobTimeout.attemptDurationSeconds"),
        ("structures", "ListJobsResponse", {"nextToken": "[string]"}, "nextToken is [string] and"),
        ("structures", "ListJobsResponse", {"nextToken": "integer"}, "nextToken is integer and"),
        ("structures", "ListJobsResponse", {"nextToken": "Volume"}, "is no message"),
        ("enums", "JobStatus", ["SUBMITTED"], "JobStatus has no word PENDING"),
    ],
)
def test_a_difference_is_seen(section: str, name: str, change: object, difference: str) -> None:
    altered = copy.deepcopy(AWS)
    altered[section][name] = change
    assert any(difference in line for line in Comparison(altered).differences())


def test_an_exception_that_is_not_needed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ABSENT, "JobTimeout.attemptDurationSeconds", "no reason")
    expected = ["the exception JobTimeout.attemptDurationSeconds is not needed"]
    assert Comparison(AWS).differences() == expected
