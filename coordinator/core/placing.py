"""Policy for whether anything may start at all: on the newest journal only, and not too soon.

When a host has seen a newer journal (`lineage.py`) this one starts nothing and stops nothing: no
gang is placed, no main is launched, no agent is given a node that it does not have, and what runs
goes on, also what this journal does not know. Ends are recorded, and not acknowledged, so that
agents remember them for the newer journal, should it come back. An operator can say at a start that
this journal counts.

After each start the coordinator waits in the same way, until half of the hosts that it knows have
called or had the time to: else one host without evidence could be given what has ended elsewhere.
Where an older journal is to count it waits for all of them. What they run and this journal does not
know is stopped, and nothing else of its job starts before that is done (`astray.py`).
No I/O.
"""

from __future__ import annotations

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core import lineage
from coordinator.core.effects import SendAck
from coordinator.core.gang import start_if_ready
from coordinator.core.state import Outrun, Presence
from coordinator.core.turn import Turn


def await_hosts(turn: Turn) -> None:
    """At a start: wait for half of the hosts, if there are any. For all where an older journal is
    to count: each may run what that does not know, and none of them stops it from being placed."""
    hosts = len(turn.state.hosts)
    turn.state.hosts_awaited = hosts if turn.state.accepts_older else (hosts + 1) // 2
    if turn.state.hosts_awaited:
        turn.timers.arm("placing", "", turn.now + turn.settings.lost_after_ms)


def look_at(turn: Turn, hello: i.HostHello) -> None:
    """Before anything follows from a Hello: what has the host seen?"""
    seen = lineage.read(turn.state.cluster_key, hello.journal_token)
    if seen is not None and lineage.is_beyond(turn.state, seen):
        _outrun(turn, hello, seen)


def has_called(turn: Turn) -> None:
    """A host that is known from before the start has called for the first time since. Last of all
    that follows from its Hello, since gangs may start now."""
    if turn.state.hosts_awaited:
        turn.state.hosts_awaited -= 1
        if turn.state.may_start:
            _begin(turn)


def _outrun(turn: Turn, hello: i.HostHello, seen: lineage.Seen) -> None:
    """This journal is older than what the host has seen."""
    state = turn.state
    if state.accepts_older:
        turn.emit(
            e.OlderJournalAccepted(
                life_id=seen.life_id, host_id=hello.host_id, position=seen.position
            )
        )
    elif state.outrun is None:
        state.outrun = Outrun(
            host_id=hello.host_id,
            life_id=seen.life_id,
            position=seen.position,
            is_known=seen.life_id in state.lives,
        )
        for queue in state.queues.values():
            for _, job_id in queue.runnable:
                turn.touch_job(job_id)  # who watches it is told why it waits


def check_wait(turn: Turn) -> None:
    """Hosts that have not called for so long that they are lost are waited for no more."""
    if not turn.state.hosts_awaited:
        return
    left_ms = turn.settings.lost_after_ms - turn.listening.since(turn.listening.start_ms)
    if left_ms > 0:
        turn.timers.arm("placing", "", turn.now + left_ms)
        return
    turn.state.hosts_awaited = 0
    if turn.state.may_start:
        _begin(turn)


def _begin(turn: Turn) -> None:
    """The wait after the start is over. Once in a life, so that it may look at everything."""
    state = turn.state
    for presence in state.presence.values():
        if presence.session_id is not None and presence.owed_ack is not None:
            turn.effect(SendAck(session_id=presence.session_id, report_seq=presence.owed_ack))
        presence.owed_ack = None
    for host_id, host in state.hosts.items():
        if host.holds:
            turn.touch_host(host_id)
    for job in state.jobs.values():
        turn.timers.arm("job", job.job_id, turn.now)
        start_if_ready(turn, job)
    turn.reschedule = True


def acknowledge(turn: Turn, presence: Presence, report: i.HostReport) -> None:
    """What an agent has been told is durable it forgets: not before it is sure that this is the
    journal that counts."""
    if turn.state.may_start:
        turn.effect(SendAck(session_id=report.session_id, report_seq=report.seq))
    else:
        presence.owed_ack = report.seq


def may_believe_goodbye(turn: Turn) -> bool:
    """An agent whose goodbye is known lets its leases go. The newer journal would not know of that,
    and count the lease as proof."""
    return turn.state.may_start
