"""The border post: nothing is lost on the way in or out, and what cannot pass is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings

from coordinator.core.container import ContainerProperties
from coordinator.core.definition import JobDefinition, NodeProperties, Submission
from coordinator.core.errors import InvalidArgument
from coordinator.core.events import TimeLimitAction
from coordinator.rpc.convert import from_proto, refuse_unknown, to_proto
from muster.v1 import container_pb2, job_pb2
from muster.v1 import job_service_pb2 as pb
from tests.rpc.conftest import Client, refusal
from tests.rpc.messages import is_offered, is_repeated, messages

NO_PERMISSION = container_pb2.DEVICE_PERMISSION_UNSPECIFIED
SLOW = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@SLOW
@given(messages(container_pb2.ContainerProperties, sound=True))
def test_a_container_comes_back_as_it_was(message: container_pb2.ContainerProperties) -> None:
    value = from_proto(ContainerProperties, message)
    assert to_proto(value, container_pb2.ContainerProperties) == message
    shown = to_proto(value, job_pb2.ContainerDetail)
    for field, there in message.ListFields():
        assert getattr(shown, field.name) == there


@SLOW
@given(messages(job_pb2.NodeProperties, sound=True))
def test_nodes_come_back_as_they_were(message: job_pb2.NodeProperties) -> None:
    value = from_proto(NodeProperties, message)
    assert to_proto(value, job_pb2.NodeProperties) == message


@SLOW
@given(messages(pb.RegisterJobDefinitionRequest, sound=True))
def test_a_definition_can_be_shown_and_read_again(
    message: pb.RegisterJobDefinitionRequest,
) -> None:
    value = from_proto(JobDefinition, message)
    shown = to_proto(value, job_pb2.JobDefinition)
    assert from_proto(JobDefinition, shown) == value
    for field, there in message.ListFields():
        assert getattr(shown, field.name) == there


@SLOW
@given(messages(pb.SubmitJobRequest, sound=True))
def test_a_submission_keeps_every_member(message: pb.SubmitJobRequest) -> None:
    value = from_proto(Submission, message)
    assert to_proto(value, pb.SubmitJobRequest) == message


def test_maps_have_an_order() -> None:
    names = [f"k{number}" for number in range(50)]
    message = pb.SubmitJobRequest(
        job_name="j", job_queue="q", job_definition="d", tags=dict.fromkeys(reversed(names), "")
    )
    assert list(from_proto(Submission, message).tags) == sorted(names)


# what is not offered


def _not_offered(descriptor: Descriptor, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of each member that is there only to be refused."""
    for field in descriptor.fields:
        inner = field.message_type
        if not is_offered(field):
            yield (*path, field.name)
        elif inner is not None and not inner.GetOptions().map_entry:
            yield from _not_offered(inner, (*path, field.name))


def _asking_for(cls: type[Message], path: tuple[str, ...]) -> tuple[Message, str]:
    """A request in which that member is present and empty, and its path in JSON."""
    request = cls()
    part: Any = request
    shown = []
    for name in path:
        field: FieldDescriptor = part.DESCRIPTOR.fields_by_name[name]
        shown.append(field.json_name)
        if field.message_type is None:
            setattr(part, name, "x")
        elif is_repeated(field):
            part = getattr(part, name).add()
            if is_offered(field):
                shown[-1] += "[0]"
        else:
            part = getattr(part, name)
            part.SetInParent()
    return request, ".".join(shown)


CASES = [
    (cls, path)
    for cls in (
        pb.RegisterJobDefinitionRequest,
        pb.SubmitJobRequest,
        pb.CreateJobQueueRequest,
        pb.UpdateJobQueueRequest,
        pb.ListJobsRequest,
    )
    for path in _not_offered(cls.DESCRIPTOR)
]


def test_every_refusal_is_tried() -> None:
    found = {path[-1] for _, path in CASES}
    assert {"eks_properties", "array_properties", "efs_volume_configuration"} <= found
    assert len(CASES) > 30


