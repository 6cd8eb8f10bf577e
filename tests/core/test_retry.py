"""evaluateOnExit: order, conditions, patterns, and what is missing."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.definition import EvaluateOnExit
from coordinator.core.retry import should_retry

HOST_LOST = "Host EC2 (instance h1) terminated."
EXITED = "Essential container in task exited"


def _ask(
    *rules: EvaluateOnExit,
    exit_code: int | None = 1,
    reason: str = "",
    status_reason: str = EXITED,
    attempt: int = 1,
    attempts: int = 3,
) -> bool:
    return should_retry(
        attempt=attempt,
        attempts=attempts,
        rules=rules,
        exit_code=exit_code,
        reason=reason,
        status_reason=status_reason,
    )


@pytest.mark.parametrize(
    ("attempt", "attempts", "again"),
    [(1, 1, False), (1, 2, True), (2, 2, False), (9, 10, True), (10, 10, False)],
)
def test_attempts_are_the_total_of_tries(attempt: int, attempts: int, again: bool) -> None:
    always = EvaluateOnExit(action="RETRY", on_reason="*")
    assert _ask(attempt=attempt, attempts=attempts) is again
    assert _ask(always, attempt=attempt, attempts=attempts) is again


SPOT = EvaluateOnExit(action="RETRY", on_status_reason="Host EC2*")
REST_EXITS = EvaluateOnExit(action="EXIT", on_reason="*")


def test_the_idiom_of_clients_retries_lost_hosts_only() -> None:
    assert _ask(SPOT, REST_EXITS, exit_code=None, status_reason=HOST_LOST)
    assert not _ask(SPOT, REST_EXITS, exit_code=1)
    assert not _ask(REST_EXITS, SPOT, exit_code=None, status_reason=HOST_LOST)


@pytest.mark.parametrize("action", ["EXIT", "exit", "Exit", "eXiT"])
def test_the_action_has_no_case(action: str) -> None:
    assert not _ask(EvaluateOnExit(action=action, on_exit_code="1"))
    assert _ask(EvaluateOnExit(action="retry", on_exit_code="1"), REST_EXITS)


def test_no_match_means_retry() -> None:
    assert _ask(EvaluateOnExit(action="EXIT", on_exit_code="2"))
    assert _ask()


@pytest.mark.parametrize(
    ("pattern", "exit_code", "matches"),
    [
        ("1", 1, True),
        ("1", 137, False),
        ("1*", 137, True),
        ("137", 137, True),
        ("*", 137, True),
        ("*", None, True),
        ("", None, True),
        ("0", None, False),
        ("1*", None, False),
    ],
)
def test_patterns_are_literal_or_prefix(pattern: str, exit_code: int | None, matches: bool) -> None:
    rule = EvaluateOnExit(action="EXIT", on_exit_code=pattern)
    assert _ask(rule, exit_code=exit_code) is not matches


def test_all_conditions_of_a_rule_must_hold() -> None:
    rule = EvaluateOnExit(
        action="EXIT", on_exit_code="137", on_reason="OutOfMemoryError*", on_status_reason="*"
    )
    out_of_memory = "OutOfMemoryError: Container killed due to memory usage"
    assert not _ask(rule, exit_code=137, reason=out_of_memory)
    assert _ask(rule, exit_code=137)
    assert _ask(rule, exit_code=1, reason=out_of_memory)


TEXTS = st.text("ab1", max_size=3)
PATTERNS = st.none() | st.builds(str.__add__, TEXTS, st.sampled_from(["", "*"]))
RULES = st.builds(
    EvaluateOnExit,
    action=st.sampled_from(["RETRY", "exit", "Exit", "retry"]),
    on_exit_code=st.none() | st.sampled_from(["*", "1", "1*", "11", "2*"]),
    on_reason=PATTERNS,
    on_status_reason=PATTERNS,
)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.lists(RULES, max_size=5),
    st.sampled_from([None, 1, 2, 11]),
    TEXTS,
    TEXTS,
)
def test_agrees_with_a_naive_reading(
    attempt: int, rules: list[EvaluateOnExit], code: int | None, reason: str, status: str
) -> None:
    """fnmatch knows the one wildcard too, and these texts have none of its others."""

    def holds(rule: EvaluateOnExit) -> bool:
        given = [
            (rule.on_exit_code, str(code) if code is not None else ""),
            (rule.on_reason, reason),
            (rule.on_status_reason, status),
        ]
        return all(fnmatchcase(text, pattern) for pattern, text in given if pattern is not None)

    actions = [rule.action.upper() for rule in rules if holds(rule)]
    expected = attempt < 3 and [*actions, "RETRY"][0] == "RETRY"
    answer = _ask(*rules, attempt=attempt, exit_code=code, reason=reason, status_reason=status)
    assert answer is expected
