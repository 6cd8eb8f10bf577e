"""Policy for hosts: who they are, whether they are there, and what proves that they are clean.

Silence makes a host lost, a closed stream never does. A lost host's nodes fail at once, but are
released only by proof: the agent says so, the machine has rebooted, an operator fences it, or
everything on it has stopped by itself because its lease ran out. No I/O.
"""

from __future__ import annotations

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.effects import (
    CloseSession,
    SendAck,
    SendHeartbeatAck,
    SendWelcome,
)
from coordinator.core.errors import Conflict, DuplicateAgent, NotFound
from coordinator.core.gang import held_node, lose, observe, release
from coordinator.core.ids import HostId
from coordinator.core.reservation import remember_stray
from coordinator.core.state import Host, Presence
from coordinator.core.states import NodeState
from coordinator.core.turn import Turn

REBOOTED = "the host has rebooted"
FENCED = "an operator fenced the host"
LEASE_OVER = "its lease ran out, so it has stopped by itself"


def hello(turn: Turn, hello: i.HostHello) -> None:
    """Open a session. The newest session of an agent wins; another machine is refused."""
    host = turn.state.hosts.get(hello.host_id)
    if host is not None and host.facts.agent_uuid != hello.agent_uuid:
        _admit_replacement(turn, host)
    else:
        _refuse_stale(turn, hello)
    facts = _facts(hello)
    rebooted = host is not None and host.facts.boot_id != hello.boot_id
    if host is None or host.facts != facts:
        turn.emit(facts)
    presence = turn.state.presence.setdefault(hello.host_id, Presence(last_contact_ms=turn.now))
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
    presence.unusable_reason = hello.unusable_reason
    presence.strays = {}
    _contact(turn, hello.host_id, presence)
    turn.effect(SendWelcome(session_id=hello.session_id, heartbeat_ms=turn.settings.heartbeat_ms))
    if rebooted:
        _release_all(turn, hello.host_id, REBOOTED)
    _compare(turn, hello)
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
    if host.holds:
        raise DuplicateAgent(
            f"host id {host_id} belongs to another agent (uuid {host.facts.agent_uuid}), which is "
            f"lost and may still run {', '.join(map(str, host.holds))}; when that machine is "
            f"certainly off, run: muster hosts fence {host_id}"
        )


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
    for seen in hello.observed:
        observe(turn, hello.host_id, seen)


def heartbeat(turn: Turn, beat: i.HostHeartbeat) -> None:
    host_id = turn.host_of(beat.session_id)
    if host_id is not None:
        _contact(turn, host_id, turn.presence(host_id))
        turn.effect(SendHeartbeatAck(session_id=beat.session_id, seq=beat.seq))


def report(turn: Turn, report: i.HostReport) -> None:
    """Older sessions' reports are dropped: the newer Hello has told all of it."""
    host_id = turn.host_of(report.session_id)
    if host_id is None:
        return
    _contact(turn, host_id, turn.presence(host_id))
    for seen in report.observations:
        observe(turn, host_id, seen)
    turn.effect(SendAck(session_id=report.session_id, report_seq=report.seq))


def session_ended(turn: Turn, ended: i.SessionEnded) -> None:
    host_id = turn.state.sessions.pop(ended.session_id, None)
    if host_id is not None:
        turn.presence(host_id).session_id = None


def _contact(turn: Turn, host_id: HostId, presence: Presence) -> None:
    presence.last_contact_ms = turn.now
    if presence.lost or not presence.seen:
        presence.lost = False
        presence.seen = True
        turn.touch_host(host_id)
        turn.reschedule = True
    turn.timers.arm("host", host_id, turn.now + turn.settings.lost_after_ms)


def check_host(turn: Turn, host_id: HostId) -> None:
    """Silence: first the host is lost, and later what it may still run has stopped by itself."""
    presence = turn.presence(host_id)
    lost_at = presence.last_contact_ms + turn.settings.lost_after_ms
    if turn.now < lost_at:
        turn.timers.arm("host", host_id, lost_at)
        return
    if not presence.lost:
        presence.lost = True
        turn.touch_host(host_id)
        turn.reschedule = True
        for key in list(turn.state.hosts[host_id].holds):
            held = held_node(turn, host_id, key)
            if held is not None:
                lose(turn, *held)
    fence_after_ms = turn.settings.fence_after_ms
    if fence_after_ms is None or not turn.state.hosts[host_id].holds:
        return
    fenced_at = presence.last_contact_ms + fence_after_ms
    if turn.now < fenced_at:
        turn.timers.arm("host", host_id, fenced_at)
    else:
        _give_up(turn, host_id, LEASE_OVER)


def _release_all(turn: Turn, host_id: HostId, proof: str) -> None:
    """Nothing that was on the host before runs any more."""
    for key in list(turn.state.hosts[host_id].holds):
        held = held_node(turn, host_id, key)
        if held is None:
            continue
        job, attempt, node = held
        lose(turn, job, attempt, node)
        if held_node(turn, host_id, key) is not None:
            release(turn, job, attempt, node, proof)


def _give_up(turn: Turn, host_id: HostId, proof: str) -> None:
    """The jobs need not wait for the host any more. The host itself must still let go, should it
    speak again on the session that it has: a container that ended may have left something."""
    given_up = list(turn.state.hosts[host_id].holds)
    _release_all(turn, host_id, proof)
    for key in given_up:
        remember_stray(turn, host_id, key)


def drain(turn: Turn, request: i.DrainHost) -> None:
    host = _known(turn, request.host_id)
    if not host.draining or host.drain_reason != request.reason:
        turn.emit(e.HostDrained(host_id=request.host_id, reason=request.reason))


def resume(turn: Turn, request: i.ResumeHost) -> None:
    """Ends a drain. A quarantined host is asked once more to verify that it is clean."""
    host = _known(turn, request.host_id)
    if host.draining:
        turn.emit(e.HostResumed(host_id=request.host_id))
    turn.ask_again(request.host_id)
    turn.reschedule = True


def fence(turn: Turn, request: i.FenceHost) -> None:
    """The operator's word that nothing of ours runs on a lost host any more."""
    _known(turn, request.host_id)
    if not turn.presence(request.host_id).lost:
        raise Conflict(
            f"host {request.host_id} is not LOST; only a lost host can be fenced. "
            f"To give it no new work: muster hosts drain {request.host_id}"
        )
    _give_up(turn, request.host_id, FENCED)
    turn.touch_host(request.host_id)


def _known(turn: Turn, host_id: HostId) -> Host:
    host = turn.state.hosts.get(host_id)
    if host is None:
        raise NotFound(f"Host {host_id} does not exist; known hosts: muster hosts list")
    return host
