"""Policy for what an agent says of a node: votes, the launch, main first, exits, release.

An observation holds all that was said before, so what a lost report would have told is made up
for here; what is late or older than what is known is taken and ignored. No I/O.
"""

from __future__ import annotations

from coordinator.core import astray
from coordinator.core import events as e
from coordinator.core.barrier import check_barrier, pass_barrier
from coordinator.core.capacity import could_run, refresh, wake
from coordinator.core.effects import Tail
from coordinator.core.ending import (
    EXITED,
    FAILED_TO_START,
    STOPPED_WITH_MAIN,
    check_timeout,
    end_attempt,
    fail_vote,
    host_gone,
)
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.inputs import Observation
from coordinator.core.placement import shortfall
from coordinator.core.reservation import abandon, refuse, refusing, retry_after_ms
from coordinator.core.state import Attempt, Job, NodeRun, Presence, Ran
from coordinator.core.states import NodeState, Progress
from coordinator.core.turn import Turn
from coordinator.core.unreadable import is_unreadable, observe_unreadable

VERIFIED = "the agent verified that nothing is left"


def held_node(turn: Turn, host_id: HostId, key: NodeKey) -> tuple[Job, Attempt, NodeRun] | None:
    """The node, if this host holds it now; an older reservation of it is not held."""
    if key not in turn.state.hosts[host_id].holds:
        return None
    job = turn.state.jobs[key.job_id]
    attempt = job.attempts[key.attempt - 1]
    return job, attempt, attempt.nodes[key.node_index]


def observe(turn: Turn, host_id: HostId, seen: Observation) -> None:
    """Take in what an agent says of one node."""
    if is_unreadable(turn.state, seen.key):
        observe_unreadable(turn, host_id, seen)
        return
    presence = turn.presence(host_id)
    held = held_node(turn, host_id, seen.key)
    if held is None or held[2].released or seen.key in presence.strays:
        _observe_stray(turn, host_id, seen)
        return
    job, attempt, node = held
    turn.touch_job(job.job_id, node.node_index)
    if not attempt.started:
        _take_vote(turn, job, attempt, node, seen)
        return
    if seen.log_tail is not None:
        turn.step.tails.append(Tail(key=seen.key, offset=seen.log_tail_offset, data=seen.log_tail))
    was_up = seen.was_up or seen.progress is Progress.UP or seen.exit_code is not None
    if node.state is NodeState.STARTING and was_up:
        _node_is_up(turn, job, attempt, node, seen)
    _measure(turn, job, attempt, node, seen)
    ended = seen.progress >= Progress.EXITED or seen.progress is Progress.REFUSED
    if ended and node.state in (NodeState.STARTING, NodeState.RUNNING):
        if _may_start_elsewhere(job, attempt, node, seen):
            if seen.progress is Progress.RELEASED:
                _start_elsewhere(turn, job, attempt, node, seen)
            return
        _node_has_ended(turn, job, attempt, node, seen)
    if seen.unclean_reason and seen.unclean_reason != node.unclean_reason:
        turn.emit(
            e.NodeUnclean(
                job_id=job.job_id,
                attempt=attempt.number,
                node_index=node.node_index,
                reason=seen.unclean_reason,
            )
        )
        turn.touch_host(host_id)
    if seen.progress is Progress.RELEASED:
        release(turn, job, attempt, node, VERIFIED)


def _measure(turn: Turn, job: Job, attempt: Attempt, node: NodeRun, seen: Observation) -> None:
    """How long a job runs is what main's agent measures: its clock is that of the container."""
    if seen.ran_ms is None or node.state is not NodeState.RUNNING:
        return
    if node.node_index == job.spec.main_node and not attempt.over:
        turn.presence(node.host_id).ran = Ran(key=seen.key, ms=seen.ran_ms, at_ms=turn.now)
        check_timeout(turn, job)


