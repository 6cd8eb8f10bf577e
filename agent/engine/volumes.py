"""A node's scratch volumes: made before its container, removed with it.

They are found by label, since a node that is removed may have been another agent's. Must not
import a certain engine.
"""

from __future__ import annotations

from agent.core.assignment import ContainerSpec, NodeKey
from agent.engine import argv
from agent.engine.cli import Cli


class Volumes:
    """Of the nodes of one host. Each method raises EngineError and may be repeated."""

    def __init__(self, cli: Cli, host_id: str) -> None:
        self._cli = cli
        self._host_id = host_id

    async def make(self, key: NodeKey, spec: ContainerSpec) -> None:
        """Make those of the node's volumes that are not there yet."""
        scratch = dict.fromkeys(mount.volume for mount in spec.mounts if not mount.source)
        there = await self._of(key) if scratch else []
        for volume in scratch:
            if argv.volume_name(key, volume) in there:
                continue
            made = await self._cli.call_through(argv.make_volume(key, volume, self._host_id))
            if made.exit_code:
                raise made.error("CannotCreateVolumeError")

    async def remove(self, key: NodeKey) -> None:
        """Remove all of the node's volumes; no container may have them any more."""
        if names := await self._of(key):
            removed = await self._cli.call_through(argv.remove_volumes(names))
            if removed.exit_code:
                raise removed.error("CannotRemoveContainerError")

    async def _of(self, key: NodeKey) -> list[str]:
        listed = await self._cli.call(argv.list_volumes(key))
        if listed.exit_code:
            raise listed.error("CannotInspectContainerError")
        return listed.stdout.split()
