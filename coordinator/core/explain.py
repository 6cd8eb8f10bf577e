"""Why a job waits, host by host, or where its nodes are: what `muster explain` and a statusReason
say.

The sentences that AWS is known to send come first and verbatim, since clients look for them
(aws-batch-spec section 13); what follows in parentheses is ours. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from coordinator.core.capacity import shape_of
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.leftovers import Leftover, leftovers, may_run, unsettled_dependency
from coordinator.core.lineage import kept_because, why_nothing_starts
from coordinator.core.names import clip
from coordinator.core.placement import place, shortfall
from coordinator.core.settings import Settings
from coordinator.core.state import Attempt, ClusterState, Job, NodeRun
from coordinator.core.states import JobState
from coordinator.core.unreadable import names_of

CAPACITY = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY"
MAX_RESOURCE = "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE"
REQUIREMENT = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT"

_TEXTS = {
    CAPACITY: ("Service cannot fulfill the capacity requested for instance type [{instance_type}]"),
    MAX_RESOURCE: (
        "CE(s) associated with the job queue cannot meet the CPU requirement of the job."
    ),
    REQUIREMENT: (
        "The job resource requirement (vCPU/memory/GPU) is higher than that can be met by the "
        "CE(s) attached to the job queue."
    ),
}

_KNOWN_FOR_MS = 86_400_000
"""A host that was not heard for so long, nor since the coordinator's start within that time, says
nothing about what the cluster could run."""
_REASON_CHARS = 300
"""How much is shown of what a host says: an OSError with a long path would fill pages."""
_MOST_NAMED = 3
_MOST_NODES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    host_id: HostId
    usable: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    summary: str
    status_reason: str | None
    needs: tuple[str, ...]
    hosts: tuple[Verdict, ...]
    nodes: tuple[str, ...]


def clock(at_ms: int) -> str:
    """A time of day for people, in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def waiting_code(state: ClusterState, job: Job) -> str:
    """AWS's code for why a job is stuck: could the hosts that were seen in the last day ever do,
    when all are free? Kept by the shape of the job until other hosts are counted on, so that it
    may be some time before a host that was not seen for a day makes a difference."""
    shape = shape_of(job)
    if shape not in state.waiting_codes:
        state.waiting_codes[shape] = _waiting_code(state, job)
    return state.waiting_codes[shape]


def _waiting_code(state: ClusterState, job: Job) -> str:
    known = {
        host_id: host.facts
        for host_id, host in state.hosts.items()
        if state.now_ms - state.presence[host_id].last_contact_ms < _KNOWN_FOR_MS
    }
    everyone = range(job.spec.num_nodes)
    if place(job.spec, everyone, known) is not None:
        return CAPACITY
    wanted = [
        facts for facts in known.values() if job.spec.instance_type in (None, facts.instance_type)
    ]
    if known and not wanted:
        return REQUIREMENT
    groups = [group for group in job.spec.groups if group.nodes]
    if wanted and not any(not shortfall(g, facts) for g in groups for facts in wanted):
        return REQUIREMENT
    if any(all(shortfall(group, facts) for facts in wanted) for group in groups) and wanted:
        return REQUIREMENT
    # Enough for each node, too few for all of them: more hosts would do, as on AWS more would.
    return CAPACITY


def status_reason(state: ClusterState, settings: Settings, job: Job) -> str | None:
    """What DescribeJobs says of a job that waits or is being stopped, else None. An ended job has
    a reason of its own."""
    if job.set_aside and not job.state.is_terminal:
        return _unreadable(state, job)
    if job.state is JobState.PENDING:
        waiting = ", ".join(job.waits_for)
        return f"Waiting for the jobs it depends on: {waiting}"
    if job.is_being_stopped:
        return _stopping(job.attempts[-1])
    if job.state in (JobState.STARTING, JobState.RUNNING):
        return _silence(state, job, job.attempts[-1])
    if job.state is JobState.RUNNABLE and state.outrun is not None:
        return why_nothing_starts(state)
    if job.state is not JobState.RUNNABLE or job.current is not None:
        return None
    if may_run(state, job):
        return f"Waiting until nothing of the last attempt runs: {_proof(state, settings, job)}"
    dependency = unsettled_dependency(state, job)
    if dependency is not None:
        return (
            f"Waiting until nothing runs of job {dependency.job_id}, which it depends on: "
            f"{_proof(state, settings, dependency)}"
        )
    if not state.may_start:
        return why_nothing_starts(state)
    if job.job_id not in state.passed_over:
        ahead = _ahead_of(state, job)
        if ahead is not None:
            return f"Behind job {ahead.job_id} in job queue {job.job_queue}"
    code = waiting_code(state, job)
    text = _TEXTS[code].format(instance_type=job.spec.instance_type or _likely_type(state))
    return f"{code} - {text} ({_shortage(state, job)})"