def _may_start_elsewhere(job: Job, attempt: Attempt, node: NodeRun, seen: Observation) -> bool:
    """The main has certainly not run, so another host may take it, once this one is clean."""
    return (
        seen.not_started
        and not seen.unclean_reason
        and node.node_index == job.spec.main_node
        and not attempt.over
        and attempt.stop_cause is None
    )


def _start_elsewhere(
    turn: Turn, job: Job, attempt: Attempt, node: NodeRun, seen: Observation
) -> None:
    """A host on which nothing starts must not use up the attempts of a job: the gang votes again
    without it. AWS Batch uses up an attempt; here that is done only when the hosts that can still
    be asked could not run the job, or enough hosts say that it is wrong wherever it runs."""
    turn.touch_gang(job)
    turn.emit(
        e.MainNotStarted(
            job_id=job.job_id,
            attempt=attempt.number,
            node_index=node.node_index,
            host_id=node.host_id,
            reason=seen.reason,
            permanent=seen.permanent,
            retry_after_ms=retry_after_ms(turn, job, node.host_id),
        )
    )
    turn.touch_job(job.job_id)
    turn.reschedule = True
    believed = seen.permanent and (
        job.permanent_refusals >= turn.settings.permanent_refusals_to_fail
    )
    # A host that only refused a vote, a while ago, may be asked again.
    left_out = {h: r for h, r in job.refusals.items() if r.not_started or r.permanent}
    refresh(turn.state, turn.settings)
    if believed or not could_run(turn.state, job, refusing=left_out | refusing(turn, job)):
        fail_vote(turn, job, seen.reason, FAILED_TO_START)
        return
    for other in list(attempt.nodes.values()):
        if turn.presence(other.host_id).lost:
            lose(turn, job, attempt, other)  # while main was starting, there was no vote to leave


def _blame(turn: Turn, job: Job, runs_on: HostId) -> None:
    """The main runs: other hosts where it failed to start may be at fault. A host with which that
    happened to jobs of several definitions is drained, with the evidence; jobs of one definition
    may ask for what only other hosts have."""
    for host_id, refusal in job.refusals.items():
        if not refusal.not_started or host_id == runs_on:
            continue
        presence = turn.state.presence.get(host_id)
        if presence is None:
            continue  # it has been forgotten since
        blamed = presence.blamed
        blamed[job.spec.definition_name] = job.job_id
        enough = len(blamed) >= turn.settings.failed_starts_to_drain
        if enough and not turn.state.hosts[host_id].draining:
            reason = (
                f"the main nodes of jobs {', '.join(blamed.values())}, of different definitions, "
                f"could not be started here and then ran on other hosts: {refusal.reason}"
            )
            turn.emit(e.HostDrained(host_id=host_id, reason=reason))
            turn.reschedule = True
            blamed.clear()


def _observe_stray(turn: Turn, host_id: HostId, seen: Observation) -> None:
    presence = turn.presence(host_id)
    turn.touch_host(host_id)
    if seen.progress is Progress.RELEASED:
        astray.let_go(turn, host_id, seen.key)
    if turn.state.outrun is not None:
        _let_be(presence, seen)
    elif seen.progress is not Progress.RELEASED:
        presence.strays[seen.key] = None
        astray.note(turn.state, host_id, seen)
    elif presence.strays.pop(seen.key, 0) is None:
        turn.reschedule = True


def _let_be(presence: Presence, seen: Observation) -> None:
    """The newer journal may know the node, and should find it as it is."""
    if seen.progress in (Progress.PREPARED, Progress.LAUNCHING, Progress.UP):
        presence.kept[seen.key] = seen.progress
    else:
        presence.kept.pop(seen.key, None)
    if seen.progress is Progress.RELEASED:
        presence.strays.pop(seen.key, None)