@pytest.mark.parametrize(("cls", "path"), CASES, ids=[".".join(path) for _, path in CASES])
async def test_what_is_not_offered_is_refused_by_its_path(
    client: Client, cls: type[Message], path: tuple[str, ...]
) -> None:
    request, shown = _asking_for(cls, path)
    if isinstance(request, pb.UpdateJobQueueRequest):
        request.job_queue = "default"
    rpc = getattr(client.jobs, cls.__name__.removesuffix("Request"))
    code, details = await refusal(rpc(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{shown} is not supported: " in details or (
        f"{path[-1].partition('_')[0]}" in details
        and f"not applicable for EC2. ({shown})" in details
    )


async def test_the_text_of_aws(client: Client) -> None:
    request = pb.RegisterJobDefinitionRequest()
    request.container_properties.network_configuration.SetInParent()
    assert (await refusal(client.jobs.RegisterJobDefinition(request)))[1] == (
        "networkConfiguration not applicable for EC2. (containerProperties.networkConfiguration)"
    )


# what is required


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (pb.RegisterJobDefinitionRequest(type=job_pb2.multinode), "jobDefinitionName is required"),
        (
            pb.RegisterJobDefinitionRequest(job_definition_name="x"),
            "type is required: container, multinode",
        ),
        (
            pb.RegisterJobDefinitionRequest(job_definition_name="x", type=99),  # type: ignore[arg-type]
            "type is 99; it must be one of container, multinode",
        ),
        (
            pb.RegisterJobDefinitionRequest(
                job_definition_name="x",
                type=job_pb2.multinode,
                node_properties=job_pb2.NodeProperties(
                    node_range_properties=[job_pb2.NodeRangeProperty()]
                ),
            ),
            "nodeProperties.nodeRangeProperties[0].targetNodes is required",
        ),
        (
            pb.RegisterJobDefinitionRequest(
                job_definition_name="x",
                type=job_pb2.container,
                container_properties=container_pb2.ContainerProperties(
                    linux_parameters=container_pb2.LinuxParameters(
                        devices=[
                            container_pb2.Device(host_path="/dev/a"),
                            container_pb2.Device(
                                host_path="/dev/b",
                                permissions=[
                                    container_pb2.READ,
                                    container_pb2.DEVICE_PERMISSION_UNSPECIFIED,
                                ],
                            ),
                        ]
                    )
                ),
            ),
            (
                "containerProperties.linuxParameters.devices[1].permissions[1] is 0; "
                "it must be one of READ, WRITE, MKNOD"
            ),
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(message: Message, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_proto(JobDefinition, message)
    assert str(caught.value) == says


def test_a_path_begins_where_the_caller_says() -> None:
    with pytest.raises(InvalidArgument, match=r"^limits\[3\]\.reason is required$"):
        from_proto(TimeLimitAction, job_pb2.JobStateTimeLimitAction(), "limits[3]")


# a newer contract


def _with_unknown(message: Message) -> bytes:
    """Member 1000, which no message of ours has, with the value 1."""
    return message.SerializeToString() + b"\xc0\x3e\x01"


def test_a_member_of_a_newer_contract_is_refused() -> None:
    request = pb.RegisterJobDefinitionRequest.FromString(
        _with_unknown(pb.RegisterJobDefinitionRequest(job_definition_name="x"))
    )
    with pytest.raises(InvalidArgument) as caught:
        refuse_unknown(request)
    assert str(caught.value) == (
        "RegisterJobDefinitionRequest: member number 1000 is not known to this coordinator"
    )


def test_also_one_deep_inside() -> None:
    inner = container_pb2.KeyValuePair.FromString(
        _with_unknown(container_pb2.KeyValuePair(name="A"))
    )
    request = pb.RegisterJobDefinitionRequest()
    container = request.node_properties.node_range_properties.add().container
    container.environment.add()
    container.environment.append(inner)
    with pytest.raises(InvalidArgument) as caught:
        refuse_unknown(request)
    assert str(caught.value).startswith(
        "nodeProperties.nodeRangeProperties[0].container.environment[1]: member number 1000"
    )


# our own mistakes


@dataclass
class _NoSuchMember:
    order: int
    no_such_member: str = ""


@dataclass
class _MoreRequired:
    order: int
    no_such_member: str


@dataclass
class _WrongKind:
    order: float


def test_a_class_that_does_not_fit_its_message_is_our_mistake() -> None:
    message = job_pb2.ComputeEnvironmentOrder(order=1)
    with pytest.raises(TypeError, match="has no place for"):
        to_proto(_NoSuchMember(order=1), job_pb2.ComputeEnvironmentOrder)
    with pytest.raises(TypeError, match=r"lacks _MoreRequired\.no_such_member"):
        from_proto(_MoreRequired, message)
    with pytest.raises(TypeError, match="cannot be"):
        from_proto(_WrongKind, message)
    with pytest.raises(TypeError, match="is not a dataclass"):
        from_proto(str, message)