def _unreadable(state: ClusterState, job: Job) -> str:
    if job.may_be_on:
        on = names_of(job.may_be_on)
        where = f"it may still run on {on}; nothing else is placed there before it is gone"
    elif uncalled := [host for host, presence in state.presence.items() if not presence.seen]:
        where = (
            "no host that has called since the coordinator started has anything of it, but these "
            f"have not called: {names_of(uncalled)}; to give it up nevertheless, so that what they "
            f"have of it is stopped when they call: muster terminate {job.job_id}"
        )
    else:
        where = f"no host has anything of it; to give it up: muster terminate {job.job_id}"
    return f"UNREADABLE: {job.set_aside}; nothing of it is started or stopped, and {where}"


def _silence(state: ClusterState, job: Job, attempt: Attempt) -> str | None:
    """Main's host is silent: since when, and until when it is waited for."""
    host_id = attempt.nodes[job.spec.main_node].host_id
    host, presence = state.hosts[host_id], state.presence[host_id]
    if NodeKey(job.job_id, attempt.number, job.spec.main_node) in host.goes_on:
        return (
            f"The agent of the main node's host {host_id} was stopped at "
            f"{clock(host.stopped_at_ms)}; the job goes on. Start the agent again; or, if the "
            f"machine is off, run: muster hosts fence {host_id}"
        )
    if not presence.lost:
        return None
    since = clock(state.wall_of(presence.last_contact_ms))
    if presence.verdict_at_ms is None:
        return f"The main node's host {host_id} is silent since {since}; it is waited for"
    until = clock(state.wall_of(presence.verdict_at_ms))
    return (
        f"The main node's host {host_id} is silent since {since}; the job goes on, and the attempt "
        f"fails at {until} unless the host is heard before"
    )


def _stopping(attempt: Attempt) -> str:
    """It can take long: an engine hangs, or a host cannot be cleaned up."""
    unclean = [node for node in attempt.nodes.values() if node.unclean_reason and not node.released]
    told = [
        f"host {node.host_id} cannot be cleaned up: {clip(node.unclean_reason, _REASON_CHARS)}"
        for node in unclean[:_MOST_NAMED]
    ]
    if len(unclean) > _MOST_NAMED:
        told.append(f"nor can {_hosts(len(unclean) - _MOST_NAMED, 'more host')}")
    return "; ".join([f"Stopping: {attempt.stop_cause}", *told])


def _likely_type(state: ClusterState) -> str:
    types = {host.facts.instance_type: None for host in state.hosts.values()}
    return next(iter(types)) if len(types) == 1 else "any"


def _ahead_of(state: ClusterState, job: Job) -> Job | None:
    for _, job_id in state.queues[job.job_queue].runnable:
        other = state.jobs[job_id]
        if other is job:
            return None
        if job_id not in state.passed_over:
            return other
    return None


def _shortage(state: ClusterState, job: Job) -> str:
    verdicts = [_verdict(state, job, host_id) for host_id in sorted(state.hosts)]
    usable = sum(verdict.usable for verdict in verdicts)
    needed = _hosts(job.spec.num_nodes, "free host")
    sentence = f"needs {needed}; {usable} of {len(verdicts)} can take a node"
    wanted = job.spec.instance_type
    if wanted is not None and all(h.facts.instance_type != wanted for h in state.hosts.values()):
        # Without this, AWS's sentence on sizes would lead astray.
        sentence = f"no host has instance type {wanted}; {sentence}"
    is_passed_over = job.job_id in state.passed_over
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        # Of a job that could not run if all were free, it is no reason that a host is busy.
        if not verdict.usable and not (is_passed_over and state.hosts[verdict.host_id].holds):
            reasons.setdefault(verdict.reason, []).append(verdict.host_id)
    shown = [
        f"{', '.join(hosts[:3])}{f' and {len(hosts) - 3} more' if len(hosts) > 3 else ''}: {why}"
        for why, hosts in list(reasons.items())[:_MOST_NAMED]
    ]
    if is_passed_over:
        shown.append(_passed_over(state, job))
    return "; ".join([sentence, *shown])


