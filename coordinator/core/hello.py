"""Policy for Hello: who may speak for a host, and what follows from what it says.

The newest session of an agent wins. A Hello that contradicts the session before (another boot,
another agent's files, an older incarnation) comes late, or of a reboot, of a restored disk or of a
copy of one. It waits for two heartbeats, and is refused if the session before is heard meanwhile;
then its agent is asked for another, since of a late one the agent has left. Another machine speaks
for a host only when nothing of ours can run on the one that is known. No I/O.
"""

from __future__ import annotations

from dataclasses import replace

from coordinator.core import astray
from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.effects import CloseSession, SendInquiry, SendWelcome
from coordinator.core.errors import DuplicateAgent
from coordinator.core.gang import held_node, lose, observe, release
from coordinator.core.identity import difference, is_same
from coordinator.core.ids import HostId, NodeKey, SessionId
from coordinator.core.lease import default_verdict_seconds
from coordinator.core.leftovers import may_still_run
from coordinator.core.lineage import cluster_id
from coordinator.core.placing import has_called, look_at
from coordinator.core.silence import contact, release_all
from coordinator.core.state import ClusterState, Host, Presence, Waiting
from coordinator.core.states import NodeState, Progress
from coordinator.core.turn import Turn
from coordinator.core.unreadable import miss

REBOOTED = "the host has rebooted"
NOT_THERE = "its agent has looked for it on the host, and it is not there"
BEATS_TO_WAIT = 2
_NOT_BEGUN = (None, Progress.ASSIGNED, Progress.PREPARED)
_NOT_UP = (Progress.ASSIGNED, Progress.PREPARED, Progress.LAUNCHING)


def hello(turn: Turn, hello: i.HostHello) -> None:
    """Open a session, or let it wait until the session before has had the time to be heard.
    DuplicateAgent for a machine that may not speak for the host."""
    host = turn.state.hosts.get(hello.host_id)
    if hello.session_id in turn.state.waiting:
        _answer(turn, hello)
        return
    if host is None:
        _open(turn, hello)
        return
    same = is_same(host.facts.machine, hello.machine)
    if same is False or (same is None and _is_other(host, hello)):
        _admit_another(turn, host, hello)
        _open(turn, hello)
    elif _contradicts(turn, host, hello):
        _let_wait(turn, hello)
    else:
        _open(turn, hello)


def _is_other(host: Host, hello: i.HostHello) -> bool:
    """Whether it is another agent or another boot. Where nobody knows the machine, that is a copy
    of the disk as well as the host itself, and what it does not find proves nothing."""
    facts = host.facts
    is_another_boot = facts.boot_id not in ("", hello.boot_id)
    return is_another_boot or facts.agent_uuid not in ("", hello.agent_uuid)


def _contradicts(turn: Turn, host: Host, hello: i.HostHello) -> bool:
    """Whether the session before and this Hello cannot both be the agent that is known."""
    is_older = hello.incarnation < turn.presence(hello.host_id).incarnation
    return _is_other(host, hello) or is_older


def _let_wait(turn: Turn, hello: i.HostHello) -> None:
    # What a host has seen of the journal proves what it proves, whoever says it.
    look_at(turn, hello)
    presence = turn.presence(hello.host_id)
    if presence.waiting is not None:
        _refuse(turn, presence.waiting, f"a newer Hello of host {hello.host_id} came meanwhile")
    presence.waiting = hello.session_id
    turn.state.waiting[hello.session_id] = Waiting(hello=hello, since_ms=turn.now)
    turn.timers.arm("hello", hello.session_id, turn.now + _wait_ms(turn))


def _wait_ms(turn: Turn) -> int:
    return BEATS_TO_WAIT * turn.settings.heartbeat_ms


def check_waiting(turn: Turn, session_id: SessionId) -> None:
    """The session before has had the time to be heard, if the coordinator has listened."""
    waiting = turn.state.waiting[session_id]
    left_ms = _wait_ms(turn) - turn.listening.since(waiting.since_ms)
    if _refuse_contradicted(turn, waiting):
        return
    if left_ms > 0 and waiting.hello.host_id in turn.state.presence:
        turn.timers.arm("hello", session_id, turn.now + left_ms)
    elif waiting.hello.answers_inquiries:
        turn.state.waiting[session_id] = replace(waiting, is_asked=True)
        turn.effect(SendInquiry(session_id=session_id))
    else:
        forget_waiting(turn, session_id)
        _open(turn, waiting.hello)


