"""Names and ARNs are told apart, and what is neither is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.arn import Arns, JobRef, definition_ref, job_ref, queue_name
from coordinator.core.errors import InvalidArgument

ARNS = Arns("eu-central-1", "123456789012")
JOB = "8d4a8f5e-6ff1-4bd0-9b5f-1b6fa8a8c3a7"
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", fullmatch=True)
NEAR_ARNS = st.lists(
    st.sampled_from(["arn", "aws", "batch", "", "job", "job-queue", "a", "1", ":", "/", "#", "\n"])
).map("".join)


def test_every_arn_has_the_shape_that_clients_parse() -> None:
    batch = "arn:aws:batch:eu-central-1:123456789012"
    assert ARNS.job(f"{JOB}#2") == f"{batch}:job/{JOB}#2"
    assert ARNS.job_queue("q") == f"{batch}:job-queue/q"
    assert ARNS.job_definition("d", 3) == f"{batch}:job-definition/d:3"
    assert ARNS.compute_environment("c") == f"{batch}:compute-environment/c"
    ecs = "arn:aws:ecs:eu-central-1:123456789012"
    assert ARNS.container_instance("host-1") == f"{ecs}:container-instance/muster/host-1"
    assert ARNS.task("t") == f"{ecs}:task/muster/t"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(NAMES, st.integers(1, 999_999_999), st.integers(0, 999_999_999))
def test_what_is_shown_can_be_passed_back(name: str, revision: int, index: int) -> None:
    assert queue_name(name) == queue_name(ARNS.job_queue(name)) == name
    arn = ARNS.job_definition(name, revision)
    assert definition_ref(f"{name}:{revision}") == definition_ref(arn) == (name, revision)
    unrevised = arn.rpartition(":")[0]
    assert definition_ref(name) == definition_ref(unrevised) == (name, None)
    assert job_ref(name) == job_ref(ARNS.job(name)) == JobRef(name, None)
    node = f"{name}#{index}"
    assert job_ref(node) == job_ref(ARNS.job(node)) == JobRef(name, index)


def test_any_partition_region_and_account_is_taken() -> None:
    assert queue_name("arn:aws-cn:batch:cn-north-1:1:job-queue/q") == "q"
    assert job_ref(f"arn:aws-us-gov:batch:::job/{JOB}#0") == JobRef(JOB, 0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "#0", "#-1", "a#b", "a#", "a#-1", "a#+1", "a#01", "a#1#2", "a#٣"),
        *(f"{JOB}:3", "a b", "a\n", "-a", "a" * 129),
        *(ARNS.job_queue("q"), "arn:aws:batch:job/a", ARNS.job(""), ARNS.job("a:3")),
    ],
)
def test_what_names_no_job_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^dependsOn\[0\]\.jobId "):
        job_ref(text, "dependsOn[0].jobId")


@pytest.mark.parametrize(
    "text", ["", ":", "d:", "d:0", "d:-1", "d:01", "d:x", "d:1:2", ":1", "d:1\n", ARNS.job("d")]
)
def test_what_names_no_definition_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^jobDefinition "):
        definition_ref(text)


@pytest.mark.parametrize("text", ["", "q:1", "a b", "ü", ARNS.compute_environment("q"), "arn:"])
def test_what_names_no_queue_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^jobQueue "):
        queue_name(text)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.one_of(st.text(), NEAR_ARNS))
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    for parse in (queue_name, definition_ref, job_ref):
        with suppress(InvalidArgument):
            parse(text)
