"""Leases that end without an agent: what every engine promises of its nodes' holders."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest

from agent.core.assignment import ContainerSpec, NodeKey
from agent.engine.keeping import Keepers
from agent.engine.port import EngineError, ErrorClass
from agent.host.pidfd import ended
from tests.contract.engine_bench import (
    ALL,
    CONTAINERS,
    PROCESS,
    REAL,
    Bench,
    bench,
    engines,
    host,
    keepers,
    pids_of,
)
from tests.wait import eventually

__all__ = ["bench", "host"]

pytestmark = pytest.mark.limit(120)
DEADLINE_SECONDS = 30


async def ended_without_an_agent(bench: Bench, key: NodeKey) -> None:
    """Until nothing of the node runs; there is no agent meanwhile."""
    await bench.engine.close()
    await eventually(lambda: not pids_of(key), DEADLINE_SECONDS, lambda: pids_of(key))
    bench.engines.append(bench.make())


async def nothing() -> None:
    """What an engine does while its keeper comes up."""


async def kill_keeper(key: NodeKey) -> None:
    """Return when it has let go of the lease, which is later than when its name is gone."""
    (keeper,) = keepers(key)
    pidfd = os.pidfd_open(keeper)
    try:
        os.kill(keeper, signal.SIGKILL)
        assert await ended(pidfd, DEADLINE_SECONDS)
    finally:
        os.close(pidfd)


async def ended_within(pid: int, seconds: float) -> bool:
    pidfd = os.pidfd_open(pid)
    try:
        return await ended(pidfd, seconds)
    finally:
        os.close(pidfd)


@ALL
async def test_end_lease_says_how_it_ended(bench: Bench) -> None:
    key = await bench.held(bench.programs.trap_term(0, "last"))
    bench.lease(key, 0)
    await bench.engine.end_lease(key, 10)
    end = await bench.ended(key)
    assert (end.exit_code, end.lease_ended) == (0, True)
    assert bench.output(key) == "ready\nlast\n"
    await bench.restart_agent()
    assert (await bench.ended(key)).lease_ended


@ALL
async def test_what_ended_by_itself_keeps_its_end(bench: Bench) -> None:
    key = bench.key()
    bench.lease(key, None)
    await bench.engine.start(key, bench.leased(key, bench.programs.exit(3)))
    await bench.ended(key)
    bench.lease(key, 0)
    await bench.engine.end_lease(key, 10)
    await bench.restart_agent()
    end = await bench.ended(key)
    assert (end.exit_code, end.lease_ended) == (3, False)


@ALL
async def test_a_stop_is_no_end_of_a_lease(bench: Bench) -> None:
    key = await bench.held(bench.programs.run)
    await bench.engine.stop(key, 10)
    assert not (await bench.ended(key)).lease_ended


@ALL
async def test_end_lease_of_what_is_not_there(bench: Bench) -> None:
    await bench.engine.end_lease(bench.key(), 1)


@REAL
async def test_a_lease_ends_without_an_agent(bench: Bench) -> None:
    key = await bench.held(bench.programs.trap_term(0, "last"))
    bench.lease(key, 300)
    await ended_without_an_agent(bench, key)
    end = await bench.ended(key)
    assert (end.exit_code, end.lease_ended) == (0, True)
    assert bench.output(key) == "ready\nlast\n"


@REAL
async def test_who_ignores_the_end_of_the_lease_is_killed(bench: Bench) -> None:
    key = await bench.held(bench.programs.ignore_term, grace_seconds=1)
    bench.lease(key, 300, grace_seconds=1)
    await ended_without_an_agent(bench, key)
    end = await bench.ended(key)
    assert (end.exit_code, end.lease_ended) == (137, True)


@REAL
async def test_nothing_is_started_when_its_lease_is_over(bench: Bench) -> None:
    """The agent was stopped between the lease and the start."""
    key = bench.key()
    bench.lease(key, 0)
    with pytest.raises(EngineError, match="lease") as at:
        await bench.engine.start(key, bench.leased(key, bench.programs.once))
    assert at.value.error_class is ErrorClass.TRANSIENT
    assert all(not entry.running for entry in await bench.engine.list_managed())


@REAL
async def test_a_wiped_data_directory_changes_nothing_for_a_holder(bench: Bench) -> None:
    key = await bench.held(bench.programs.run)
    path = Path(bench.leases.path(key.name))
    moved = path.parent.with_name("moved")
    path.parent.rename(moved)
    # Whoever has the file open, as the agent, reaches the holder still.
    bench.lease(key, 500)
    shutil.rmtree(moved)
    await ended_without_an_agent(bench, key)


@engines(PROCESS)
async def test_a_shim_that_does_not_answer_is_passed_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.engine.process._DEATH_SECONDS", 0.2)
    key = await bench.held(bench.programs.run)
    (shim,) = {_parent(pid) for pid in pids_of(key)} - set(pids_of(key))
    os.kill(shim, signal.SIGSTOP)
    bench.lease(key, 0)
    await bench.engine.end_lease(key, 0)
    assert (await bench.ended(key)).lease_ended
    assert pids_of(key) == []


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@CONTAINERS
async def test_one_keeper_holds_a_lease_and_leaves_with_its_container(bench: Bench) -> None:
    key = await bench.held(bench.programs.run)
    (keeper,) = keepers(key)
    await bench.restart_agent()
    waiting = bench.ended(key)
    await bench.engine.stop(key, 10)
    await waiting
    await bench.engine.remove(key)
    await eventually(lambda: not keepers(key), DEADLINE_SECONDS, lambda: (keeper, keepers(key)))


async def voted(bench: Bench) -> tuple[NodeKey, ContainerSpec, int]:
    """A node that may start now, and the keeper that waits for that."""
    key = bench.key()
    leased = bench.leased(key, bench.programs.run)
    await bench.engine.prepare(key, leased)
    (spare,) = keepers(key)
    bench.lease(key, None)
    return key, leased, spare


@CONTAINERS
async def test_a_keeper_is_made_with_the_vote_and_leaves_when_nothing_starts(bench: Bench) -> None:
    """It takes its time to come up. Of a vote there is no lease that it could hold."""
    key, leased, spare = await voted(bench)
    await bench.engine.start(key, leased)
    (keeper,) = keepers(key)
    assert keeper != spare, "the launcher has ended, and what it left behind holds the lease"
    other = bench.key()
    await bench.engine.prepare(other, bench.spec(other, bench.programs.run))
    assert len(keepers(other)) == 1
    await bench.engine.remove(other)
    assert keepers(other) == []
    third = bench.key()
    await bench.engine.prepare(third, bench.spec(third, bench.programs.run))
    await bench.restart_agent()
    assert keepers(third) == []
    assert keepers(key) == [keeper]


@CONTAINERS
async def test_a_keeper_that_died_before_it_began_is_made_again(bench: Bench) -> None:
    key, leased, spare = await voted(bench)
    os.kill(spare, signal.SIGKILL)
    with pytest.raises(EngineError, match="no keeper for"):
        await bench.engine.start(key, leased)
    await bench.engine.start(key, leased)
    assert len(keepers(key)) == 1


@CONTAINERS
async def test_a_second_keeper_leaves_the_lease_to_the_first(bench: Bench) -> None:
    """Its agent does not know of the first, as one that has found the lease file and no keeper."""
    key = await bench.held(bench.programs.run)
    (keeper,) = keepers(key)
    again = Keepers(bench.leases, ("false",))
    (await again.begin(key, bench.leased(key, ()), nothing())).close()
    await eventually(lambda: keepers(key) == [keeper], DEADLINE_SECONDS, lambda: keepers(key))


@CONTAINERS
async def test_a_keeper_whose_container_never_came_leaves_when_the_lease_is_over(
    bench: Bench,
) -> None:
    """Its agent died before the start, and never comes back."""
    assert bench.real is not None
    key = bench.key()
    bench.lease(key, None)
    keeping = await Keepers(bench.leases, bench.real.argv).begin(
        key, bench.leased(key, ()), nothing()
    )
    keeping.close()
    bench.lease(key, 100)
    await eventually(lambda: not keepers(key), DEADLINE_SECONDS, lambda: keepers(key))
    assert not bench.leases.is_end_noted(key.name)


@CONTAINERS
async def test_a_keeper_leaves_when_its_file_has_no_name_any_more(bench: Bench) -> None:
    key = await bench.held(bench.programs.run)
    bench.lease(key, 1_000_000)
    await asyncio.to_thread(shutil.rmtree, bench.leases.path(key.name).rpartition("/")[0])
    waiting = bench.ended(key)
    await bench.engine.stop(key, 10)
    await waiting
    await bench.engine.remove(key)
    await eventually(lambda: not keepers(key), DEADLINE_SECONDS, lambda: keepers(key))


@CONTAINERS
async def test_the_lease_of_a_container_that_was_started_again_past_its_agent(
    bench: Bench,
) -> None:
    """By a person, or by a service that starts all containers, while its agent is away."""
    key = await bench.held(bench.programs.ignore_term)
    await bench.engine.close()
    (keeper,) = keepers(key)
    first = await bench.pid(key)
    await bench.cli("restart", "--time=0", key.name)
    assert await bench.pid(key) != first
    assert keepers(key) == [keeper]
    bench.lease(key, 100, grace_seconds=1)
    await ended_without_an_agent(bench, key)
    assert (await bench.ended(key)).lease_ended
    await eventually(lambda: not keepers(key), DEADLINE_SECONDS, lambda: keepers(key))


@CONTAINERS
async def test_a_keeper_that_was_killed_is_replaced(bench: Bench) -> None:
    key = await bench.held(bench.programs.run)
    await kill_keeper(key)
    await bench.restart_agent()
    waiting = asyncio.ensure_future(bench.ended(key))
    await eventually(lambda: len(keepers(key)) == 1, DEADLINE_SECONDS, lambda: keepers(key))
    bench.lease(key, 100)
    assert (await waiting).lease_ended


@CONTAINERS
async def test_a_keeper_that_never_learnt_its_container_finds_it(bench: Bench) -> None:
    """Its agent died over the start."""
    assert bench.real is not None
    key = bench.key()
    bench.lease(key, None)
    spec = bench.leased(key, bench.programs.run)
    keeping = await bench.engine._keepers.begin(key, spec, nothing())  # type: ignore[attr-defined]
    keeping.close()
    run = ("run", "--detach", "--network=host", *bench.real.run_args, "--name", key.name)
    await bench.cli(*run, spec.image, *spec.command)
    bench.lease(key, 100)
    await eventually(lambda: not keepers(key), DEADLINE_SECONDS, lambda: keepers(key))
    assert '"Running": false' in await bench.inspected(key)
    assert bench.leases.is_end_noted(key.name)


@CONTAINERS
async def test_a_disk_that_takes_no_note_of_the_end_of_a_lease(bench: Bench) -> None:
    """As one that has become read-only: then there is no agent either, as it cannot write."""
    key = await bench.held(bench.programs.ignore_term, grace_seconds=1)
    (keeper,) = keepers(key)
    resource.prlimit(keeper, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    bench.lease(key, 300, grace_seconds=1)
    await ended_without_an_agent(bench, key)
    assert not bench.leases.is_end_noted(key.name)


@CONTAINERS
async def test_a_keeper_without_a_free_descriptor_tries_again(bench: Bench) -> None:
    key = await bench.held(bench.programs.ignore_term, grace_seconds=1)
    (keeper,) = keepers(key)
    before = resource.prlimit(keeper, resource.RLIMIT_NOFILE)
    resource.prlimit(keeper, resource.RLIMIT_NOFILE, (3, before[1]))
    bench.lease(key, 100, grace_seconds=1)
    await eventually(
        lambda: bench.leases.is_end_noted(key.name), DEADLINE_SECONDS, lambda: keepers(key)
    )
    # It is alone when its lease has ended, and is so for longer than one try takes.
    assert not await ended_within(keeper, 2)
    assert pids_of(key)
    resource.prlimit(keeper, resource.RLIMIT_NOFILE, before)
    await ended_without_an_agent(bench, key)


@CONTAINERS
async def test_a_keeper_whose_engine_hangs_ends_the_container_past_it(bench: Bench) -> None:
    key = await bench.held(bench.programs.ignore_term, grace_seconds=1)
    await kill_keeper(key)
    hangs = Keepers(bench.leases, ("sh", "-c", "exec sleep 1000"))
    with contextlib.closing(
        await hangs.begin(key, bench.leased(key, (), grace_seconds=1), nothing())
    ) as keeping:
        keeping.tell(await bench.pid(key), json.loads(await bench.inspected(key))[0]["Id"])
    bench.lease(key, 100, grace_seconds=1)
    await eventually(lambda: not pids_of(key), DEADLINE_SECONDS, lambda: pids_of(key))
    assert (await bench.ended(key)).lease_ended
