"""The images of a host's engine: how one gets here, and what it runs by itself.

Must not import a certain engine: `login_flags` makes of a directory with a login the flags before
and after `pull` that use it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.core.assignment import ContainerSpec
from agent.engine import argv, parse
from agent.engine.cli import Cli, Output
from agent.engine.port import EngineError, ErrorClass
from agent.engine.registry_login import login_directory

LoginFlags = Callable[[Path], tuple[list[str], list[str]]]

_PULL_SECONDS = 20 * 60.0
"""Shorter than a vote may take by default, so that the image that is here will do when a registry
never answers."""


class Images:
    """Of one engine. Each method raises EngineError and may be repeated."""

    def __init__(self, cli: Cli, login_flags: LoginFlags) -> None:
        self._cli = cli
        self._login_flags = login_flags

    async def pull(self, spec: ContainerSpec) -> None:
        """Get the specification's image; the one that is here will do when its registry does not
        give it."""
        if argv.has_local_registry(spec.image) and await self._has(spec.image):
            return
        try:
            pulled = await self._pull(spec)
            if pulled.exit_code == 0:
                return
            failure = pulled.error("CannotPullContainerError")
        except EngineError as error:
            if error.error_class is ErrorClass.ENGINE_GONE:
                raise
            failure = error
        if not await self._has(spec.image):
            raise failure

    async def command(self, image: str) -> parse.ImageCommand:
        """What the image runs by itself; it must be here."""
        output = await self._cli.call(argv.inspect_image(image))
        if output.exit_code:
            raise output.error("CannotCreateContainerError")
        try:
            return parse.image_command(output.stdout)
        except ValueError as error:
            reason = f"CannotCreateContainerError: {error}"
            raise EngineError(ErrorClass.TRANSIENT, reason) from error

    async def _pull(self, spec: ContainerSpec) -> Output:
        if spec.login is None:
            return await self._cli.call(argv.pull(spec.image), limit_seconds=_PULL_SECONDS)
        try:
            with login_directory(spec.image, spec.login) as directory:
                before, after = self._login_flags(directory)
                return await self._cli.call(
                    [*before, *argv.pull(spec.image, after)], limit_seconds=_PULL_SECONDS
                )
        except OSError as error:
            reason = f"CannotPullContainerError: {error}"
            raise EngineError(ErrorClass.TRANSIENT, reason) from error

    async def _has(self, image: str) -> bool:
        return (await self._cli.call(argv.inspect_image(image))).exit_code == 0
