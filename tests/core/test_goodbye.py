"""An agent that stops in order: no time that passes says anything of what goes on without it."""

from __future__ import annotations

import pytest

from coordinator.core import events as e
from coordinator.core import inputs as i
from coordinator.core.effects import SendGoodbyeAck
from coordinator.core.errors import Conflict
from coordinator.core.explain import status_reason
from coordinator.core.ids import HostId, JobId, NodeKey
from coordinator.core.leftovers import leftovers
from coordinator.core.states import JobState, NodeState, Progress
from tests.core.harness import Cluster

LONG_SECONDS = 7_200
"""Many times any verdict or lease of these tests."""
GONE = "Host EC2 (instance {}) terminated."


def stopped_main(cluster: Cluster, nodes: int = 2) -> tuple[JobId, HostId, NodeKey]:
    """A job runs that may have another attempt, and the agent of its main is stopped."""
    cluster.hosts(nodes + 1)
    job = cluster.submit(nodes, attempts=3)
    main, *_ = cluster.run(job)
    key = cluster.key(main)
    cluster.goodbye(main, key)
    return job, main, key


def up(key: NodeKey) -> i.Observation:
    return i.Observation(key=key, progress=Progress.UP, was_up=True, private_ipv4="10.0.0.1")


def test_neither_verdict_nor_lease_concerns_what_goes_on(cluster: Cluster) -> None:
    job, main, key = stopped_main(cluster)
    cluster.wait(LONG_SECONDS)
    assert cluster.is_(job) is JobState.RUNNING
    assert cluster.state.presence[main].lost
    cluster.hello(main, up(key))
    assert "AgentReturned" in cluster.facts()
    cluster.finish(job)
    assert cluster.is_(job) is JobState.SUCCEEDED
    assert len(cluster.archived[job].attempts) == 1


def test_it_holds_over_a_restart_of_the_coordinator(cluster: Cluster) -> None:
    job, main, key = stopped_main(cluster)
    cluster.restart()
    for host in ("h1", "h2", "h3"):
        if host != main:
            cluster.hello(host, *(up(held) for held in cluster.state.hosts[HostId(host)].holds))
    cluster.wait(LONG_SECONDS)
    assert cluster.is_(job) is JobState.RUNNING
    cluster.hello(main, up(key))
    cluster.wait(1, silent=(main,))
    cluster.wait(LONG_SECONDS, silent=(main,))
    assert cluster.is_(job) is not JobState.RUNNING, "once it is back, silence counts again"


def test_what_nobody_waits_for_is_left_to_its_lease(cluster: Cluster) -> None:
    """After a fence, say: once the goodbye is acknowledged no lease would end it."""
    cluster.hosts(1)
    cluster.hello("h1", up(NodeKey(JobId("unknown"), 1, 0)))
    stray = NodeKey(JobId("unknown"), 1, 0)
    cluster.do(i.HostGoodbye(session_id=cluster.session("h1"), goes_on=(stray,)))
    assert not [each for each in cluster.last.effects if isinstance(each, SendGoodbyeAck)]
    assert "AgentStopped" not in cluster.facts()


def test_before_the_journal_is_certain_a_goodbye_changes_nothing(cluster: Cluster) -> None:
    """It is not acknowledged then, so that the leases run: what they end must not stay RUNNING."""
    cluster.hosts(4)
    job = cluster.submit(1, attempts=2)
    (main,) = cluster.run(job)
    key = cluster.key(main)
    cluster.restart()
    cluster.hello(main, up(key))
    assert not cluster.state.may_start
    cluster.do(i.HostGoodbye(session_id=cluster.session(main), goes_on=(key,)))
    assert "AgentStopped" not in cluster.facts()
    cluster.wait(LONG_SECONDS, silent=(main,))
    assert cluster.is_(job) is JobState.RUNNABLE, "what ran there is over, and it is tried again"


def test_an_agent_that_cannot_look_at_its_host_has_not_given_leases_back(cluster: Cluster) -> None:
    """Its files were deleted meanwhile: nobody ends by a lease what the goodbye left to itself."""
    job, main, key = stopped_main(cluster, nodes=1)
    cluster.hello(main, is_attached=False)
    assert "AgentReturned" not in cluster.facts()
    cluster.wait(1)
    with pytest.raises(Conflict, match="cannot be fenced while its agent is connected"):
        cluster.do(i.FenceHost(host_id=main))
    cluster.wait(LONG_SECONDS, silent=(main,))
    assert cluster.is_(job) is JobState.RUNNING
    cluster.hello(main, up(key), is_attached=True)
    assert "AgentReturned" in cluster.facts()
    cluster.wait(LONG_SECONDS, silent=(main,))
    assert cluster.is_(job) is not JobState.RUNNING, "silence counts again"


def test_an_agent_of_an_older_release_does_not_say_whether_it_could_look(cluster: Cluster) -> None:
    _, main, key = stopped_main(cluster, nodes=1)
    cluster.hello(main, up(key), is_attached=False, answers_inquiries=False)
    assert "AgentReturned" in cluster.facts()


def test_a_goodbye_of_an_older_session_is_ignored(cluster: Cluster) -> None:
    cluster.hosts(1)
    job = cluster.submit(1)
    (main,) = cluster.run(job)
    key, older = cluster.key(main), cluster.session(main)
    cluster.hello(main, up(key))
    cluster.do(i.HostGoodbye(session_id=older, goes_on=(key,)))
    assert not cluster.all_facts(e.AgentStopped)
    assert cluster.last.effects == []


