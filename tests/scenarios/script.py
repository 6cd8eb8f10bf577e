"""A small language for the life of jobs, and the transcript that a script makes.

A script is blocks of commands, each followed by `----` and what happened: the facts as people are
told them, `->` what a host is told, `=` the state a job moved to. The recorded output is reviewed
like code (raft's interaction tests), and rewritten with `--bless` or MUSTER_BLESS=1.

    hosts N [type=T]                       submit NAME [nodes=N] [main=N] [attempts=N] [timeout=S]
    vote yes HOST...                              [after=NAME,...] [queue=Q]
    vote no|never HOST REASON              cancel|terminate NAME[#N] REASON
    up HOST...                             queue NAME [priority=N]
    exit HOST CODE [REASON]                drain|resume|fence HOST
    nostart HOST REASON                    wait SECONDS [silent=HOST,...]
    unclean HOST REASON                    hangup HOST
    released HOST...                       back HOST [PROGRESS]      a new session, which tells it
    reboot HOST                            restart                   of the coordinator
    explain NAME                           describe NAME
    vote yes HOST at=ADDRESS               which is the address that it promises
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.errors import Rejected
from coordinator.core.explain import explain
from coordinator.core.ids import HostId, JobId, NodeKey
from coordinator.core.states import JobState, Progress
from coordinator.core.story import tell
from tests.core.harness import Cluster

SEPARATOR = "----"


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """(comment, commands) of every block; recorded output is left out."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        comments = [line for line in lines if line.startswith("#")]
        rest = [line for line in lines if not line.startswith("#")]
        end = rest.index(SEPARATOR) if SEPARATOR in rest else len(rest)
        found.append(("\n".join(comments), rest[:end]))
    return found


def play(text: str) -> str:
    """The script with what happens now as its output."""
    script = Script()
    told = []
    for comment, commands in blocks(text):
        lines = [comment] if comment else []
        lines += commands
        if commands:
            lines.append(SEPARATOR)
            for command in commands:
                lines += script.run(command)
        told.append("\n".join(lines))
    script.cluster.machine.check()
    script.cluster.replayed()
    return "\n\n".join(told) + "\n"