def _take_vote(turn: Turn, job: Job, attempt: Attempt, node: NodeRun, seen: Observation) -> None:
    if seen.progress in (Progress.REFUSED, Progress.EXITED, Progress.RELEASED):
        refuse(turn, job, node, seen.reason or "handed the node back", permanent=seen.permanent)
        if seen.permanent:
            _believe_refusals(turn, job, node, seen.reason)
    elif seen.progress is Progress.PREPARED and node.state is NodeState.PREPARING:
        # Older agents vote without an address, and then their host's own is meant.
        address = seen.private_ipv4 or turn.state.hosts[node.host_id].facts.private_ipv4
        if address and address in attempt.promised:
            other = attempt.nodes[attempt.promised[address]].host_id
            refuse(turn, job, node, _same_address(node.host_id, other, address))
            return
        turn.emit(
            e.NodePrepared(
                job_id=job.job_id,
                attempt=attempt.number,
                node_index=node.node_index,
                private_ipv4=seen.private_ipv4,
            )
        )
        start_if_ready(turn, job)


def _same_address(host_id: HostId, other: HostId, address: str) -> str:
    """Peers could not be told apart, and would reach themselves instead of each other."""
    return (
        f"MusterAddressError: {host_id} promised {address}, which {other} has promised too; each "
        "host needs a private_ip of its own, or for its containers a network with addresses that "
        "no other host gives out"
    )


def start_if_ready(turn: Turn, job: Job) -> None:
    """When all have voted the main node is launched, and it alone (aws-batch-spec section 7.2). Not
    while nothing may start: `placing.py` comes back to it."""
    attempt = job.current
    if attempt is None or attempt.started or not turn.state.may_start:
        return
    if attempt.prepared < job.spec.num_nodes:
        return
    if job.job_id in turn.state.astray:
        abandon(turn, job, "another attempt of it runs, which this journal does not know")
    else:
        _start_main(turn, job, attempt)


def _start_main(turn: Turn, job: Job, attempt: Attempt) -> None:
    turn.emit(e.AttemptStarted(job_id=job.job_id, attempt=attempt.number))
    turn.touch_host(attempt.nodes[job.spec.main_node].host_id)
    turn.touch_job(job.job_id, job.spec.main_node)


def _believe_refusals(turn: Turn, job: Job, node: NodeRun, reason: str) -> None:
    """It was said often enough that the job is wrong wherever it runs: the attempt fails as it
    would on AWS (aws-batch-spec section 7.6), instead of going from host to host for ever."""
    enough = turn.settings.permanent_refusals_to_fail
    refusers = {host_id for host_id, refusal in job.refusals.items() if refusal.permanent}
    if not _somebody_else(turn, job, node) or len(refusers) >= enough:
        fail_vote(turn, job, reason, FAILED_TO_START)
    elif job.refusals[node.host_id].count >= enough:
        # Others vote yes for nodes of theirs, and could not take this host's place as well.
        refresh(turn.state, turn.settings)
        if not could_run(turn.state, job, refusing=refusers):
            fail_vote(turn, job, reason, FAILED_TO_START)


def _somebody_else(turn: Turn, job: Job, node: NodeRun) -> bool:
    """Another host that has not refused could be asked to take the node, now or later."""
    group = job.group_of(node.node_index)
    for host_id, presence in turn.state.presence.items():
        facts = turn.state.hosts[host_id].facts
        if (
            host_id not in job.refusals
            and presence.is_here
            and not presence.unusable_reason
            and job.spec.instance_type in (None, facts.instance_type)
            and not shortfall(group, facts)
        ):
            return True
    return False


def _node_is_up(turn: Turn, job: Job, attempt: Attempt, node: NodeRun, seen: Observation) -> None:
    is_main = node.node_index == job.spec.main_node
    turn.presence(node.host_id).blamed.clear()
    if is_main:
        _blame(turn, job, node.host_id)
    turn.emit(
        e.NodeRunning(
            job_id=job.job_id,
            attempt=attempt.number,
            node_index=node.node_index,
            private_ipv4=seen.private_ipv4,
        )
    )
    if is_main and not attempt.over and attempt.stop_cause is None:
        # One fact launches all children: their assignments carry the address just learned.
        turn.emit(e.ChildrenLaunched(job_id=job.job_id, attempt=attempt.number))
        turn.touch_gang(job)
        _miss_children(turn, job, attempt)
        check_timeout(turn, job)
        check_barrier(turn, job)
    if not attempt.over and attempt.stop_cause is None:
        pass_barrier(turn, job, attempt)


