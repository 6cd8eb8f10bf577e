"""The example's definition is one that the command accepts, and names only parameters it has."""

from __future__ import annotations

from pathlib import Path

from cli.jsonin import read
from muster.v1.job_service_pb2 import RegisterJobDefinitionRequest

HEAT = Path(__file__).parents[2] / "examples" / "heat"


def test_every_reference_has_a_default() -> None:
    request = read(str(HEAT / "definition.json"), RegisterJobDefinitionRequest())
    (group,) = request.node_properties.node_range_properties
    references = [word[5:] for word in group.container.command if word.startswith("Ref::")]
    assert sorted(references) == sorted(request.parameters)
    # A container engine gets the program as an argument in the demo; it must not look like one.
    assert "Ref::" not in (HEAT / "heat.py").read_text()
