"""Policy for hosts that are silent: lost first, the verdict later, the fence last.

*Lost*: the host gets no new work and leaves every vote; what it runs stays what it was. The
*verdict*: a node that runs there has failed. The *fence*: all of it has stopped by itself, since
its lease ran out, so that its job need not wait for the host any more. Silence is time in which
the coordinator listened and heard nothing (`listening.py`); the fence counts all time, as the lease
on the host does, and then a heartbeat of listening. A stream that closes means nothing. An agent
that said goodbye suspends verdict and fence for what goes on without it. No I/O.
"""

from __future__ import annotations

from coordinator.core import astray
from coordinator.core.effects import Silence
from coordinator.core.gang import held_node, lose, release
from coordinator.core.ids import HostId, NodeKey
from coordinator.core.lease import (
    default_verdict_seconds,
    stopped_after_ms,
    unknown_stopped_after_ms,
    verdict_after_ms,
)
from coordinator.core.reservation import remember_stray
from coordinator.core.state import Attempt, Job, NodeRun, Presence
from coordinator.core.states import NodeState
from coordinator.core.turn import Turn

LEASE_OVER = "its lease ran out, so it has stopped by itself"


def contact(turn: Turn, host_id: HostId, presence: Presence) -> None:
    """The host was heard this moment."""
    if presence.lost or presence.away or not presence.seen:
        if presence.lost:
            _tell(turn, host_id, presence, is_lost=False)
            show_jobs(turn, host_id)
        presence.lost = presence.away = False
        presence.seen = True
        presence.verdict_at_ms = None
        turn.touch_host(host_id)
        turn.reschedule = True
    presence.last_contact_ms = turn.now
    turn.timers.arm("host", host_id, turn.now + turn.settings.lost_after_ms)


def check_host(turn: Turn, host_id: HostId) -> None:
    """Look at how long the host has been silent, and when to look again."""
    presence = turn.presence(host_id)
    silent_ms = turn.listening.since(presence.last_contact_ms)
    if silent_ms < turn.settings.lost_after_ms and not presence.lost:
        _look_again(turn, host_id, turn.settings.lost_after_ms - silent_ms)
        return
    if not presence.lost:
        presence.lost = True
        _tell(turn, host_id, presence, is_lost=True)
        turn.touch_host(host_id)
        turn.reschedule = True
        leave_votes(turn, host_id)
        show_jobs(turn, host_id)
    _count_upon(turn, host_id, presence, silent_ms)
    _judge(turn, host_id, presence, silent_ms)
    _fence_by_lease(turn, host_id, presence)
    _outlive_astray(turn, host_id, presence)


def _tell(turn: Turn, host_id: HostId, presence: Presence, *, is_lost: bool) -> None:
    turn.step.silences.append(
        Silence(
            host_id=host_id,
            is_lost=is_lost,
            silent_ms=turn.now - presence.last_contact_ms,
            holds=tuple(turn.state.hosts[host_id].holds),
        )
    )


def _look_again(turn: Turn, host_id: HostId, after_ms: int) -> None:
    turn.timers.arm("host", host_id, turn.now + after_ms)


def _held(turn: Turn, host_id: HostId) -> list[tuple[Job, Attempt, NodeRun]]:
    keys = list(turn.state.hosts[host_id].holds)
    return [held for held in (held_node(turn, host_id, key) for key in keys) if held is not None]


def leave_votes(turn: Turn, host_id: HostId) -> None:
    """Whoever votes with the host replaces it."""
    for job, attempt, node in _held(turn, host_id):
        if not attempt.started:
            lose(turn, job, attempt, node)


def show_jobs(turn: Turn, host_id: HostId) -> None:
    """Who watches a job of this host sees something else now."""
    for job, _, node in _held(turn, host_id):
        turn.touch_job(job.job_id, node.node_index)


