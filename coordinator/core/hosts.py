"""Policy for hosts: who they are, what they say, and what operators say of them.

What silence means is in `silence.py`. A node is released by proof only: its agent says that
nothing is left, the machine has rebooted, an operator fences the host, or everything there has
stopped by itself because its lease ran out. No I/O.
"""

from __future__ import annotations

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.effects import (
    CloseSession,
    SendGoodbyeAck,
    SendHeartbeatAck,
    SendWelcome,
)
from coordinator.core.errors import Conflict, DuplicateAgent, NotFound
from coordinator.core.gang import held_node, lose, observe, release
from coordinator.core.ids import HostId
from coordinator.core.lease import default_verdict_seconds
from coordinator.core.leftovers import may_run_on
from coordinator.core.placing import acknowledge, has_called, look_at
from coordinator.core.silence import contact, give_up, leave_votes, release_all, show_jobs
from coordinator.core.state import Host, Presence
from coordinator.core.states import NodeState
from coordinator.core.turn import Turn
from coordinator.core.unreadable import leave_all, miss

REBOOTED = "the host has rebooted"
FENCED = "an operator fenced the host"


def hello(turn: Turn, hello: i.HostHello) -> None:
    """Open a session. The newest session of an agent wins; another machine is refused."""
    host = turn.state.hosts.get(hello.host_id)
    if host is not None and host.facts.agent_uuid not in ("", hello.agent_uuid):
        _admit_replacement(turn, host)
    else:
        _refuse_stale(turn, hello)
    facts = _facts(hello)
    # Both are unknown where a repair had to set them aside.
    rebooted = host is not None and host.facts.boot_id not in ("", hello.boot_id)
    if host is None or host.facts != facts:
        turn.emit(facts)
    if host is not None and host.stopped_at_ms:
        turn.emit(e.AgentReturned(host_id=hello.host_id))
    presence = turn.state.presence.setdefault(hello.host_id, Presence(last_contact_ms=turn.now))
    is_awaited = host is not None and not presence.seen
    look_at(turn, hello)
    if presence.session_id is not None:
        turn.effect(
            CloseSession(
                session_id=presence.session_id,
                message=f"a newer session of host {hello.host_id} took over",
            )
        )
        turn.state.sessions.pop(presence.session_id, None)
    turn.state.sessions[hello.session_id] = hello.host_id
    presence.session_id = hello.session_id
    presence.incarnation = hello.incarnation
    if bool(hello.unusable_reason) != bool(presence.unusable_reason):
        presence.unusable_since_ms = turn.now
        # Nobody waits for its capacity from then on.
        verdict_ms = 1000 * default_verdict_seconds(turn.settings)
        turn.timers.arm("schedule", hello.host_id, turn.now + verdict_ms)
    presence.unusable_reason = hello.unusable_reason
    presence.strays, presence.kept = {}, {}
    presence.owed_ack = None
    contact(turn, hello.host_id, presence)
    turn.effect(SendWelcome(session_id=hello.session_id, heartbeat_ms=turn.settings.heartbeat_ms))
    if rebooted:
        release_all(turn, hello.host_id, REBOOTED)
    _compare(turn, hello)
    if is_awaited:
        has_called(turn)
    turn.touch_host(hello.host_id)
    turn.reschedule = True


def _facts(hello: i.HostHello) -> e.HostRegistered:
    return e.HostRegistered(
        host_id=hello.host_id,
        agent_uuid=hello.agent_uuid,
        boot_id=hello.boot_id,
        version=hello.version,
        engine=hello.engine,
        instance_type=hello.instance_type,
        vcpus=hello.vcpus,
        memory_mib=hello.memory_mib,
        gpus=hello.gpus,
        private_ipv4=hello.private_ipv4,
        labels=hello.labels,
    )


def _admit_replacement(turn: Turn, host: Host) -> None:
    """Another agent uuid: a second machine, or the same one set up anew. Only when the old one is
    certainly not there any more may the new one speak for the host."""
    host_id = host.facts.host_id
    presence = turn.state.presence.get(host_id)
    if presence is not None and not presence.lost:
        raise DuplicateAgent(
            f"host id {host_id} belongs to another agent (uuid {host.facts.agent_uuid}), heard "
            f"within the last {turn.settings.lost_after_ms // 1000} s; give this machine another "
            "--host-id, or stop the other agent and wait until the host is LOST"
        )
    held = _may_run(turn, host_id)
    if held:
        raise DuplicateAgent(
            f"host id {host_id} belongs to another agent (uuid {host.facts.agent_uuid}), which is "
            f"lost and may still run {held}; when that machine is certainly off, run: muster hosts "
            f"fence {host_id}"
        )


def _may_run(turn: Turn, host_id: HostId) -> str:
    """What may still run on a host, as a list for people."""
    state = turn.state
    unreadable = [job_id for job_id in state.set_aside if host_id in state.jobs[job_id].may_be_on]
    return ", ".join(map(str, [*may_run_on(state, host_id), *unreadable]))


def _refuse_stale(turn: Turn, hello: i.HostHello) -> None:
    """A Hello may come late, on a connection that its agent has left. What it says is wrong by
    now: a node that it does not name may run, and its older boot would look like a reboot."""
    presence = turn.state.presence.get(hello.host_id)
    if presence is not None and hello.incarnation < presence.incarnation:
        raise DuplicateAgent(
            f"host id {hello.host_id}: a newer Hello of this agent has been heard already "
            f"({presence.incarnation}, this is {hello.incarnation}); the newer session goes on"
        )


