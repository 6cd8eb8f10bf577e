"""May a failed attempt be tried again? (aws-batch-spec section 8)

Only for failures of the main node: what a user or a timeout ended is never asked about. No I/O.
"""

from __future__ import annotations

from coordinator.core.definition import EvaluateOnExit


def should_retry(
    *,
    attempt: int,
    attempts: int,
    rules: tuple[EvaluateOnExit, ...],
    exit_code: int | None,
    reason: str,
    status_reason: str,
) -> bool:
    """True if another attempt is left and the first matching rule says RETRY, or none matches.

    `attempt` is the 1-based number of the one that failed, `attempts` the total of tries. A
    missing exit code, like a missing reason, counts as the empty text, which `*` matches: clients
    end their rules with `{"onReason": "*", "action": "EXIT"}` and mean plain failures by it.
    """
    if attempt >= attempts:
        return False
    code = "" if exit_code is None else str(exit_code)
    for rule in rules:
        if (
            _matches(rule.on_exit_code, code)
            and _matches(rule.on_reason, reason)
            and _matches(rule.on_status_reason, status_reason)
        ):
            return rule.action.lower() == "retry"
    return True


def _matches(pattern: str | None, text: str) -> bool:
    """A condition that was not given holds; `*` is special at the end only."""
    if pattern is None:
        return True
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    return text == pattern
