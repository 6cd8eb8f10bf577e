"""The address that a node has on its host's network, chosen before it starts.

It is promised with the vote, and each node of the gang is told all of them. Must not import a
certain engine.
"""

from __future__ import annotations

from agent.engine import argv, parse
from agent.engine.cli import Cli
from agent.engine.port import EngineError, ErrorClass
from agent.engine.records import Records


class Network:
    """The network of one engine's containers. `address` is the only address that they get there;
    an empty one lets a free address be chosen."""

    def __init__(self, cli: Cli, records: Records, address: str) -> None:
        self._cli = cli
        self._records = records
        self.address = address

    async def choose_address(self, name: str) -> str:
        """An address for the next container on this network; empty on `host`. On a host with one
        container at a time a free address stays free until the start. EngineError when there is no
        such network or no free address; may be repeated."""
        if name == "host":
            return ""
        network = await self._cli.call(argv.inspect_network(name))
        if network.exit_code:
            raise network.error("CannotCreateContainerError")
        if self.address:
            return self.address
        listed = await self._cli.call(argv.list_all_ids())
        taken = [other.private_ipv4 for other in await self._records.named(listed.stdout.split())]
        try:
            return parse.free_address(network.stdout, taken)
        except ValueError as error:
            reason = f"CannotCreateContainerError: network {name}: {error}"
            raise EngineError(ErrorClass.TRANSIENT, reason) from error
