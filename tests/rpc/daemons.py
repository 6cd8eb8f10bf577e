"""A coordinator's daemon within the test's own process, and the hosts that it hears."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from coordinator.core import inputs as i
from coordinator.core.ids import HostId, SessionId
from coordinator.daemon import Daemon


@asynccontextmanager
async def running(daemon: Daemon) -> AsyncIterator[Daemon]:
    await daemon.open()
    loop = asyncio.create_task(daemon.run())
    try:
        yield daemon
    finally:
        loop.cancel()
        await asyncio.wait((loop,))
        await daemon.close()


def session_of(host_id: str) -> SessionId:
    """The only session of a host."""
    return SessionId(f"session-{host_id}")


def hello(host_id: str, *observed: i.Observation, private_ipv4: str = "10.0.0.1") -> i.HostHello:
    return i.HostHello(
        session_id=session_of(host_id),
        host_id=HostId(host_id),
        agent_uuid=f"uuid-{host_id}",
        boot_id="boot",
        version="1",
        engine="process",
        instance_type="generic",
        vcpus=8,
        memory_mib=16_384,
        gpus=0,
        private_ipv4=private_ipv4,
        observed=observed,
        is_attached=True,
    )