def _passed_over(state: ClusterState, job: Job) -> str:
    spec = job.spec
    fit = sum(
        host_id not in job.refusals
        and spec.instance_type in (None, facts.instance_type)
        and any(not shortfall(group, facts) for group in spec.groups if group.nodes)
        for host_id, facts in state.counted_on.items()
    )
    few = f"only {_hosts(fit, 'host')} would do if all were free"
    if fit >= spec.num_nodes:
        few = "the hosts that are there could not run it together if all were free"
    return (
        f"{few}, so the job keeps its place and holds up nobody; connect hosts that fit, or submit "
        "it for fewer or smaller nodes"
    )


def _verdict(state: ClusterState, job: Job, host_id: HostId) -> Verdict:
    reason = _obstacle(state, job, host_id)
    return Verdict(host_id=host_id, usable=not reason, reason=reason or "can take a node now")


def _obstacle(state: ClusterState, job: Job, host_id: HostId) -> str:
    """The first thing that keeps the host from taking a node of this job; empty when nothing."""
    host, presence = state.hosts[host_id], state.presence[host_id]
    wanted = job.spec.instance_type
    if wanted is not None and host.facts.instance_type != wanted:
        return f"is of instance type {host.facts.instance_type}, the job needs {wanted}"
    sizes = [shortfall(group, host.facts) for group in job.spec.groups if group.nodes]
    if all(sizes):
        return sizes[0]
    # An agent that is back and cannot look at its host yet says itself what is the matter.
    if host.stopped_at_ms and not presence.is_here:
        return f"is STOPPED: its agent was stopped at {clock(host.stopped_at_ms)}"
    if presence.lost:
        return f"is LOST: silent since {clock(state.wall_of(presence.last_contact_ms))}"
    if presence.session_id is None:
        return "its agent is not connected"
    if presence.unusable_reason:
        return clip(presence.unusable_reason, _REASON_CHARS)
    quarantine = quarantine_reason(state, host_id)
    if quarantine:
        return f"is QUARANTINED: {clip(quarantine, _REASON_CHARS)}"
    if host.draining:
        why = clip(host.drain_reason, _REASON_CHARS)
        return f"is draining{f': {why}' if why else ''}"
    if host.holds:
        key = next(iter(host.holds))
        return f"holds node {key.node_index} of job {key.job_id}"
    if presence.kept:
        kept = next(iter(presence.kept))
        return f"may still run {kept}, which {kept_because(state, kept)}"
    if presence.strays:
        return f"is letting go of {next(iter(presence.strays))}"
    refusal = job.refusals.get(host_id)
    if refusal is not None:
        why = clip(refusal.reason, _REASON_CHARS)
        what = "could not start the main node" if refusal.not_started else "voted no"
        return f"{what}: {why} (asked again after {clock(refusal.retry_after_ms)})"
    return ""


def quarantine_reason(state: ClusterState, host_id: HostId) -> str:
    """Why a host cannot be proven clean; empty when it is not quarantined."""
    for key in state.hosts[host_id].holds:
        node = state.jobs[key.job_id].node(key)
        if node is not None and node.unclean_reason:
            return node.unclean_reason
    return ""


def _proof(state: ClusterState, settings: Settings, job: Job) -> str:
    """What is waited for, and until when, before anything is started after this job's attempts:
    never two attempts alive."""
    found = leftovers(state, settings, job)
    told = [_proof_awaited(left) for left in found[:_MOST_NAMED]]
    if len(found) > _MOST_NAMED:
        told.append(f"and {len(found) - _MOST_NAMED} more")
    return "; ".join(told)


