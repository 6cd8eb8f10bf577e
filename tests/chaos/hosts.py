"""The cluster of a campaign: real daemons, each agent in a network namespace of its own, each with
a wall clock that can be set wrong, and a coordinator whose settings change over a restart.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from tests.chaos.record import COORDINATOR, Period, Settings
from tests.components import missing
from tests.e2e.cluster import Cluster, Process, with_clock_of
from tests.e2e.namespaces import inside, ip, namespaces
from tests.engines import PODMAN, import_image, remove_image
from tests.witness import Witness

NETWORK = "10.213.79"
"""Its own, so that it may run beside the tests."""

_FIRST_MOMENTS_SECONDS = 3.0
_GOODBYE = b"the coordinator knows that what runs here goes on"
"""What an agent logs when it leaves with a goodbye that was acknowledged."""


def now() -> float:
    """The kernel's seconds since boot, as the witness's."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ChaosCluster(Cluster):
    """A coordinator and agents that may be put away, let go, cut off and told a wrong time.

    `faults` grows by what a daemon did that none may do.
    """

    def __init__(self, directory: Path, names: list[str], settings: Settings, image: str) -> None:
        args = ("--insecure", "--disk-reserve-mib", "1")
        super().__init__(directory, args, f"{NETWORK}.1:7400")
        self.settings = settings
        self.image = image
        self.periods: list[Period] = []
        self.faults: list[str] = []
        self.hosts_of: dict[str, list[str]] = {"process": [], "podman": []}
        seen = directory / "witness"
        seen.mkdir()
        self.witness = Witness(seen)
        self._plain = list(self.coordinator.argv)
        self._namespace: dict[str, str] = {}
        self._started: dict[str, float] = {}
        podman = 0 if missing("podman") else len(names) // 4
        for number, name in enumerate(names, 2):
            engine = "podman" if number > len(names) + 1 - podman else "process"
            host_id = f"{name.split('-')[1]}-{engine[:3]}{number}"
            # Told, as an agent that has no route finds none, and does not start.
            self._add(host_id, name, f"{NETWORK}.{number}", engine)

    def _add(self, host_id: str, name: str, address: str, engine: str) -> None:
        flags = ["--instance-type", engine]
        if engine == "podman":
            flags += [*PODMAN.agent_flags, f"--allow-host-paths={self.witness.directory}:rw"]
        agent = self.agent(host_id, address, *flags, prefix=inside(name), engine=engine)
        agent.argv = with_clock_of(self.clock(host_id), agent.argv)
        self._namespace[host_id] = name
        self.hosts_of[engine].append(host_id)

    def clock(self, target: str) -> Path:
        """The file that says by how many seconds the clock of a daemon is ahead."""
        return self.directory / f"{target}.ahead"

    def daemon(self, target: str) -> Process:
        """The coordinator, or the agent of a host."""
        return self.coordinator if target == COORDINATOR else self.agents[target]

    async def start_daemon(self, target: str) -> None:
        """Start what is not started; the coordinator with `settings`."""
        daemon = self.daemon(target)
        if daemon.is_started:
            return
        self._started[target] = now()
        if target == COORDINATOR:
            self.periods.append(Period(since=now(), settings=self.settings))
            plain = [*self._plain, *self.settings.flags]
            daemon.argv = with_clock_of(self.clock(target), plain)
        await daemon.start()

    async def end_daemon(self, target: str, signum: int) -> bool:
        """End it by a signal, and look at how it went. Whether it is an agent whose goodbye the
        coordinator has acknowledged."""
        daemon = self.daemon(target)
        said_before = daemon.log.stat().st_size
        is_new = now() - self._started.get(target, 0) < _FIRST_MOMENTS_SECONDS
        if self.note_fall(target):
            await daemon.end(signum)
            return False
        try:
            status = await daemon.end(signum)
        except TimeoutError:
            self.faults.append(f"{target} did not end within 30 s of signal {signum}")
            return False
        # Until the interpreter has come to the daemon's first line, a SIGTERM is its own end.
        if status not in ((0, -signal.SIGTERM) if is_new else (0,)) and signum == signal.SIGTERM:
            self.faults.append(f"{target} ended with status {status} when it was told to stop")
        return _GOODBYE in daemon.log.read_bytes()[said_before:]

    def note_fall(self, target: str) -> bool:
        """Whether a daemon has ended although nobody told it to."""
        status = self.daemon(target).fell
        if status is not None:
            self.faults.append(f"{target} ended by itself with status {status} at {now():.1f}")
        return status is not None

    def pull_cable(self, host_id: str) -> None:
        ip("-n", self._namespace[host_id], "link", "set", "eth0", "down")

    def plug_cable(self, host_id: str) -> None:
        ip("-n", self._namespace[host_id], "link", "set", "eth0", "up")

    def set_clock(self, target: str, ahead_seconds: int) -> None:
        """Step the wall clock of a daemon; 0 is right."""
        file = self.clock(target)
        new = file.with_suffix(".new")
        new.write_text(str(ahead_seconds))
        new.replace(file)

    def tracebacks(self) -> list[str]:
        """The last line of each traceback that a daemon has logged, with the daemon's name."""
        found = []
        for target in (COORDINATOR, *self.agents):
            text = self.daemon(target).log.read_text("utf-8", "replace")
            for part in text.split("Traceback (most recent call last)")[1:]:
                lines = part.splitlines()
                last = next((line for line in lines[1:] if line and not line.startswith(" ")), "?")
                found.append(f"{target} logged a traceback: {last}")
        return found

    def left(self) -> list[str]:
        """Processes and containers of all jobs that ever ran, and whatever else has this campaign's
        directory among its arguments."""
        job_ids = {file.name.partition("#")[0] for file in self.witness.directory.glob("*#*")}
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                environment = process.environ()
                job_id = environment.get("AWS_BATCH_JOB_ID", "").partition("#")[0]
                words = " ".join(" ".join(process.cmdline()).split())
                if process.pid != os.getpid() and (
                    job_id in job_ids or str(self.directory) in words
                ):
                    found.append(f"process {process.pid} of job {job_id or '?'}: {words[:300]}")
        if self.hosts_of["podman"]:
            template = '{{.ID}} {{index .Labels "muster.job"}} {{.Status}}'
            listed = subprocess.run(
                [*PODMAN.argv, "ps", "--all", "--format", template],
                capture_output=True, text=True, check=True, timeout=60,
            )  # fmt: skip
            lines = listed.stdout.splitlines()
            found += [f"container {line}" for line in lines if line.split()[1:2] and
                      line.split()[1] in job_ids]  # fmt: skip
        return found

    def sweep(self) -> None:
        """Kill what `left` finds, so that a campaign that failed leaves nothing either."""
        for line in self.left():
            kind, name = line.split()[:2]
            if kind == "process":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(name), signal.SIGKILL)
            else:
                subprocess.run([*PODMAN.argv, "rm", "--force", name], check=False, timeout=60)

    async def close(self) -> None:
        """End all daemons, also such as hang."""
        for target in (*self.agents, COORDINATOR):
            await self.end_daemon(target, signal.SIGTERM)
        if self._channel is not None:
            await self._channel.close()


@asynccontextmanager
async def chaos_cluster(
    directory: Path, agents: int, settings: Settings
) -> AsyncIterator[ChaosCluster]:
    """All started, and all hosts FREE. The daemons are ended with the context if they were not."""
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(namespaces(agents, NETWORK))
        image = f"localhost/muster-chaos-{names[0].split('-')[1]}:1"
        c = ChaosCluster(directory, names, settings, image)
        if c.hosts_of["podman"]:
            import_image(PODMAN, image, [])
            stack.callback(remove_image, PODMAN, image)
        try:
            for target in (COORDINATOR, *c.agents):
                await c.start_daemon(target)
            await c.until_hosts(dict.fromkeys(c.agents, "FREE"), 60)
            yield c
        finally:
            for target in (*c.agents, COORDINATOR):
                await c.daemon(target).end(signal.SIGKILL)
            c.sweep()