def _answer(turn: Turn, hello: i.HostHello) -> None:
    """Another Hello of a session that waits: its agent is there, and this is true now."""
    waiting = turn.state.waiting[hello.session_id]
    if _refuse_contradicted(turn, waiting) or not waiting.is_asked:
        return
    forget_waiting(turn, hello.session_id)
    _open(turn, hello)


def _refuse_contradicted(turn: Turn, waiting: Waiting) -> bool:
    """Refuse it if the session before has been heard meanwhile. Whether it was."""
    presence = turn.state.presence.get(waiting.hello.host_id)
    if presence is None or presence.last_contact_ms <= waiting.since_ms:
        return False
    host = turn.state.hosts[waiting.hello.host_id]
    _refuse(turn, waiting.hello.session_id, _is_alive(host, waiting.hello))
    return True


def waits_since_ms(state: ClusterState, host_id: HostId) -> int | None:
    """Since when a Hello of the host waits; None when none does."""
    waiting = state.waiting.get(state.presence[host_id].waiting or SessionId(""))
    return waiting.since_ms if waiting is not None else None


def forget_waiting(turn: Turn, session_id: SessionId) -> None:
    """The session waits no more. Idempotent."""
    waiting = turn.state.waiting.pop(session_id, None)
    if waiting is not None:
        presence = turn.state.presence.get(waiting.hello.host_id)
        if presence is not None and presence.waiting == session_id:
            presence.waiting = None


def _refuse(turn: Turn, session_id: SessionId, why: str) -> None:
    forget_waiting(turn, session_id)
    turn.effect(CloseSession(session_id=session_id, message=why, is_refusal=True))


def _is_alive(host: Host, hello: i.HostHello) -> str:
    if host.facts.agent_uuid != hello.agent_uuid:
        return (
            f"host id {hello.host_id} belongs to another agent (uuid {host.facts.agent_uuid}, at "
            f"{host.facts.private_ipv4}), which has been heard meanwhile; stop one of the two, or "
            "give this one another --host-id"
        )
    return (
        f"the session of host {hello.host_id} that this Hello contradicts has been heard "
        "meanwhile: an agent with the same files is alive. If this one began from a copy of its "
        "disk or data directory, delete the copied directory and give this agent another --host-id"
    )


def _admit_another(turn: Turn, host: Host, hello: i.HostHello) -> None:
    """Another machine, or another agent or boot and nobody knows on which machine. Only when the
    host that is known is lost, and nothing may run there, does the new one take its place."""
    lost_seconds = turn.settings.lost_after_ms // 1000
    belongs = f"host id {hello.host_id} belongs to {_whose(host.facts, hello)}"
    presence = turn.state.presence.get(hello.host_id)
    if presence is not None and not presence.lost:
        raise DuplicateAgent(
            f"{belongs}, heard within the last {lost_seconds} s; give this machine another "
            "--host-id, or stop the other agent and wait until the host is LOST"
        )
    held = may_still_run(turn.state, hello.host_id)
    if held:
        raise DuplicateAgent(
            f"{belongs}, which is lost and may still run {held}; when that machine is certainly "
            f"off, run: muster hosts fence {hello.host_id}"
        )


def _whose(facts: e.HostRegistered, hello: i.HostHello) -> str:
    if is_same(facts.machine, hello.machine) is False:
        return f"another machine ({difference(facts.machine, hello.machine)})"
    if facts.agent_uuid != hello.agent_uuid:
        return f"another agent (uuid {facts.agent_uuid}, at {facts.private_ipv4})"
    return f"another boot ({facts.boot_id}), and nothing says whether of this machine"


def _open(turn: Turn, hello: i.HostHello) -> None:
    host = turn.state.hosts.get(hello.host_id)
    before = host.facts if host is not None else None
    facts = _facts(hello)
    if before != facts:
        turn.emit(facts)
    if host is not None and host.stopped_at_ms and (not host.goes_on or _has_armed(turn, hello)):
        turn.emit(e.AgentReturned(host_id=hello.host_id))
    presence = turn.state.presence.setdefault(hello.host_id, Presence(last_contact_ms=turn.now))
    is_awaited = host is not None and not presence.seen
    goes_on = _goes_on(before, presence, hello)
    look_at(turn, hello)
    _supersede(turn, presence, hello)
    if bool(hello.unusable_reason) != bool(presence.unusable_reason):
        presence.unusable_since_ms = turn.now
        # Nobody waits for its capacity from then on.
        verdict_ms = 1000 * default_verdict_seconds(turn.settings)
        turn.timers.arm("schedule", hello.host_id, turn.now + verdict_ms)
    presence.unusable_reason = hello.unusable_reason
    presence.strays, presence.kept = {}, {}
    presence.owed_ack = None
    contact(turn, hello.host_id, presence)
    turn.effect(
        SendWelcome(
            session_id=hello.session_id,
            heartbeat_ms=turn.settings.heartbeat_ms,
            cluster_id=cluster_id(turn.state.cluster_key),
        )
    )
    if before is not None and _proves_reboot(before, hello):
        release_all(turn, hello.host_id, REBOOTED)
    _compare(turn, hello, goes_on=goes_on)
    if is_awaited:
        has_called(turn)
    turn.touch_host(hello.host_id)
    turn.reschedule = True


