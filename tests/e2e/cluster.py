"""A real cluster of daemons as processes, for tests: starts them, talks to them, kills them.

What a test asks of it waits on the daemons' own streams; nothing here looks into a daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
from google.protobuf import json_format

from muster.v1 import (
    host_service_pb2,
    host_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)
from tests.wait import eventually

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 30.0
_ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def with_clock_of(ahead: Path, argv: Sequence[str]) -> list[str]:
    """A daemon's command line, with a wall clock that is ahead by the seconds in the file."""
    module = argv.index("-m")
    script = str(Path(__file__).with_name("wrong_clock.py"))
    return [*argv[:module], script, str(ahead), *argv[module + 1 :]]


class Process:
    """One daemon: started, killed, started again with the same arguments and data directory."""

    def __init__(self, module: str, args: Sequence[str], log: Path, prefix: Sequence[str]) -> None:
        self.argv = [*prefix, sys.executable, "-m", module, *args]
        self.log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def fell(self) -> int | None:
        """The exit status of a daemon that ended although nobody called `end`; else None."""
        return None if self._process is None else self._process.returncode

    @property
    def is_started(self) -> bool:
        """Whether it was started and not ended since."""
        return self._process is not None

    async def start(self) -> None:
        assert self._process is None, "already started"
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_ENVIRONMENT,
                cwd=self.log.parent,
                start_new_session=True,
            )

    def send(self, signum: int) -> None:
        os.kill(self.pid, signum)

    async def end(self, signum: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status; 0 when it is not running."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.returncode is None:
            # Not by its own method: that reaps one that has just ended, and its status is lost.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signum)
                os.kill(process.pid, signal.SIGCONT)
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await process.wait()

    def story(self) -> str:
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return f"--- {self.log.name}\n{text[-3000:]}"


class Cluster:
    """One coordinator and its agents."""

    def __init__(
        self, directory: Path, coordinator_args: Sequence[str] = (), listen: str | None = None
    ) -> None:
        self.directory = directory
        self.address = listen or f"127.0.0.1:{free_port()}"
        self.coordinator = Process(
            "coordinator",
            [
                "--listen", self.address, "--data-dir", str(directory / "coordinator"),
                "--heartbeat-seconds", "1", *coordinator_args,
            ],
            directory / "coordinator.log",
            (),
        )  # fmt: skip
        self.agents: dict[str, Process] = {}
        self._channel: grpc.aio.Channel | None = None

    @property
    def jobs(self) -> job_service_pb2_grpc.JobServiceAsyncStub:
        stub = job_service_pb2_grpc.JobServiceStub(self._open_channel())
        return cast("job_service_pb2_grpc.JobServiceAsyncStub", stub)

    @property
    def hosts(self) -> host_service_pb2_grpc.HostServiceAsyncStub:
        stub = host_service_pb2_grpc.HostServiceStub(self._open_channel())
        return cast("host_service_pb2_grpc.HostServiceAsyncStub", stub)

    def _open_channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            options = [
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 200),
                ("grpc.use_local_subchannel_pool", 1),
            ]
            self._channel = grpc.aio.insecure_channel(self.address, options=options)
        return self._channel

    def agent(
        self,
        host_id: str,
        private_ip: str | None,
        *args: str,
        prefix: Sequence[str] = (),
        engine: str = "process",
    ) -> Process:
        """An agent, not started yet. `prefix` goes before the interpreter (nsenter)."""
        flags = {
            "--coordinator": self.address,
            "--host-id": host_id,
            "--data-dir": str(self.directory / host_id),
            "--runtime-dir": str(self.directory / "run"),
            "--engine": engine,
            "--imds-endpoint": "",
        }
        if private_ip is not None:
            flags["--private-ip"] = private_ip
        words = [word for flag in flags.items() for word in flag]
        process = Process("agent", [*words, *args], self.directory / f"{host_id}.log", prefix)
        self.agents[host_id] = process
        return process

    async def start(self, agents: int = 0) -> None:
        """The coordinator, and `agents` process-engine hosts h1.. at 127.0.0.11.., all FREE."""
        await self.coordinator.start()
        for number in range(1, agents + 1):
            await self.agent(f"h{number}", f"127.0.0.{10 + number}").start()
        if agents:
            await self.until_hosts({f"h{n}": "FREE" for n in range(1, agents + 1)})

    async def stop(self) -> None:
        """End everything that still runs; every daemon must leave with status 0."""
        statuses = {host_id: await agent.end() for host_id, agent in self.agents.items()}
        statuses["coordinator"] = await self.coordinator.end()
        if self._channel is not None:
            await self._channel.close()
        assert not any(statuses.values()), f"exit statuses {statuses}\n{self.story()}"

    def story(self) -> str:
        """The end of every daemon's log."""
        return "\n".join(p.story() for p in (self.coordinator, *self.agents.values()))

    async def muster(self, *words: str) -> str:
        """What the command prints; it must succeed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", "--coordinator", self.address, *words),
            env=_ENVIRONMENT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = await process.communicate()
        assert process.returncode == 0, f"{process.returncode}: {stderr.decode()}"
        return stdout.decode()

    # hosts

    async def host_states(self) -> dict[str, str]:
        response = await self.hosts.ListHosts(
            host_service_pb2.ListHostsRequest(), wait_for_ready=True, timeout=DEADLINE_SECONDS
        )
        return {h.host_id: host_service_pb2.HostState.Name(h.state) for h in response.hosts}

    async def until_hosts(
        self, expected: dict[str, str], deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        """Until these hosts are in these states."""
        last: dict[str, str] = {}

        async def reached() -> bool:
            last.update(await self.host_states())
            return expected.items() <= last.items()

        await eventually(reached, deadline_seconds, lambda: f"{last}\n{self.story()}")

    # jobs

    async def register(self, definition: dict[str, Any]) -> str:
        """Register a definition given as AWS's JSON; its `name:revision`."""
        request = job_service_pb2.RegisterJobDefinitionRequest()
        json_format.ParseDict(definition, request)
        made = await self.jobs.RegisterJobDefinition(request, wait_for_ready=True)
        return f"{made.job_definition_name}:{made.revision}"

    async def submit(self, definition: str, **members: Any) -> str:
        """Submit a job; `members` are SubmitJob's JSON. Its id."""
        request = job_service_pb2.SubmitJobRequest()
        body = {"jobName": "test", "jobQueue": "default", "jobDefinition": definition, **members}
        json_format.ParseDict(body, request)
        return (await self.jobs.SubmitJob(request)).job_id

    async def describe(self, job_id: str) -> job_pb2.JobDetail | None:
        """A job or node as DescribeJobs shows it; None when it is left out."""
        request = job_service_pb2.DescribeJobsRequest(jobs=[job_id])
        response = await self.jobs.DescribeJobs(
            request, wait_for_ready=True, timeout=DEADLINE_SECONDS
        )
        return response.jobs[0] if response.jobs else None

    async def cancel(self, job_id: str) -> None:
        request = job_service_pb2.CancelJobRequest(job_id=job_id, reason="by the test")
        await self.jobs.CancelJob(request)

    async def terminate(self, job_id: str) -> None:
        request = job_service_pb2.TerminateJobRequest(job_id=job_id, reason="by the test")
        await self.jobs.TerminateJob(request)

    async def until(
        self,
        job_id: str,
        condition: Callable[[job_pb2.JobDetail], object] | str,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> job_pb2.JobDetail:
        """Until a job or node satisfies a condition, or has the status of that name."""
        last: list[job_pb2.JobDetail | None] = [None]

        async def reached() -> job_pb2.JobDetail | None:
            detail = last[0] = await self.describe(job_id)
            if detail is None:
                return None
            if isinstance(condition, str):
                wanted = job_pb2.JobStatus.Value(condition)
                return detail if detail.status == wanted else None
            return detail if condition(detail) else None

        found = await eventually(
            reached, deadline_seconds, lambda: f"{job_id}: {last[0]}\n{self.story()}"
        )
        assert found is not None
        return found

    async def until_gone(self, job_id: str, deadline_seconds: float = 60.0) -> list[str]:
        """Until a job has ended and nothing of it is left on any host; what happened, in kinds."""
        kinds: list[str] = []
        request = job_service_pb2.WatchJobRequest(job_id=job_id)
        try:
            async with asyncio.timeout(deadline_seconds):
                async for update in self.jobs.WatchJob(request):
                    kinds += [event.kind for event in update.events]
        except TimeoutError:
            raise AssertionError(f"{job_id} is not gone: {kinds}\n{self.story()}") from None
        return kinds

    async def log(self, node_id: str, attempt: int | None = None) -> str:
        """All output of a node."""
        request = job_service_pb2.GetNodeLogRequest(job_id=node_id, attempt=attempt)
        data = [piece.data async for piece in self.jobs.GetNodeLog(request)]
        return b"".join(data).decode()

    async def first_line(self, node_id: str) -> str:
        """A node's first line of output, as soon as it is there."""

        async def line() -> str:
            text = await self.log(node_id)
            return text.partition("\n")[0] if "\n" in text else ""

        return await eventually(line, DEADLINE_SECONDS, self.story)


@asynccontextmanager
async def cluster(
    directory: Path,
    agents: int = 0,
    coordinator_args: Sequence[str] = (),
    listen: str | None = None,
) -> AsyncIterator[Cluster]:
    """A running cluster, ended with the block; a failure inside shows the daemons' logs."""
    made = Cluster(directory, coordinator_args, listen)
    try:
        await made.start(agents)
        yield made
    except BaseException as error:
        error.add_note(made.story())
        for process in (*made.agents.values(), made.coordinator):
            await process.end(signal.SIGKILL)
        if made._channel is not None:
            await made._channel.close()
        raise
    await made.stop()


def definition(
    name: str, groups: Mapping[str, Sequence[str]], *, num_nodes: int, main_node: int = 0,
    image: str = "none", environment: dict[str, str] | None = None, **members: Any,
) -> dict[str, Any]:  # fmt: skip
    """A multi-node definition in AWS's JSON: targetNodes -> command."""
    pairs = [{"name": key, "value": value} for key, value in (environment or {}).items()]
    return {
        "jobDefinitionName": name,
        "type": "multinode",
        "nodeProperties": {
            "numNodes": num_nodes,
            "mainNode": main_node,
            "nodeRangeProperties": [
                {
                    "targetNodes": target,
                    "container": {
                        "image": image,
                        "command": list(command),
                        "environment": pairs,
                        "resourceRequirements": [
                            {"type": "VCPU", "value": "1"},
                            {"type": "MEMORY", "value": "64"},
                        ],
                    },
                }
                for target, command in groups.items()
            ],
        },
        **members,
    }