def _count_upon(turn: Turn, host_id: HostId, presence: Presence, silent_ms: int) -> None:
    """A host that is silent for longer than the cluster's verdict is no host that the head of a
    queue may wait for."""
    away_after_ms = 1000 * default_verdict_seconds(turn.settings)
    if presence.away:
        return
    if silent_ms < away_after_ms:
        _look_again(turn, host_id, away_after_ms - silent_ms)
        return
    presence.away = True
    turn.reschedule = True


def _judge(turn: Turn, host_id: HostId, presence: Presence, silent_ms: int) -> None:
    """A main whose attempt must end anyway is not waited for: users ask for ends to get them."""
    presence.verdict_at_ms = None
    for job, attempt, node in _held(turn, host_id):
        if not attempt.started or node.state not in (NodeState.STARTING, NodeState.RUNNING):
            continue
        is_main = node.node_index == job.spec.main_node
        left_ms = verdict_after_ms(turn.settings, job, attempt) - silent_ms
        must_end = is_main and attempt.stop_cause is not None
        if not must_end and _goes_on(turn, host_id, job, attempt, node):
            continue
        if left_ms <= 0 or must_end:
            lose(turn, job, attempt, node)
        else:
            presence.verdict_at_ms = turn.now + left_ms
            _look_again(turn, host_id, left_ms)


def _goes_on(turn: Turn, host_id: HostId, job: Job, attempt: Attempt, node: NodeRun) -> bool:
    """Its agent has said goodbye, and nobody enforces its lease."""
    key = NodeKey(job.job_id, attempt.number, node.node_index)
    return key in turn.state.hosts[host_id].goes_on


def _fence_by_lease(turn: Turn, host_id: HostId, presence: Presence) -> None:
    for job, attempt, node in _held(turn, host_id):
        after_ms = stopped_after_ms(turn.settings, job, attempt)
        if after_ms is None or node.released or _goes_on(turn, host_id, job, attempt, node):
            continue
        left_ms = _unheard_ms(turn, presence.last_contact_ms + after_ms)
        if left_ms > 0:
            _look_again(turn, host_id, left_ms)
        else:
            give_up(turn, host_id, LEASE_OVER)


def _outlive_astray(turn: Turn, host_id: HostId, presence: Presence) -> None:
    """What runs there unknown to this journal has a lease too, which nobody here was told."""
    after_ms = unknown_stopped_after_ms(turn.settings)
    if after_ms is None or not astray.on_host(turn.state, host_id):
        return
    left_ms = _unheard_ms(turn, presence.last_contact_ms + after_ms)
    if left_ms > 0:
        _look_again(turn, host_id, left_ms)
    else:
        astray.let_go(turn, host_id)


def _unheard_ms(turn: Turn, stopped_at_ms: int) -> int:
    """How long the coordinator must still listen before it believes that a host which has stopped
    its nodes by then has nothing to say. The host may be connected again, and how a node ended may
    wait at the door while the coordinator sleeps: within a heartbeat that is heard in full it is
    heard. Where every stretch has a gap, much of them all is enough in the end."""
    listening, settings = turn.listening, turn.settings
    in_full_ms = listening.since(max(stopped_at_ms, listening.awake_since_ms))
    unheard_ms = min(
        settings.heartbeat_ms - in_full_ms,
        settings.lost_after_ms - listening.since(stopped_at_ms),
    )
    return max(unheard_ms, stopped_at_ms + settings.heartbeat_ms - turn.now)


def release_all(turn: Turn, host_id: HostId, proof: str) -> None:
    """Nothing that was on the host before runs any more."""
    for job, attempt, node in _held(turn, host_id):
        key = (job.job_id, attempt.number, node.node_index)
        lose(turn, job, attempt, node)
        if key in turn.state.hosts[host_id].holds:
            release(turn, job, attempt, node, proof)


def give_up(turn: Turn, host_id: HostId, proof: str) -> None:
    """The jobs need not wait for the host any more. The host itself must still let go, should it
    speak again on the session that it has: a container that ended may have left something."""
    given_up = list(turn.state.hosts[host_id].holds)
    release_all(turn, host_id, proof)
    for key in given_up:
        remember_stray(turn, host_id, key)
