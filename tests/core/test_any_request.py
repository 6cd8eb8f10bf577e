"""Whatever is registered and submitted: a whole job comes out of it, or a refusal."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import HealthCheck, event, given, settings

from coordinator.core.definition import JobDefinition, JobSpec, Submission
from coordinator.core.errors import Rejected
from coordinator.core.submission import merged_node_properties, resolve
from coordinator.core.validation import validate_definition
from tests.core.shapes import SUBMISSION, requests

REFERENCE = re.compile(r"Ref::([A-Za-z0-9_-]+)")


@settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(requests())
def test_any_request_is_refused_or_gives_a_whole_job(
    request_: tuple[JobDefinition, Submission],
) -> None:
    definition, submission = request_
    try:
        registered = validate_definition(definition, 0)
        spec = resolve(submission, registered, 0)
    except Rejected as refusal:
        event("refused")
        # It must fit into a gRPC trailer.
        assert 0 < len(str(refusal).encode()) < 6000  # noqa: PT017
        return
    event("resolved")
    served = [node for group in spec.groups for node in group.nodes]
    assert sorted(served) == list(range(spec.num_nodes))
    assert 0 <= spec.main_node < spec.num_nodes <= 1000
    assert 1 <= spec.attempts <= 10
    for group in spec.groups:
        assert list(group.nodes) == sorted(group.nodes)
        assert group.container.image
        if group.nodes:
            assert group.vcpus >= 1
            assert group.memory_mib >= 4
    # A value may bring a reference of its own, which stays.
    if not any("Ref" in value or ":" in value for value in spec.parameters.values()):
        for group in spec.groups:
            assert not any(REFERENCE.search(argument) for argument in group.container.command)
        if spec.is_multinode:
            _feed_back(spec, definition)


def _feed_back(spec: JobSpec, definition: JobDefinition) -> None:
    """Clients register again what DescribeJobs shows, and mean the same job by it."""
    shown = replace(definition, node_properties=merged_node_properties(spec))
    again = replace(SUBMISSION, parameters=spec.parameters)
    copy = resolve(again, validate_definition(shown, 0), 0)
    assert copy.groups == spec.groups
    assert (copy.num_nodes, copy.main_node) == (spec.num_nodes, spec.main_node)
    assert copy.instance_type == spec.instance_type
