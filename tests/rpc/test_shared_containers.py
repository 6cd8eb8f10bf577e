"""What a thousand nodes have in common is converted once."""

from __future__ import annotations

import pytest

from coordinator.core.container import ContainerProperties, KeyValuePair
from coordinator.core.effects import Assignment, NodeContainer, SendAssignments
from coordinator.core.ids import JobId, NodeKey, SessionId
from coordinator.core.states import Desired
from coordinator.rpc import agent_convert
from muster.v1 import agent_service_pb2 as pb


def _sent(properties: ContainerProperties, own: dict[str, str], node_index: int) -> pb.Assignment:
    container = NodeContainer(
        properties=properties, own_variables=tuple(own.items()), vcpus=1, memory_mib=2, gpus=0
    )
    assignment = Assignment(
        key=NodeKey(JobId("j"), 1, node_index),
        desired=Desired.RUN,
        container=container,
        stop_grace_seconds=30,
        lease_seconds=600,
    )
    effect = SendAssignments(session_id=SessionId("s"), generation=1, assignments=(assignment,))
    return agent_convert.effect_message(effect).assignments.assignments[0]


def _variables(sent: pb.Assignment) -> list[tuple[str, str]]:
    return [(pair.name, pair.value) for pair in sent.container.environment]


def test_a_group_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    convert = agent_convert._properties

    def counted(given: ContainerProperties) -> pb.NodeContainer:
        converted.append(given)
        return convert(given)

    monkeypatch.setattr(agent_convert, "_properties", counted)
    properties = ContainerProperties(
        image="i", environment=(KeyValuePair(name="A", value="1"), KeyValuePair(name="B"))
    )
    sent = [_sent(properties, {"INDEX": f"{n}"}, n) for n in range(3)]
    assert converted == [properties]
    assert [_variables(each) for each in sent] == [
        [("A", "1"), ("B", ""), ("INDEX", f"{n}")] for n in range(3)
    ]
    assert [each.container.image for each in sent] == ["i"] * 3
    assert (sent[0].container.vcpus, sent[0].container.memory_mib) == (1, 2)


def test_a_variable_of_aws_is_there_once() -> None:
    properties = ContainerProperties(
        environment=(KeyValuePair(name="MINE", value="1"), KeyValuePair(name="THEIRS", value="2"))
    )
    assert _variables(_sent(properties, {"THEIRS": "3"}, 0)) == [("MINE", "1"), ("THEIRS", "3")]
    # The other nodes of the group are not changed by it.
    assert _variables(_sent(properties, {}, 1)) == [("MINE", "1"), ("THEIRS", "2")]
