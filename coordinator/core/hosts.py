"""Policy for hosts: what their agents say, and what operators say of them.

Who may speak for a host is in `hello.py`, what silence means in `silence.py`. A node is released by
proof only: its agent says that nothing is left, the machine has rebooted, an operator fences the
host, or everything there has stopped by itself because its lease ran out. No I/O.
"""

from __future__ import annotations

from coordinator.core import astray
from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.effects import (
    CloseSession,
    SendGoodbyeAck,
    SendHeartbeatAck,
)
from coordinator.core.errors import Conflict, NotFound
from coordinator.core.gang import observe
from coordinator.core.hello import forget_waiting, waits_since_ms
from coordinator.core.ids import HostId
from coordinator.core.leftovers import may_still_run
from coordinator.core.placing import acknowledge, may_believe_goodbye
from coordinator.core.silence import contact, give_up, leave_votes, show_jobs
from coordinator.core.state import Host
from coordinator.core.turn import Turn
from coordinator.core.unreadable import leave_all

FENCED = "an operator fenced the host"


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
    older session's is ignored: a newer one is there. Without an acknowledgement the agent leaves
    all the same, its leases run, and its silence counts."""
    host_id = turn.host_of(said.session_id)
    if host_id is None:
        return
    contact(turn, host_id, turn.presence(host_id))
    leave_votes(turn, host_id)
    host = turn.state.hosts[host_id]
    # What this coordinator does not wait for has to end with its lease.
    believed = may_believe_goodbye(turn) and all(key in host.holds for key in said.goes_on)
    if said.goes_on and not believed:
        return
    # An agent that names nothing may not have looked. Where something is held that is no word on
    # it: its silence counts, or an earlier goodbye does.
    if believed and (said.goes_on or not (host.holds or host.stopped_at_ms)):
        turn.emit(e.AgentStopped(host_id=host_id, goes_on=said.goes_on))
        # Nobody there hears anything any more: what must end is not waited for.
        turn.presence(host_id).lost = True
        turn.timers.arm("host", host_id, turn.now)
        turn.touch_host(host_id)
        turn.reschedule = True
        show_jobs(turn, host_id)
    turn.effect(SendGoodbyeAck(session_id=said.session_id))


def session_ended(turn: Turn, ended: i.SessionEnded) -> None:
    forget_waiting(turn, ended.session_id)
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
    """The operator's word that nothing of ours runs any more on a host that is lost or stopped.
    What counts as gone by that, as a list for people; empty when nothing could run there anyway."""
    host = _known(turn, request.host_id)
    presence = turn.presence(request.host_id)
    if not presence.lost and not (host.stopped_at_ms and presence.session_id is None):
        is_there = presence.session_id is not None
        raise Conflict(
            f"host {request.host_id} cannot be fenced "
            f"{'while its agent is connected' if is_there else 'before it is LOST'}. "
            f"To give it no new work: muster hosts drain {request.host_id}"
        )
    since_ms = waits_since_ms(turn.state, request.host_id)
    # Not for ever: one that hangs never answers, and its connection may stay.
    if since_ms is not None and turn.now - since_ms < turn.settings.lost_after_ms:
        raise Conflict(
            f"an agent of host {request.host_id} called {(turn.now - since_ms) // 1000} s ago, so "
            "its machine is not off; it speaks for the host as soon as the session before has had "
            "the time to be heard"
        )
    held = may_still_run(turn.state, request.host_id)
    give_up(turn, request.host_id, FENCED)
    astray.let_go(turn, request.host_id)
    leave_all(turn, request.host_id, FENCED)
    turn.touch_host(request.host_id)
    return held


def forget(turn: Turn, request: i.ForgetHost) -> None:
    """The operator's word that a host will not come back. It is a new host if it does."""
    host_id = request.host_id
    host = _known(turn, host_id)
    presence = turn.presence(host_id)
    if presence.is_here:
        raise Conflict(
            f"host {host_id} is connected, and would be back at once; stop its agent first"
        )
    held = may_still_run(turn.state, host_id)
    if held:
        raise Conflict(
            f"host {host_id} may still run {held}; if that machine is certainly off, run "
            f"first: muster hosts fence {host_id}"
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
