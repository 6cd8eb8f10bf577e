"""What holds for every test: a limit of time, nothing left behind, real components or a reason."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import uuid
from collections.abc import AsyncIterator, Generator, Iterator

import grpc.aio
import pytest

from tests import components, leaks, limit
from tests.engines import docker_host, podman_host

# Here once: fixtures of a session that two modules import are two fixtures.
__all__ = ["docker_host", "podman_host"]

REQUIRE_REAL = "MUSTER_REQUIRE_REAL"


def pytest_configure(config: pytest.Config) -> None:
    # A shell that runs the tests in the background has these ignored, for all that they start.
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)
    os.environ[leaks.RUN_VARIABLE] = str(uuid.uuid4())
    config.stash[SHARED] = Shared()
    config.pluginmanager.register(config.stash[SHARED])


class Shared:
    """What fixtures of several tests hold: none of the test's that first asked for them.

    A plugin, as the session's fixtures are not set up below this file's directory.
    """

    def __init__(self) -> None:
        self.held = leaks.NOTHING

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object]
    ) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        before = leaks.snapshot()
        value = yield
        self.held |= leaks.snapshot() - before
        return value


SHARED = pytest.StashKey[Shared]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            # Not autouse: tests without a loop shall not make one for it.
            item.fixturenames.insert(item.fixturenames.index("nothing_left") + 1, "no_task_left")


# These three are the innermost wrappers: pytest's own tear down only what they have set up.


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    for marker in item.iter_markers("real"):
        for reason in filter(None, map(components.missing, marker.args)):
            if os.environ.get(REQUIRE_REAL) == "1":
                pytest.fail(f"{reason}, and {REQUIRE_REAL}=1 asks for it", pytrace=False)
            pytest.skip(reason)
    with limit.limited(limit.seconds_for(item)):
        yield


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    with limit.limited(limit.seconds_for(item)):
        yield


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    with limit.limited(limit.seconds_for(item)):
        yield


@pytest.fixture(scope="session", autouse=True)
def grpc_started() -> Iterator[None]:
    """gRPC's poller, with its thread and sockets, for all tests; else the first would leak it."""
    grpc.aio.init_grpc_aio()
    # What is there now stays, so that collecting what one test leaves is quick.
    gc.freeze()
    yield
    grpc.aio.shutdown_grpc_aio()


@pytest.fixture(autouse=True)
def nothing_left(grpc_started: None, pytestconfig: pytest.Config) -> Iterator[None]:
    """Set up before all that a test asks for, so it looks after all that is torn down."""
    before = leaks.snapshot()
    yield
    left = leaks.left_behind(before | pytestconfig.stash[SHARED].held)
    if left:
        pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """The same for tasks, while the loop still runs: closing it would cancel them in silence."""
    before = asyncio.all_tasks()
    yield
    left = await leaks.tasks_left_behind(before)
    if left:
        pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)
