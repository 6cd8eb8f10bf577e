"""The simulator sees when a reader of output is misled. As `test_mutations.py`, for the promises of
`readers.py`."""

from __future__ import annotations

import pytest

from coordinator.rpc import log_relay, node_log
from coordinator.rpc.log_relay import Away
from coordinator.rpc.ports import Unreachable
from muster.v1 import agent_service_pb2 as pb
from tests.sim.mutation import Focus, Mutation, Patch, first_to_notice


def a_broken_delivery_is_not_told(patch: Patch) -> None:
    real = log_relay._Delivery.end

    def end(self: log_relay._Delivery, error: Unreachable | None = None) -> None:
        if error is None or not error.is_passing:
            real(self, error)

    patch.setattr(log_relay._Delivery, "end", end)


def a_broken_delivery_is_complete(patch: Patch) -> None:
    real = log_relay._Delivery.end
    patch.setattr(log_relay._Delivery, "end", lambda self, error=None: real(self))


def readers_do_not_ask_whether_their_host_is_there(patch: Patch) -> None:
    async def following(delivery: log_relay._Delivery, _: Away) -> pb.DeliverLogRequest | None:
        return await delivery.take(1e9)

    patch.setattr(log_relay, "_next", following)
    patch.setattr(log_relay.LogRelay, "end", lambda *_: None)


def a_host_that_is_away_is_lost(patch: Patch) -> None:
    """Who follows is given the last bytes at once."""
    patch.setattr(Unreachable, "__init__", lambda self, why, **_: Exception.__init__(self, why))
    patch.setattr(Unreachable, "is_passing", False, raising=False)


def the_last_bytes_are_told_whole(patch: Patch) -> None:
    patch.setattr(node_log, "_first_wanted", lambda tail, _: tail.offset)


BREAKS: Focus = {"readers": 8, "log_break_every_ms": 10_000, "drop_every_ms": 20_000}

MUTATIONS: dict[Mutation, Focus] = {
    a_broken_delivery_is_not_told: BREAKS,
    a_broken_delivery_is_complete: BREAKS,
    readers_do_not_ask_whether_their_host_is_there: {
        "readers": 8,
        "stall_every_ms": 10_000,
        "life_ms": 300_000,
    },
    a_host_that_is_away_is_lost: BREAKS,
    the_last_bytes_are_told_whole: BREAKS,
}


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_reader_that_is_misled_is_noticed(mutate: Mutation, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    print(first_to_notice(MUTATIONS[mutate]))