def test_an_end_that_is_asked_for_comes_at_once_and_the_host_is_held(cluster: Cluster) -> None:
    job, main, key = stopped_main(cluster, nodes=1)
    cluster.terminate(job)
    cluster.wait(0)
    assert cluster.is_(job) is JobState.FAILED
    cluster.wait(LONG_SECONDS)
    (left,) = leftovers(cluster.state, cluster.settings, cluster.job(job))
    assert (left.host_id, left.goes_on, left.until_ms) == (main, True, None)
    cluster.hello(main, up(key))
    cluster.let_go(job)
    assert job in cluster.archived


def test_an_operator_may_fence_it_without_waiting_for_its_silence(cluster: Cluster) -> None:
    job, main, _ = stopped_main(cluster, nodes=1)
    with pytest.raises(Conflict, match="muster hosts fence"):
        cluster.do(i.ForgetHost(host_id=main))
    assert cluster.do(i.FenceHost(host_id=main)) == f"{job}#0 attempt 1"
    attempt = cluster.job(job).attempts[0]
    assert (attempt.over, attempt.status_reason) == (True, GONE.format(main))
    assert cluster.job(job).current is not None, "the next attempt is placed"
    cluster.do(i.ForgetHost(host_id=main))


def test_it_is_not_fenced_while_its_agent_is_on_its_way_back(cluster: Cluster) -> None:
    """Its files are lost, so that its Hello waits, and the host is STOPPED for so long."""
    job, main, _ = stopped_main(cluster, nodes=1)
    same = cluster.state.hosts[HostId(main)].facts.machine
    cluster.answers = False
    cluster.hello(main, agent_uuid="new", machine=same, previous_boot_id="", waits=False)
    with pytest.raises(Conflict, match="called 0 s ago, so its machine is not off"):
        cluster.do(i.FenceHost(host_id=main))
    assert cluster.is_(job) is JobState.RUNNING
    # One that hangs, and never answers, is no reason to wait for ever.
    cluster.wait(cluster.settings.lost_after_ms / 1000, silent=(main,))
    assert cluster.do(i.FenceHost(host_id=main)) == f"{job}#0 attempt 1"


def test_a_reboot_is_proof_as_ever(cluster: Cluster) -> None:
    job, main, _ = stopped_main(cluster, nodes=1)
    cluster.hello(main, boot_id="boot-2")
    assert cluster.job(job).attempts[0].nodes[0].released


def test_its_votes_are_replaced_at_once(cluster: Cluster) -> None:
    cluster.hosts(3)
    job = cluster.submit(2)
    cluster.prepared("h2")
    cluster.goodbye("h1")
    assert cluster.placed(job) == ["h3", "h2"]
    (stopped,) = cluster.all_facts(e.AgentStopped)
    assert stopped.goes_on == ()


def test_a_host_on_which_nothing_runs_is_stopped_too(cluster: Cluster) -> None:
    """It was stopped in order, and nothing has failed."""
    cluster.hosts(2)
    cluster.goodbye("h1")
    assert cluster.all_facts(e.AgentStopped)
    job = cluster.submit(2)
    assert cluster.job(job).current is None, "it takes no work from the same moment on"
    told = status_reason(cluster.state, cluster.settings, cluster.job(job))
    assert told is not None
    assert "h1: is STOPPED: its agent was stopped at 2023-11-14 " in told
    cluster.restart()
    cluster.hello("h2")
    cluster.wait(LONG_SECONDS, silent=("h1",))
    assert cluster.do(i.FenceHost(host_id=HostId("h1"))) == ""
    cluster.hello("h1", is_attached=False)
    assert "AgentReturned" in cluster.facts()
    assert cluster.job(job).current is not None


def test_a_goodbye_that_names_nothing_takes_no_earlier_one_back(cluster: Cluster) -> None:
    """Its files were deleted while it was away, and it was stopped again before it could look."""
    job, main, key = stopped_main(cluster, nodes=1)
    cluster.hello(main, is_attached=False)
    cluster.goodbye(main)
    assert list(cluster.state.hosts[main].goes_on) == [key]
    cluster.wait(LONG_SECONDS, silent=(main,))
    assert cluster.is_(job) is JobState.RUNNING


def test_a_child_that_does_not_run_there_yet_waits_for_the_verdict_alone(cluster: Cluster) -> None:
    cluster.hosts(2)
    job = cluster.submit(2)
    main, child = cluster.start_main(job)
    cluster.goodbye(child)
    cluster.up(main)
    cluster.wait(301)
    assert cluster.node(job, 1).state is NodeState.FAILED
    assert cluster.is_(job) is JobState.RUNNING


def test_it_is_told_why_a_job_goes_on_unseen(cluster: Cluster) -> None:
    job, main, _ = stopped_main(cluster)
    told = status_reason(cluster.state, cluster.settings, cluster.job(job))
    assert told is not None
    assert told.startswith(f"The agent of the main node's host {main} was stopped at 2023-11-14 ")
    assert told.endswith(
        "; the job goes on. Start the agent again; or, if the machine is off, run: muster hosts "
        f"fence {main}"
    )
    other = cluster.submit(3)
    told = status_reason(cluster.state, cluster.settings, cluster.job(other))
    assert told is not None
    assert f"{main}: is STOPPED: its agent was stopped at 2023-11-14 " in told