def _has_looked(turn: Turn, hello: i.HostHello) -> bool:
    """Whether the agent has looked for this cluster's nodes. One that comes from another cluster
    has looked for that one's, and begins anew when it gets its Welcome."""
    return hello.is_attached and hello.cluster_id in ("", cluster_id(turn.state.cluster_key))


def _has_armed(turn: Turn, hello: i.HostHello) -> bool:
    """Whether what a goodbye left to itself has leases again. An agent whose files were lost finds
    their holders only when it looks at the host, which it may never get to; until then nothing ends
    by itself. One of an older release does not say, and arms what its ledger knows."""
    return _has_looked(turn, hello) or not hello.answers_inquiries


def _supersede(turn: Turn, presence: Presence, hello: i.HostHello) -> None:
    if presence.session_id is not None:
        why = f"a newer session of host {hello.host_id} took over"
        turn.effect(CloseSession(session_id=presence.session_id, message=why))
        turn.state.sessions.pop(presence.session_id, None)
    turn.state.sessions[hello.session_id] = hello.host_id
    presence.session_id = hello.session_id
    presence.incarnation = hello.incarnation


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
        machine=hello.machine,
    )


def _proves_reboot(before: e.HostRegistered, hello: i.HostHello) -> bool:
    """Nothing of before runs: the same machine has another boot, and the agent's ledger knows the
    one that the coordinator knows. A copied disk can have both ids, and no copy is this machine."""
    return (
        is_same(before.machine, hello.machine) is True
        and before.boot_id != hello.boot_id
        and before.boot_id == hello.previous_boot_id
    )


def _goes_on(before: e.HostRegistered | None, presence: Presence, hello: i.HostHello) -> bool:
    """Whether the agent's ledger holds all that it ever wrote: neither wiped nor an older copy. A
    boot that does not follow says nothing good of it."""
    return (
        before is not None
        and before.boot_id in ("", hello.boot_id)
        and before.agent_uuid == hello.agent_uuid
        and hello.incarnation >= presence.incarnation
    )


def _compare(turn: Turn, hello: i.HostHello, *, goes_on: bool) -> None:
    """Hold what the agent has against what it should have."""
    observed = {seen.key: seen.progress for seen in hello.observed}
    if _has_looked(turn, hello):
        astray.let_go(turn, hello.host_id)  # what is there it says anew
        for key in list(turn.state.hosts[hello.host_id].holds):
            progress = observed.get(key)
            if progress is None or progress in _NOT_UP:
                _not_there(turn, hello, key, progress, goes_on=goes_on)
        miss(turn, hello.host_id, set(observed))
    for seen in hello.observed:
        observe(turn, hello.host_id, seen)


def _not_there(
    turn: Turn, hello: i.HostHello, key: NodeKey, seen: Progress | None, *, goes_on: bool
) -> None:
    """An agent writes a vote down before it says it, and a start before it begins. What it knows as
    voted was never started, and is asked for again; or it ran, by the agent's own earlier word.
    When its ledger is an older copy, or does not know the vote, and so has been lost, the node may
    have run to its end unseen: starting it again could double it. A vote of which a gang was not
    told is none then: the next one may promise another address."""
    held = held_node(turn, hello.host_id, key)
    if held is None:
        return
    job, attempt, node = held
    ended = (NodeState.SUCCEEDED, NodeState.FAILED)
    is_whole = goes_on and seen is Progress.PREPARED
    may_have_run = node.state in ended or (node.state is NodeState.STARTING and not is_whole)
    if node.state is NodeState.RUNNING or (may_have_run and seen in _NOT_BEGUN):
        lose(turn, job, attempt, node)
        release(turn, job, attempt, node, NOT_THERE)
    elif node.state is NodeState.PREPARED and seen is not Progress.PREPARED and not attempt.started:
        lose(turn, job, attempt, node)
