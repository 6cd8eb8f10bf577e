"""What an engine has on record of its containers.

Each look is one call, and remembers for the proof of clean by which id the engine knows a node's
container. Must not import a certain engine.
"""

from __future__ import annotations

from agent.core.assignment import NodeKey
from agent.engine import argv, parse
from agent.engine.cli import Cli
from agent.engine.port import EngineError, ErrorClass
from agent.host.survivors import Survivors


class Records:
    """Of the containers of one host; its engine may have others as well. Each method raises
    EngineError and may be repeated."""

    def __init__(self, cli: Cli, host_id: str, survivors: Survivors) -> None:
        self._cli = cli
        self._host_id = host_id
        self._survivors = survivors

    async def of(self, key: NodeKey) -> parse.Container | None:
        """None also where another host's agent has given that name to a container."""
        found = await self.named([key.name])
        return found[0] if found and found[0].may_be_of(self._host_id) else None

    async def is_anothers(self, key: NodeKey) -> bool:
        """Whether the node's name is that of a container of another host, whose agent shares this
        engine: a node that did not start here may run there, in the same attempt."""
        if self._survivors.knows(key):
            return False
        found = await self.named([key.name])
        return bool(found) and not found[0].may_be_of(self._host_id)

    async def labelled(self) -> list[parse.Container]:
        """Those with this host's label. What goes meanwhile is left out."""
        listed = await self._cli.call(argv.list_ids(self._host_id))
        if listed.exit_code:
            raise listed.error("CannotListContainersError")
        return await self.named(listed.stdout.split())

    async def named(self, names: list[str]) -> list[parse.Container]:
        """Those of `names`, which may be ids, that are there."""
        if not names:
            return []
        output = await self._cli.call(argv.inspect(names))
        if output.exit_code and not parse.says_absent(output.stderr):
            raise output.error("CannotInspectContainerError")
        try:
            found = parse.containers(output.stdout)
        except ValueError as error:
            reason = f"CannotInspectContainerError: {error}"
            raise EngineError(ErrorClass.TRANSIENT, reason) from error
        for container in found:
            if container.key is not None and container.may_be_of(self._host_id):
                self._survivors.remember(container.key, container.container_id)
        return found