def _proof_awaited(left: Leftover) -> str:
    where = f"node {left.node_index} of attempt {left.attempt} on {left.host_id}"
    if left.unclean_reason and not left.is_silent:
        return (
            f"{where} cannot be cleaned up: {clip(left.unclean_reason, _REASON_CHARS)}; goes on "
            "when it can, or when the machine has rebooted"
        )
    if not left.is_silent:
        return f"{where} is being stopped"
    if left.goes_on:
        return (
            f"{where} goes on, as the agent there was stopped; start the agent again, or, if the "
            f"machine is off, run: muster hosts fence {left.host_id}"
        )
    sentence = (
        f"{where} may still run, as the host is silent; goes on when the host is back and clean, "
        f"or has rebooted, or an operator runs: muster hosts fence {left.host_id}"
    )
    return sentence if left.until_ms is None else f"{sentence}; or at {clock(left.until_ms)}"


def explain(state: ClusterState, settings: Settings, job: Job) -> Explanation:
    """Everything there is to say about why a job is where it is."""
    reason = status_reason(state, settings, job)
    hosts: tuple[Verdict, ...] = ()
    if job.state is JobState.RUNNABLE:
        hosts = tuple(_verdict(state, job, host_id) for host_id in sorted(state.hosts))
    is_placed = job.state in (JobState.STARTING, JobState.RUNNING)
    return Explanation(
        summary=reason or _summary(job),
        status_reason=reason,
        needs=() if is_placed or job.state.is_terminal else _needs(job),
        hosts=hosts,
        nodes=_nodes(state, job) if is_placed and job.attempts else (),
    )


def _nodes(state: ClusterState, job: Job) -> tuple[str, ...]:
    """Where the nodes of a job that runs are, and what becomes of them: the main first, then those
    that something is the matter with."""
    attempt, main = job.attempts[-1], job.spec.main_node
    plights = {
        node.node_index: _plight(state, job, attempt, node) for node in attempt.nodes.values()
    }
    order = sorted(plights, key=lambda index: (index != main, not plights[index], index))
    told = [
        f"node {index}{' (main)' * (index == main)} is {attempt.nodes[index].state} on "
        f"{attempt.nodes[index].host_id}{plights[index] and f', {plights[index]}'}"
        for index in order[:_MOST_NODES]
    ]
    if len(order) > _MOST_NODES:
        told.append(f"and {len(order) - _MOST_NODES} nodes more")
    tries = f"attempt {attempt.number} of {job.spec.attempts}"
    return (f"{tries}; the job ends when its main node does", *told)


def _plight(state: ClusterState, job: Job, attempt: Attempt, node: NodeRun) -> str:
    """What is the matter with a node that has not ended, or with its host; empty when nothing."""
    host, presence = state.hosts[node.host_id], state.presence[node.host_id]
    if node.state.is_terminal:
        return ""
    if NodeKey(job.job_id, attempt.number, node.node_index) in host.goes_on:
        return f"whose agent was stopped at {clock(host.stopped_at_ms)}; it goes on without it"
    if presence.lost and presence.verdict_at_ms is not None:
        until = clock(state.wall_of(presence.verdict_at_ms))
        since = clock(state.wall_of(presence.last_contact_ms))
        return f"which is silent since {since}; it fails at {until} unless the host is heard before"
    if presence.lost:
        return f"which is silent since {clock(state.wall_of(presence.last_contact_ms))}"
    if presence.session_id is None:
        return "whose agent is not connected"
    return clip(presence.unusable_reason, _REASON_CHARS)


def _summary(job: Job) -> str:
    attempt = job.current
    if job.state is JobState.RUNNABLE and attempt is not None:
        asked = [n.host_id for n in attempt.nodes.values() if n.state == "PREPARING"]
        return (
            f"Hosts are reserved and prepare attempt {attempt.number}: {attempt.prepared} of "
            f"{job.spec.num_nodes} are ready; waiting for {', '.join(asked[:5]) or 'nobody'}"
        )
    if job.state.is_terminal:
        return f"The job has ended: {job.status_reason}"
    return f"The job does not wait: it is {job.state}"


def _hosts(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _needs(job: Job) -> tuple[str, ...]:
    spec = job.spec
    kind = f"instance type {spec.instance_type}" if spec.instance_type else "any one instance type"
    needs = [f"{_hosts(spec.num_nodes, 'host')} of {kind}, at once"]
    for group in spec.groups:
        if group.nodes:
            gpus = f", {group.gpus} GPUs" if group.gpus else ""
            needs.append(
                f'for nodes "{group.target_nodes}" {_hosts(len(group.nodes), "host")} with '
                f"{group.vcpus} vCPUs, {group.memory_mib} MiB of memory{gpus}"
            )
    return tuple(needs)
