"""`muster demo`: a whole cluster on this machine, and three jobs that show the rules.

Everything is as an operator and a user would do it: the daemons are processes, and this command
is a client of them. Whatever happens, nothing is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import uuid
from pathlib import Path

from cli.arguments import Parser
from cli.cluster import Cluster, free_port
from cli.connect import ANSWER_SECONDS, Coordinator, coordinator
from cli.describe import describe, nodes_of, render
from cli.failure import ExitCode, Failure
from cli.jsonin import read
from cli.logs import merged
from cli.stream import watch_job
from cli.submit import submit
from cli.table import Style
from cli.watch import show
from muster.v1.job_pb2 import JobDetail, JobStatus
from muster.v1.job_service_pb2 import (
    GetNodeLogRequest,
    RegisterJobDefinitionRequest,
    SubmitJobRequest,
    TerminateJobRequest,
)

_EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "heat"
_MOST_HOSTS = 200
_DEAD_CHILDS_CODE = 9
_JOB_SECONDS = 300
_END_SECONDS = 30
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("--nodes", type=int, default=4, metavar="N", help="hosts, and nodes a job (default: 4)")
    engines = ("process", "docker", "podman")
    add("--engine", choices=engines, default="process", help="default: process, which needs none")
    add("--image", help="for docker and podman: an image that has python3")
    add(
        "--agent-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="one more argument for every agent, as --agent-arg=--run-args=...",
    )
    add("--keep", action="store_true", help="keep the directory with logs and journal")


async def run(args: argparse.Namespace) -> int:
    _check(args)
    demo = Demo(args, Cluster(args.nodes, args.engine, args.agent_arg))
    task = asyncio.ensure_future(demo.story())
    loop = asyncio.get_running_loop()
    for number in _INTERRUPTS:
        # Ours, so that a second Ctrl-C does not end the cleaning up.
        loop.add_signal_handler(number, task.cancel)
    code: int = ExitCode.FAILED
    try:
        await task
        _say("stop all daemons with SIGTERM; each has to end with code 0")
        code = ExitCode.OK
    except asyncio.CancelledError:
        code = ExitCode.INTERRUPTED
        _say("interrupted: end the job that runs, and stop all daemons")
    except Failure as wrong:
        print(f"muster: {wrong}", file=sys.stderr, flush=True)
    finally:
        problems = await demo.end()
        for number in _INTERRUPTS:
            loop.remove_signal_handler(number)
    directory = demo.cluster.directory
    if args.keep:
        _say(f"logs and journal are kept in {directory}")
    if problems:
        print("\n".join(f"muster: {problem}" for problem in problems), file=sys.stderr, flush=True)
        return code or ExitCode.FAILED
    if not args.keep:
        _say(f"nothing is left behind: no process, and {directory} is gone")
    return code


def _check(args: argparse.Namespace) -> None:
    wrong = ""
    if not 2 <= args.nodes <= _MOST_HOSTS:
        wrong = f"--nodes is {args.nodes}; it must be 2 to {_MOST_HOSTS}: a main and a child"
    elif args.engine != "process" and not args.image:
        wrong = f"--engine {args.engine} needs --image, such as python:3.11-slim"
    elif args.output == "json":
        wrong = "the demo is for people; -o json has no meaning with it"
    elif not (_EXAMPLE / "heat.py").exists():
        wrong = f"the demo runs {_EXAMPLE}, which is not there: run it from the source tree"
    if wrong:
        raise Failure(wrong, ExitCode.USAGE)


def _say(text: str) -> None:
    print(f"== {text}", flush=True)


class Demo:
    """The story, and the job that is under way in it."""

    def __init__(self, args: argparse.Namespace, cluster: Cluster) -> None:
        self.args, self.cluster = args, cluster
        self._style = Style.of(sys.stdout)
        self._job_id = ""

    async def story(self) -> None:
        """All of it; Failure when something does not end as it should."""
        hosts = self.args.nodes
        _say(
            f"start a coordinator at {self.cluster.address} and {hosts} agents, each one host: "
            f"{1 + hosts} processes in {self.cluster.directory}"
        )
        await self.cluster.start()
        await self.cluster.guard(self._jobs())

    async def _jobs(self) -> None:
        async with coordinator(self.cluster.connection) as there:
            await self.cluster.all_free(there)
            _say(f"all {self.args.nodes} hosts have called and are FREE")
            await self._register(there)
            await self._main_job(there)
            await self._child_death(there)
            await self._retry(there)
        _say("all three jobs ended as they should")

    async def _register(self, there: Coordinator) -> None:
        request = read(str(_EXAMPLE / "definition.json"), RegisterJobDefinitionRequest())
        request.parameters["port"] = str(free_port())
        request.node_properties.num_nodes = self.args.nodes
        container = request.node_properties.node_range_properties[0].container
        # What every process of a job inherits shows afterwards that none is left.
        container.environment.add(name="MUSTER_DEMO", value=str(self.cluster.directory))
        if self.args.engine == "process":
            request.parameters["python"] = sys.executable
            request.parameters["program"] = str(_EXAMPLE / "heat.py")
        else:
            # Any image with Python will do: the program travels in the command.
            container.image = self.args.image
            container.command[:2] = ["python3", "-c", (_EXAMPLE / "heat.py").read_text()]
            del request.parameters["python"], request.parameters["program"]
        made = await there.jobs.RegisterJobDefinition(request, timeout=ANSWER_SECONDS)
        _say(f"registered {made.job_definition_name}:{made.revision}, an AWS Batch job definition")

    async def _main_job(self, there: Coordinator) -> None:
        _say("job 1: all nodes compute how heat spreads in a plate, one strip a node")
        _say("rule: main starts first and alone; once it runs, children start with its address")
        job = await self._run(there, "heat")
        _say(f"its output, all nodes merged, as `muster logs {job.job_id}` shows it")
        await merged(there, GetNodeLogRequest(job_id=job.job_id), self.args.nodes)
        _say(f"its final record, as `muster describe {job.job_id}` shows it")
        nodes = await self._show_record(there, job)
        main = next(node for node in nodes if node.node_details.is_main_node)
        early = [n.job_id for n in nodes if n is not main and n.created_at < main.started_at]
        _expect(job.status == JobStatus.SUCCEEDED, "main exited with 0, so the job SUCCEEDED")
        _expect(not early, "no child was launched before main ran")
        _expect(
            [node.status for node in nodes] == [JobStatus.SUCCEEDED] * self.args.nodes,
            f"each of {self.args.nodes} nodes SUCCEEDED",
        )

    async def _child_death(self, there: Coordinator) -> None:
        child = min(2, self.args.nodes - 1)
        _say(f"job 2: child #{child} dies half-way, and the others share its work")
        _say("rule: the death of a child changes nothing but its own record")
        job = await self._run(there, "child-death", dieNode=str(child))
        nodes = await self._show_record(there, job)
        dead = [node for node in nodes if node.status == JobStatus.FAILED]
        _expect(job.status == JobStatus.SUCCEEDED, "main went on, and the job SUCCEEDED")
        _expect(
            [node.node_details.node_index for node in dead] == [child]
            and dead[0].container.exit_code == _DEAD_CHILDS_CODE,
            f"#{child}, and it alone, is FAILED with exit code {_DEAD_CHILDS_CODE}",
        )

    async def _retry(self, there: Coordinator) -> None:
        _say("job 3: main fails in attempt 1, and the job may have 2")
        _say("rule: only main's failure is retried, with all nodes anew")
        job = await self._run(there, "retry", attempts=2, failAttempt="1")
        await self._show_record(there, job)
        codes = [attempt.container.exit_code for attempt in job.attempts]
        _expect(codes == [1, 0], "attempt 1 ended with exit code 1, attempt 2 with 0")
        _expect(job.status == JobStatus.SUCCEEDED, "so the job SUCCEEDED")

    async def _run(
        self, there: Coordinator, name: str, attempts: int = 1, **parameters: str
    ) -> JobDetail:
        """Submit a job and show it until its nodes are gone; its final record."""
        request = SubmitJobRequest(
            job_name=name,
            job_queue="default",
            job_definition="heat",
            parameters=parameters,
            client_token=str(uuid.uuid4()),
        )
        request.retry_strategy.attempts = attempts
        self._job_id = (await submit(there, request)).job_id
        try:
            async with asyncio.timeout(_JOB_SECONDS):
                await show(there, self._job_id, sys.stdout)
        except TimeoutError:
            raise Failure(
                f"job {self._job_id} has not ended, or is not gone from its hosts, after "
                f"{_JOB_SECONDS} s; it takes seconds"
            ) from None
        (record,) = await describe(there, [self._job_id])
        self._job_id = ""
        return record

    async def _show_record(self, there: Coordinator, job: JobDetail) -> list[JobDetail]:
        nodes = await nodes_of(there, job)
        print("\n".join(render(job, nodes, self._style)), flush=True)
        return nodes

    async def end(self) -> list[str]:
        """Stop everything, however far it came; what was wrong about that."""
        return await self._end_job() + await self.cluster.stop(keep=self.args.keep)

    async def _end_job(self) -> list[str]:
        """Terminate the job that is under way, so that its nodes end before their agents."""
        job_id = self._job_id
        if not job_id:
            return []
        request = TerminateJobRequest(job_id=job_id, reason="the demo has ended")
        try:
            async with asyncio.timeout(_END_SECONDS), coordinator(self.cluster.connection) as there:
                await there.jobs.TerminateJob(request, timeout=ANSWER_SECONDS)
                async for _ in watch_job(there, job_id):
                    pass
        except Failure as failure:
            return [f"job {job_id} could not be ended: {failure}"]
        except TimeoutError:
            told = f"job {job_id} was not gone from its hosts {_END_SECONDS} s after its end"
            if self.args.engine != "process":
                told += f"; `{self.args.engine} ps --all` shows what is left of it"
            return [told]
        return []


def _expect(right: bool, what: str) -> None:
    if not right:
        raise Failure(f"the demo did not end as it should; not true: {what}")
    _say(f"as it should be: {what}")
