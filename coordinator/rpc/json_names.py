"""Descriptors for reflection that say the JSON name of every member.

protoc leaves a JSON name out of Python's descriptors when it is the ordinary camelCase one, and
clients built on reflection, grpcurl among them, then show `job_id` where AWS Batch has `jobId`.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool


def pool_with_json_names(service_names: Sequence[str]) -> DescriptorPool:
    """A pool with the files of these services and all they import, JSON names filled in."""
    pool = DescriptorPool()
    done: dict[str, None] = {}
    for name in service_names:
        _add(pool, Default().FindFileContainingSymbol(name), done)
    return pool


def _add(pool: DescriptorPool, file: FileDescriptor, done: dict[str, None]) -> None:
    if file.name in done:
        return
    done[file.name] = None
    for imported in file.dependencies:
        _add(pool, imported, done)
    proto = FileDescriptorProto.FromString(file.serialized_pb)
    for message in proto.message_type:
        _name_members(message)
    pool.Add(proto)


def _name_members(message: DescriptorProto) -> None:
    for member in message.field:
        if not member.json_name:
            first, *rest = member.name.split("_")
            member.json_name = first + "".join(word.capitalize() for word in rest)
    for nested in message.nested_type:
        _name_members(nested)
