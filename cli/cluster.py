"""A whole cluster on this machine for `muster demo`: one coordinator, some agents, and no trace.

Starts the daemons as processes of their own, the way an operator would, and knows them only by
their command line. Must not import `coordinator` or `agent`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from argparse import Namespace
from asyncio.subprocess import DEVNULL, STDOUT, Process, create_subprocess_exec
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from grpc.aio import AioRpcError

from cli.connect import Coordinator
from cli.failure import Failure
from muster.v1.host_service_pb2 import HostState, ListHostsRequest

_READY_SECONDS = 60
_STOP_SECONDS = 20
_LOG_LINES = 20
_VANISH_SECONDS = 2

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Daemon:
    """One that was started, and where its log goes."""

    name: str
    process: Process
    log: Path

    def obituary(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        told = "\n".join(f"  {line}" for line in lines) or "  (nothing)"
        return f"{self.name} ended with code {self.process.returncode}; its log ends with\n{told}"


class Cluster:
    """The daemons and their directory. `stop` after `start`, however that ended."""

    def __init__(self, hosts: int, engine: str, agent_args: Sequence[str]) -> None:
        self.hosts = hosts
        self.directory = Path(tempfile.mkdtemp(prefix="muster-demo-"))
        self.address = f"127.0.0.1:{free_port()}"
        self._engine = engine
        self._agent_args = agent_args
        self._daemons: list[Daemon] = []
        self._ready = False

    @property
    def connection(self) -> Namespace:
        """The global flags that lead to this cluster's coordinator."""
        return Namespace(coordinator=self.address, tls_cert=None, tls_key=None, tls_ca=None)

    async def start(self) -> None:
        """Start all daemons. They come up in any order: agents dial until there is an answer."""
        await self._start(
            "coordinator",
            *("coordinator", "--listen", self.address, "--stop-grace-seconds", "5"),
            *("--data-dir", str(self.directory / "coordinator")),
        )
        for number in range(1, self.hosts + 1):
            await self._start(
                f"agent-{number}",
                *("agent", "--coordinator", self.address, "--host-id", f"demo-{number}"),
                *("--data-dir", str(self.directory / f"agent-{number}")),
                # Another demo on this machine has hosts of the same names.
                *("--runtime-dir", str(self.directory / "run")),
                *("--private-ip", f"127.0.0.{10 + number}", "--engine", self._engine),
                # This is no EC2 instance, or at least four hosts are not.
                "--imds-endpoint=",
                *self._agent_args,
            )

    async def _start(self, name: str, *argv: str) -> None:
        log = self.directory / f"{name}.log"
        # What this command was found by finds the daemons too, installed or not; -P keeps the
        # working directory out of it.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with log.open("wb") as output:
            process = await create_subprocess_exec(
                *(sys.executable, "-P", "-m", *argv),
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                env=environment,
                # Ctrl-C is for us: daemons that ended by it could not stop their job first.
                start_new_session=True,
            )
        self._daemons.append(Daemon(name, process, log))

    async def all_free(self, there: Coordinator) -> None:
        """Wait until every host is FREE. The API has no stream of hosts, so it is asked again."""
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + _READY_SECONDS
        while True:
            reply = await there.hosts.ListHosts(
                ListHostsRequest(), timeout=_READY_SECONDS, wait_for_ready=True
            )
            states = [HostState.Name(host.state) for host in reply.hosts]
            if states.count("FREE") == self.hosts:
                self._ready = True
                return
            if clock() > give_up_at:
                raise Failure(
                    f"after {_READY_SECONDS} s not all of {self.hosts} hosts are FREE: "
                    + ", ".join(f"{h.host_id} {HostState.Name(h.state)}" for h in reply.hosts)
                )
            await asyncio.sleep(0.1)

    async def guard(self, story: Awaitable[Result]) -> Result:
        """Run `story` while all daemons live; Failure with the log of the first that does not."""
        running = asyncio.ensure_future(story)
        deaths = [asyncio.ensure_future(daemon.process.wait()) for daemon in self._daemons]
        try:
            await asyncio.wait({running, *deaths}, return_when=asyncio.FIRST_COMPLETED)
            if running.done() and isinstance(running.exception(), AioRpcError):
                # A dead coordinator is often felt before it is known to be dead.
                await asyncio.wait(deaths, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            dead = [d for d in self._daemons if d.process.returncode is not None]
            if dead:
                self._daemons = [daemon for daemon in self._daemons if daemon not in dead]
                raise Failure("\n".join(daemon.obituary() for daemon in dead))
            return await running
        finally:
            for task in (running, *deaths):
                task.cancel()
            await asyncio.gather(running, *deaths, return_exceptions=True)

    async def stop(self, *, keep: bool) -> list[str]:
        """End the daemons, agents first, and whatever else came of them; remove the directory.

        Returns what should not have been there.
        """
        wrong: list[str] = []
        agents = [daemon for daemon in self._daemons if daemon.name != "coordinator"]
        for daemons in (agents, [d for d in self._daemons if d not in agents]):
            wrong += await asyncio.gather(*(self._end(daemon) for daemon in daemons))
        left = _traces(self.directory)
        wrong += await asyncio.gather(*(_vanish(pid, what) for pid, what in left.items()))
        wrong += [f"process {pid} cannot be killed" for pid in _traces(self.directory)]
        if not keep:
            shutil.rmtree(self.directory)
        return [problem for problem in wrong if problem]

    async def _end(self, daemon: Daemon) -> str:
        """SIGTERM, then SIGKILL; what was wrong about that, if anything."""
        process = daemon.process
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            code = await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
            return f"{daemon.name} did not end within {_STOP_SECONDS} s of SIGTERM, and was killed"
        # One that was still starting could not know yet how to end well.
        early = code == -signal.SIGTERM and not self._ready
        return daemon.obituary() if code and not early else ""


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _traces(directory: Path) -> dict[int, str]:
    """Processes that have the directory in their command line or environment, as all daemons,
    shims and jobs of the demo have."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        # Processes come and go meanwhile, and those of others are not ours to read.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            command = (entry / "cmdline").read_bytes()
            if os.fsencode(directory) in command + b"\0" + (entry / "environ").read_bytes():
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")[:200]
    return found


async def _vanish(pid: int, what: str) -> str:
    """See to it that a process that came of the demo goes; what was wrong, if it had to be made."""
    if await _gone(pid, _VANISH_SECONDS):
        return ""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    await _gone(pid, _VANISH_SECONDS)
    return f"process {pid} was left behind, and killed: {what}"


async def _gone(pid: int, within_seconds: float) -> bool:
    """Whether a process that is not our child ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, ended.set)
        await asyncio.wait_for(ended.wait(), within_seconds)
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
