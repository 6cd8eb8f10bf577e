"""A seed says what is done to each daemon, and leaves out nothing."""

from __future__ import annotations

import itertools

import pytest

from tests.chaos.forecast import AGENT_KINDS, COORDINATOR_KINDS, SETTINGS, forecast

BOTH = pytest.mark.parametrize("is_agent", [False, True])


@BOTH
def test_a_seed_does_the_same_again_and_another_does_not(is_agent: bool) -> None:
    def first(seed: int, number: int) -> list[object]:
        return list(itertools.islice(forecast(seed, number, is_agent=is_agent), 20))

    assert first(1, 2) == first(1, 2)
    assert first(1, 2) != first(2, 2)
    assert first(1, 2) != first(1, 3)


@BOTH
def test_all_that_can_be_done_is_done_for_less_and_for_more_than_the_limits(
    is_agent: bool,
) -> None:
    many = list(itertools.islice(forecast(1, 1, is_agent=is_agent), 1000))
    assert {doing.kind for doing in many} == {*(AGENT_KINDS if is_agent else COORDINATOR_KINDS)}
    assert {doing.settings for doing in many} == {*SETTINGS}
    leases = [settings.lease_seconds + settings.stop_grace_seconds for settings in SETTINGS]
    for kind in {doing.kind for doing in many}:
        lengths = [doing.seconds for doing in many if doing.kind == kind]
        assert min(lengths) < min(settings.lost_after_seconds for settings in SETTINGS)
        assert max(lengths) > max(leases)
