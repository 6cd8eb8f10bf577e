"""Runs docker's or podman's command line: one call, one process, one time limit.

Turns what can go wrong with a process (no such binary, no answer in time, engine away) into
EngineError, and leaves the meaning of an exit code to the caller. Must not import a certain
engine, nor build or read anything that `argv` and `parse` do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.engine import parse
from agent.engine.port import EngineError, ErrorClass
from agent.host import processes
from agent.host.pidfd import ended

CALL_SECONDS = 60.0
_STDOUT_BYTES = 4 * 1024 * 1024
_STDERR_BYTES = 4 * 1024
_END_SECONDS = 5.0
_CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Output:
    """What an ended call left. `stderr` is its last 4 KiB."""

    exit_code: int
    stdout: str
    stderr: str

    def error(self, name: str) -> EngineError:
        """This output as a failure that AWS calls `name`."""
        reason = f"{name}: {parse.message(self.stderr)}"
        return EngineError(parse.error_class(self.stderr), reason)


class EngineHangs(EngineError):
    """A call did not end in time: whether it will have done what it was for is not known."""

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorClass.TRANSIENT, reason)


class Cli:
    """One engine's binary. `engine_args` go before the sub-command of every call."""

    def __init__(
        self, binary: str, engine_args: tuple[str, ...], call_seconds: float = CALL_SECONDS
    ) -> None:
        self.binary = binary
        self.call_seconds = call_seconds
        self._engine_args = engine_args

    @property
    def beginning(self) -> tuple[str, ...]:
        """How every command line begins."""
        return (self.binary, *self._engine_args)

    async def call(
        self,
        arguments: Sequence[str],
        *,
        limit_seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        directory: Path | None = None,
    ) -> Output:
        """Run to the end, in `directory`. `environment` is added to the agent's own. Without
        `limit_seconds` the usual limit holds; `math.inf` is none.

        EngineError: ENGINE_GONE when the engine or its binary is not there, EngineHangs when it
        does not end in time. Cancelled, it ends the process first.
        """
        limit = self.call_seconds if limit_seconds is None else limit_seconds
        async with self.running(
            arguments, asyncio.subprocess.PIPE, environment, pass_fds, directory
        ) as process:
            if process.stdout is None or process.stderr is None:
                raise AssertionError("both were asked for as pipes")
            try:
                async with asyncio.timeout(limit):
                    stdout, stderr, exit_code = await asyncio.gather(
                        _tail(process.stdout, _STDOUT_BYTES),
                        _tail(process.stderr, _STDERR_BYTES),
                        process.wait(),
                    )
            except TimeoutError:
                raise EngineHangs(
                    f"DockerTimeoutError: {self.binary} {arguments[0]} did not end within "
                    f"{limit:.0f} s"
                ) from None
        output = Output(exit_code, stdout, stderr)
        if exit_code != 0 and parse.error_class(stderr) is ErrorClass.ENGINE_GONE:
            raise output.error("EngineNotReachableError")
        return output

    async def call_through(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        directory: Path | None = None,
    ) -> Output:
        """`call`, but cancelled it still waits for the end of the process: for what must not be
        broken off. A podman killed in `start` forgets that it started the container, and the
        next `start` would run the job a second time."""
        call = asyncio.ensure_future(
            self.call(arguments, environment=environment, pass_fds=pass_fds, directory=directory)
        )
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.gather(call, return_exceptions=True)
            raise

    async def outwait(self, name: str, pids: Sequence[int]) -> None:
        """Wait for such calls to end. EngineError(TRANSIENT) when one does not in time."""
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                if not await ended(pidfd, self.call_seconds):
                    raise EngineError(
                        ErrorClass.TRANSIENT,
                        f"DockerTimeoutError: an earlier call for {name} (pid {pid}) does not end",
                    )
            finally:
                os.close(pidfd)

    @contextlib.asynccontextmanager
    async def running(
        self,
        arguments: Sequence[str],
        stderr: int,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        directory: Path | None = None,
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """The started process; it is ended and collected if it still runs at the end."""
        # Looked up in the agent's PATH, before a job's variables are added.
        path = shutil.which(self.binary)
        if path is None:
            raise EngineError(
                ErrorClass.ENGINE_GONE, f"EngineNotReachableError: no program {self.binary}"
            )
        try:
            process = await asyncio.create_subprocess_exec(
                *(path, *self._engine_args, *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **(environment or {})},
                pass_fds=pass_fds,
                cwd=directory,
                # A terminal's Ctrl-C is the agent's business, not that of its calls under way.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            # Too long a list of arguments, or a NUL in one.
            reason = f"EngineNotReachableError: {path}: {error}"
            raise EngineError(ErrorClass.TRANSIENT, reason) from error
        try:
            yield process
        finally:
            if process.returncode is None:
                # Asked first: podman finishes what must not be left half done.
                await _end(process)
            # To the end of its pipes, so that nothing of it is open when the loop closes; but a
            # process that it started may hold them, and that one is not ours to wait for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    for stream in (process.stdout, process.stderr):
                        if stream is not None:
                            await stream.read()


def calls_under_way(name: str) -> list[int]:
    """Processes that are, by their arguments and users, a `run` or a `start` of the container
    `name`: such a call goes on without the agent that began it. Reads all of /proc."""
    wanted = name.encode()

    def is_call(arguments: list[bytes]) -> bool:
        return arguments[-2:] == [b"start", wanted] or (b"run" in arguments and wanted in arguments)

    return [
        pid
        for pid in processes.pids()
        if is_call(processes.arguments(pid)) and processes.may_be_an_engines(pid)
    ]


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _tail(stream: asyncio.StreamReader, limit_bytes: int) -> str:
    kept = b""
    while data := await stream.read(64 * 1024):
        kept = (kept + data)[-limit_bytes:]
    return kept.decode(errors="replace")