def _compare(turn: Turn, hello: i.HostHello) -> None:
    """Hold what the agent has against what it should have."""
    observed = {seen.key for seen in hello.observed}
    for key in list(turn.state.hosts[hello.host_id].holds):
        held = held_node(turn, hello.host_id, key)
        if held is None or key in observed:
            continue
        job, attempt, node = held
        # An agent writes a node down before it starts it. One that it does not know was either
        # never started (the assignment is sent again) or, when it said before that it ran, is
        # gone with the agent's files; starting that again could double it.
        if node.state in (NodeState.RUNNING, NodeState.SUCCEEDED, NodeState.FAILED):
            lose(turn, job, attempt, node)
            release(turn, job, attempt, node, "the agent no longer knows it")
    miss(turn, hello.host_id, observed)
    for seen in hello.observed:
        observe(turn, hello.host_id, seen)


def heartbeat(turn: Turn, beat: i.HostHeartbeat) -> None:
    host_id = turn.host_of(beat.session_id)
    if host_id is not None:
        presence = turn.presence(host_id)
        contact(turn, host_id, presence)
        if beat.wall_ms:
            presence.wall_less_clock_ms = beat.wall_ms - turn.now
        turn.effect(SendHeartbeatAck(session_id=beat.session_id, seq=beat.seq))


def report(turn: Turn, report: i.HostReport) -> None:
    """Older sessions' reports are dropped: the newer Hello has told all of it."""
    host_id = turn.host_of(report.session_id)
    if host_id is None:
        return
    presence = turn.presence(host_id)
    contact(turn, host_id, presence)
    for seen in report.observations:
        observe(turn, host_id, seen)
    acknowledge(turn, presence, report)


def goodbye(turn: Turn, said: i.HostGoodbye) -> None:
    """Its agent stops in order, so that its silence from now on says nothing of what goes on. An
    older session's is ignored: a newer one is there."""
    host_id = turn.host_of(said.session_id)
    if host_id is None:
        return
    contact(turn, host_id, turn.presence(host_id))
    goes_on = tuple(key for key in said.goes_on if key in turn.state.hosts[host_id].holds)
    leave_votes(turn, host_id)
    if goes_on:
        turn.emit(e.AgentStopped(host_id=host_id, goes_on=goes_on))
        # Nobody there hears anything any more: what must end is not waited for.
        turn.presence(host_id).lost = True
        turn.timers.arm("host", host_id, turn.now)
        show_jobs(turn, host_id)
    turn.effect(SendGoodbyeAck(session_id=said.session_id))


def session_ended(turn: Turn, ended: i.SessionEnded) -> None:
    host_id = turn.state.sessions.pop(ended.session_id, None)
    if host_id is not None:
        turn.presence(host_id).session_id = None


def drain(turn: Turn, request: i.DrainHost) -> None:
    host = _known(turn, request.host_id)
    if not host.draining or host.drain_reason != request.reason:
        turn.emit(e.HostDrained(host_id=request.host_id, reason=request.reason))
        turn.reschedule = True  # who waited for it is passed over


def resume(turn: Turn, request: i.ResumeHost) -> None:
    """Ends a drain. A quarantined host is asked once more to verify that it is clean."""
    host = _known(turn, request.host_id)
    if host.draining:
        turn.emit(e.HostResumed(host_id=request.host_id))
    turn.ask_again(request.host_id)
    turn.reschedule = True


def fence(turn: Turn, request: i.FenceHost) -> str:
    """The operator's word that nothing of ours runs on a lost host any more. What counts as gone
    by that, as a list for people; empty when nothing could run there anyway."""
    host = _known(turn, request.host_id)
    if not (turn.presence(request.host_id).lost or host.stopped_at_ms):
        raise Conflict(
            f"host {request.host_id} is not LOST; only a lost host can be fenced. "
            f"To give it no new work: muster hosts drain {request.host_id}"
        )
    held = _may_run(turn, request.host_id)
    give_up(turn, request.host_id, FENCED)
    leave_all(turn, request.host_id, FENCED)
    turn.touch_host(request.host_id)
    return held


def forget(turn: Turn, request: i.ForgetHost) -> None:
    """The operator's word that a host will not come back. It is a new host if it does."""
    host_id = request.host_id
    host = _known(turn, host_id)
    presence = turn.presence(host_id)
    if presence.session_id is not None and not presence.lost:
        raise Conflict(
            f"host {host_id} is connected, and would be back at once; stop its agent first"
        )
    held = _may_run(turn, host_id)
    if held:
        raise Conflict(
            f"host {host_id} may still run {held}; when it is LOST and certainly off, run first: "
            f"muster hosts fence {host_id}"
        )
    if host.holds:
        reserved = ", ".join(f"{key.job_id}#{key.node_index}" for key in host.holds)
        raise Conflict(
            f"host {host_id} is reserved for {reserved}, whose gang has not ended; forget it then"
        )
    if presence.session_id is not None:
        why = f"host {host_id} was forgotten"
        turn.effect(CloseSession(session_id=presence.session_id, message=why))
        turn.state.sessions.pop(presence.session_id, None)
    turn.emit(e.HostForgotten(host_id=host_id))
    del turn.state.presence[host_id]
    turn.reschedule = True  # who waited for it is told so


def _known(turn: Turn, host_id: HostId) -> Host:
    host = turn.state.hosts.get(host_id)
    if host is None:
        raise NotFound(f"Host {host_id} does not exist; known hosts: muster hosts list")
    return host