def _miss_children(turn: Turn, job: Job, attempt: Attempt) -> None:
    """A child whose host went while main was starting fails at its launch, and harms nobody."""
    for node in attempt.nodes.values():
        if node.state is not NodeState.STARTING:
            continue
        if node.released:
            turn.emit(
                e.NodeExited(
                    job_id=job.job_id,
                    attempt=attempt.number,
                    node_index=node.node_index,
                    exit_code=None,
                    reason=f"host {node.host_id} had let go of the node before its launch",
                    status_reason=FAILED_TO_START,
                )
            )
        elif turn.presence(node.host_id).lost:
            # It waits for the verdict, which may be due.
            turn.timers.arm("host", node.host_id, turn.now)


def _end_reason(attempt: Attempt, node: NodeRun) -> str:
    """The statusReason of a node that ended: the first cause is the one that counts."""
    if node.stop_reason is not None:
        return node.stop_reason
    if attempt.stop_cause is not None:
        return attempt.stop_cause
    if attempt.over:
        return STOPPED_WITH_MAIN
    return EXITED if node.started_at_ms else FAILED_TO_START


def _node_has_ended(
    turn: Turn, job: Job, attempt: Attempt, node: NodeRun, seen: Observation
) -> None:
    # A host that came back from a reboot reports an end whose code nobody can know; and the code of
    # a container that its own agent stopped, for want of contact, says nothing of the job.
    gone = seen.lease_ended or (seen.exit_code is None and node.started_at_ms and not seen.reason)
    turn.emit(
        e.NodeExited(
            job_id=job.job_id,
            attempt=attempt.number,
            node_index=node.node_index,
            exit_code=None if seen.lease_ended else seen.exit_code,
            reason=seen.reason,
            status_reason=(host_gone(node.host_id) if gone else _end_reason(attempt, node)),
        )
    )
    turn.touch_host(node.host_id)
    if node.node_index == job.spec.main_node and not attempt.over:
        end_attempt(turn, job, attempt)
    else:
        check_barrier(turn, job)


def lose(turn: Turn, job: Job, attempt: Attempt, node: NodeRun) -> None:
    """The verdict on a node of a silent host, or its host is gone. A lost main ends the attempt, a
    lost child only itself. A host leaves a vote; a child that is not launched yet has nothing to
    lose before it is."""
    if not attempt.started:
        refuse(turn, job, node, host_gone(node.host_id))
        return
    if node.state not in (NodeState.STARTING, NodeState.RUNNING):
        return
    turn.emit(
        e.NodeLost(
            job_id=job.job_id,
            attempt=attempt.number,
            node_index=node.node_index,
            status_reason=attempt.stop_cause or host_gone(node.host_id),
        )
    )
    turn.touch_job(job.job_id, node.node_index)
    turn.touch_host(node.host_id)
    if node.node_index == job.spec.main_node and not attempt.over:
        end_attempt(turn, job, attempt)
    else:
        check_barrier(turn, job)


def release(turn: Turn, job: Job, attempt: Attempt, node: NodeRun, proof: str) -> None:
    """Nothing of the node is left on its host. Idempotent."""
    if node.released:
        return
    turn.emit(
        e.NodeReleased(
            job_id=job.job_id,
            attempt=attempt.number,
            node_index=node.node_index,
            proof=proof,
        )
    )
    turn.touch_host(node.host_id)
    turn.touch_job(job.job_id, node.node_index)
    if not job.unsettled:
        wake(turn.state, job.job_id)
    turn.reschedule = True