class Script:
    """One cluster and what was already told of it."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self._facts = len(self.cluster.journal)
        self._sent: dict[HostId, str] = {}
        self._states: dict[JobId, JobState] = {}
        self._keys: dict[str, NodeKey] = {}
        self._boots: dict[str, int] = {}
        """The node that each host was last told of."""

    def run(self, line: str) -> list[str]:
        """Obey one command; returns what there is to tell."""
        verb, *words = line.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        said: list[str] = []
        try:
            said = _COMMANDS[verb](self, plain, options) or []
        except Rejected as rejected:
            said = [f"refused: {rejected}"]
        return self._told() + said

    def _told(self) -> list[str]:
        lines = [_sentence(stamped.event) for stamped in self.cluster.journal[self._facts :]]
        self._facts = len(self.cluster.journal)
        for host, assignments in self.cluster.sent.items():
            wanted = ", ".join(f"{a.desired} {a.key}" for a in assignments) or "nothing"
            if assignments:
                self._keys[host] = assignments[0].key
            if self._sent.get(host, "nothing") != wanted:
                lines.append(f"-> {host}: {wanted}")
            self._sent[host] = wanted
        jobs = self.cluster.archived | self.cluster.state.jobs
        for job_id, job in jobs.items():
            if self._states.get(job_id) is not job.state:
                self._states[job_id] = job.state
                why = f": {job.status_reason}" if job.state.is_terminal else ""
                lines.append(f"= {job_id} {job.state}{why}")
        return lines

    # commands

    def hosts(self, words: list[str], options: dict[str, str]) -> None:
        facts = {"instance_type": options["type"]} if "type" in options else {}
        self.cluster.hosts(int(words[0]), **facts)

    def submit(self, words: list[str], options: dict[str, str]) -> None:
        numbers = ("nodes", "main", "attempts", "timeout")
        members: dict[str, Any] = {n: int(options[n]) for n in numbers if n in options}
        members.setdefault("nodes", 1)
        if "after" in options:
            members["after"] = tuple(JobId(name) for name in options["after"].split(","))
        if "queue" in options:
            members["queue"] = options["queue"]
        self.cluster.submit(job_id=words[0], name=words[0], **members)

    def vote(self, words: list[str], options: dict[str, str]) -> None:
        answer, host, *rest = words
        if answer == "yes":
            self.cluster.prepared(host, *rest, address=options.get("at", ""))
        else:
            self.cluster.refused(host, " ".join(rest), permanent=answer == "never")

    def up(self, words: list[str], options: dict[str, str]) -> None:
        self.cluster.up(*words)

    def exit(self, words: list[str], options: dict[str, str]) -> None:
        host, code, *reason = words
        self._says(host, Progress.EXITED, exit_code=int(code), reason=" ".join(reason))

    def nostart(self, words: list[str], options: dict[str, str]) -> None:
        self.cluster.says(words[0], Progress.EXITED, reason=" ".join(words[1:]))

    def broken(self, words: list[str], options: dict[str, str]) -> None:
        host, *reason = words
        for progress in (Progress.EXITED, Progress.RELEASED):
            key, why = self._keys[host], " ".join(reason)
            self.cluster.says(host, progress, key, reason=why, not_started=True)

    def unclean(self, words: list[str], options: dict[str, str]) -> None:
        self._says(words[0], Progress.EXITED, unclean_reason=" ".join(words[1:]))

    def released(self, words: list[str], options: dict[str, str]) -> None:
        for host in words:
            self._says(host, Progress.RELEASED)

    def _says(self, host: str, progress: Progress, **members: Any) -> None:
        self.cluster.says(host, progress, self._keys[host], was_up=True, **members)

    def back(self, words: list[str], options: dict[str, str]) -> None:
        host, *progress = words
        seen = [
            i.Observation(key=self._keys[host], progress=Progress[name], was_up=True)
            for name in progress
        ]
        self.cluster.hello(host, *seen)

    def reboot(self, words: list[str], options: dict[str, str]) -> None:
        boot = self._boots[words[0]] = self._boots.get(words[0], 1) + 1
        self.cluster.hello(words[0], boot_id=f"boot-{boot}")

    def hangup(self, words: list[str], options: dict[str, str]) -> None:
        self.cluster.hang_up(words[0])

    def restart(self, words: list[str], options: dict[str, str]) -> None:
        self.cluster.restart()
        self._sent.clear()

    def wait(self, words: list[str], options: dict[str, str]) -> None:
        self.cluster.wait(float(words[0]), silent=tuple(options.get("silent", "").split(",")))

    def cancel(self, words: list[str], options: dict[str, str]) -> None:
        self.cluster.cancel(*_node(words[0]), " ".join(words[1:]))

    def terminate(self, words: list[str], options: dict[str, str]) -> None:
        self.cluster.terminate(*_node(words[0]), " ".join(words[1:]))

    def queue(self, words: list[str], options: dict[str, str]) -> None:
        self.cluster.queue(words[0], int(options.get("priority", "1")))

    def drain(self, words: list[str], options: dict[str, str]) -> None:
        self.cluster.drain(words[0], " ".join(words[1:]))

    def resume(self, words: list[str], options: dict[str, str]) -> None:
        self.cluster.do(i.ResumeHost(host_id=HostId(words[0])))

    def fence(self, words: list[str], options: dict[str, str]) -> None:
        self.cluster.do(i.FenceHost(host_id=HostId(words[0])))

    def explain(self, words: list[str], options: dict[str, str]) -> list[str]:
        cluster = self.cluster
        found = explain(cluster.state, cluster.settings, cluster.job(JobId(words[0])))
        return [found.summary, *(f"  {v.host_id} {v.reason}" for v in found.hosts)]

    def describe(self, words: list[str], options: dict[str, str]) -> list[str]:
        job = self.cluster.job(JobId(words[0]))
        lines = [f"{job.job_id} {job.state} {job.status_reason}".rstrip()]
        for attempt in job.attempts:
            over = attempt.status_reason if attempt.over else "goes on"
            lines.append(f"  attempt {attempt.number}: {over}")
            for node in attempt.nodes.values():
                code = "" if node.exit_code is None else f" exit {node.exit_code}"
                left = "" if node.released else ", not released"
                why = f" {node.status_reason}" if node.status_reason else ""
                lines.append(f"    #{node.node_index} {node.host_id} {node.state}{code}{why}{left}")
        return lines


def _node(text: str) -> tuple[JobId, int | None]:
    job_id, _, index = text.partition("#")
    return JobId(job_id), int(index) if index else None


def _sentence(event: e.Event) -> str:
    match event:
        case e.HostRegistered():
            return f"{event.host_id} registered: {event.instance_type}, {event.boot_id}"
        case e.HostDrained() | e.HostResumed():
            return f"{event.host_id} {type(event).__name__}"
        case e.CoordinatorStarted():
            return f"coordinator started, epoch {event.epoch}"
        case e.DefinitionRegistered():
            return f"definition {event.definition.job_definition_name} registered"
        case e.QueueCreated():
            return f"queue {event.name} created, priority {event.priority}"
        case _ if isinstance(event, e.ClusterEvent):
            return f"{event}"
    kind, sentence, node_index = tell(event)
    where = f"{event.job_id}#{node_index}" if node_index is not None else event.job_id
    return f"{where} {kind}: {sentence}"


_COMMANDS: dict[str, Callable[[Script, list[str], dict[str, str]], list[str] | None]] = {
    name: getattr(Script, name)
    for name in (
        *("hosts", "submit", "vote", "up", "exit", "nostart", "broken", "unclean", "released"),
        *("back", "reboot", "hangup", "restart", "wait", "cancel", "terminate", "queue"),
        *("drain", "resume", "fence", "explain", "describe"),
    )
}
