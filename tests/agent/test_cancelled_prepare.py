"""A prepare that is called off before it began is answered all the same: its slot waits for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.admission import Admission
from agent.core import effects as f
from agent.core import inputs as i
from agent.core.assignment import ContainerSpec, Desired, NodeKey
from agent.core.state import Slot
from agent.daemon import Daemon, Identity
from agent.engine.fake import FakeEngine
from agent.host.machine import machine_id
from agent.kit import Kit
from agent.lease_file import Leases
from agent.ledger.memory import MemoryLedger
from agent.logs import LogDesk
from agent.options import Endpoint
from muster.v1 import agent_service_pb2 as pb

KEY = NodeKey(job_id="j", attempt=1, node_index=0)
SPEC = ContainerSpec(image="x", command=("run",), environment=(), vcpus=1, memory_mib=64)


class Everything(Admission):
    def admit(self, spec: ContainerSpec) -> ContainerSpec:
        return spec


async def test_it_is_answered(tmp_path: Path) -> None:
    daemon = Daemon(
        identity=Identity(
            host_id="h1", agent_uuid="u", boot_id="b", version="1", private_ipv4="127.0.0.1",
            resources=pb.Resources(), labels={}, machine=machine_id(),
        ),
        coordinator=Endpoint("127.0.0.1", 1),
        tls=None,
        engine=FakeEngine(),
        ledger=MemoryLedger(),
        logs=LogDesk(tmp_path, 1),
        admission=Everything(),
        kit=Kit(tmp_path / "kit", is_mounted=False),
        leases=Leases(tmp_path / "leases"),
    )  # fmt: skip
    daemon._machine.state.slots[KEY] = Slot(key=KEY, desired=Desired.STOP, assignment=None)
    async with asyncio.timeout(10), asyncio.TaskGroup() as daemon._tasks:
        daemon._act(f.Prepare(key=KEY, spec=SPEC))
        daemon._act(f.CancelPrepare(key=KEY))
        answer = await daemon._inbox.get()
    assert answer == i.PrepareFailed(key=KEY, reason="no longer wanted", permanent=False)
