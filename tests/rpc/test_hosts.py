"""HostService: the one word for a host, and what an operator can do about it."""

from __future__ import annotations

import grpc

from coordinator.core import inputs as i
from coordinator.core.ids import HostId
from coordinator.core.machine import Machine
from coordinator.core.state import Outrun
from coordinator.core.states import Progress
from muster.v1 import host_service_pb2 as pb
from tests.fakes.cluster import FakeCluster, FakeHosts
from tests.rpc.conftest import GANG, ONE, Client, one_that_runs, refusal, shown


async def _host(client: Client, host_id: str) -> pb.Host:
    response = await client.hosts.DescribeHosts(pb.DescribeHostsRequest(host_ids=[host_id]))
    (host,) = response.hosts
    return host


async def _word(client: Client, host_id: str) -> tuple[str, str]:
    host = await _host(client, host_id)
    return pb.HostState.Name(host.state), host.reason


async def test_everything_about_a_host(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    hosts.join("h-2")
    hosts.join("h-1", instance_type="c5.large", gpus=2, labels={"rack": "7"})
    response = await client.hosts.ListHosts(pb.ListHostsRequest())
    assert [host.host_id for host in response.hosts] == ["h-1", "h-2"]
    assert shown(response.hosts[0]) == {
        "hostId": "h-1",
        "state": "FREE",
        "privateIpv4Address": "10.0.0.1",
        "instanceType": "c5.large",
        "vcpus": 8,
        "memoryMib": "16384",
        "gpus": 2,
        "engine": "process",
        "agentVersion": "0.1.0",
        "labels": {"rack": "7"},
        "lastContactAt": cluster.now_ms,
        "bootId": "boot-1",
    }


async def test_which_hosts_are_described(client: Client, hosts: FakeHosts) -> None:
    hosts.join("h-1", "h-2")
    asked = ["h-2", "nope", "h-1", "h-2"]
    response = await client.hosts.DescribeHosts(pb.DescribeHostsRequest(host_ids=asked))
    assert [host.host_id for host in response.hosts] == ["h-2", "h-1", "h-2"]
    for wrong in ([], ["h-1"] * 101):
        code, details = await refusal(
            client.hosts.DescribeHosts(pb.DescribeHostsRequest(host_ids=wrong))
        )
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "it must have 1 to 100" in details


async def test_a_host_holds_a_node_until_it_is_clean(client: Client, hosts: FakeHosts) -> None:
    hosts.join("h-1")
    job_id = await client.submit(ONE)
    host = await _host(client, "h-1")
    assert (host.state, host.job_id, host.reason) == (pb.BUSY, f"{job_id}#0", "")
    hosts.vote(job_id)
    hosts.up(job_id, 0)
    key = hosts.key(job_id, 0)
    hosts.host_of(key).say(key, Progress.EXITED, exit_code=0, unclean_reason="pid 7 will not die")
    assert await _word(client, "h-1") == ("QUARANTINED", "pid 7 will not die")
    resumed = (await client.hosts.ResumeHost(pb.ResumeHostRequest(host_id="h-1"))).host
    assert resumed.state == pb.QUARANTINED
    hosts.release(job_id)
    host = await _host(client, "h-1")
    assert (host.state, host.HasField("job_id")) == (pb.FREE, False)


async def test_a_host_that_voted_no_is_busy_until_it_has_let_go(
    client: Client, hosts: FakeHosts
) -> None:
    hosts.join("h-1")
    job_id = await client.submit(ONE)
    key = hosts.key(job_id, 0)
    hosts.by_id["h-1"].say(key, Progress.REFUSED, reason="no space")
    assert await _word(client, "h-1") == ("BUSY", f"is letting go of {key}")
    hosts.by_id["h-1"].say(key, Progress.RELEASED)
    assert await _word(client, "h-1") == ("FREE", "")


async def test_silence_and_a_fence(client: Client, cluster: FakeCluster, hosts: FakeHosts) -> None:
    hosts.join("h-1", "h-2")
    job_id = await client.submit(ONE)
    hosts.vote(job_id)
    hosts.up(job_id, 0)
    for host_id in ("h-1", "h-2"):
        hosts.by_id[host_id].disconnect()
    # A stream that closes means nothing by itself.
    assert await _word(client, "h-1") == ("BUSY", "its agent is not connected")
    assert await _word(client, "h-2") == ("FREE", "its agent is not connected")
    code, details = await refusal(client.hosts.FenceHost(pb.FenceHostRequest(host_id="h-1")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "host h-1 cannot be fenced before it is LOST" in details
    cluster.tick(40)
    word, reason = await _word(client, "h-1")
    assert word == "LOST"
    assert reason.startswith("silent since 2023-11-14 22:13:")
    assert reason.endswith(
        f"may still run {job_id}#0 attempt 1; if it is off: muster hosts fence h-1"
    )
    word, reason = await _word(client, "h-2")
    assert word == "LOST"
    assert "may still run" not in reason
    fenced = await client.hosts.FenceHost(pb.FenceHostRequest(host_id="h-1"))
    assert (fenced.host.state, fenced.host.HasField("job_id")) == (pb.LOST, False)
    assert fenced.gone == f"{job_id}#0 attempt 1"
    assert (await client.hosts.FenceHost(pb.FenceHostRequest(host_id="h-2"))).gone == ""
    assert (await client.only(job_id))["status"] == "FAILED"
    hosts.by_id["h-1"].hello()
    assert await _word(client, "h-1") == ("FREE", "")


async def test_a_host_that_was_stopped_says_no_more_that_it_starts(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    job_id = await one_that_runs(client, hosts)
    host, key = hosts.by_id["h-1"], hosts.key(job_id, 0)
    host.hello((i.Observation(key=key, progress=Progress.UP),), "the agent is starting")
    cluster.feed(i.HostGoodbye(session_id=host.session_id, goes_on=(key,)))
    host.disconnect()
    word, reason = await _word(client, "h-1")
    assert word == "STOPPED"
    assert "is starting" not in reason
    assert reason.endswith(
        f"{key} may go on; start the agent again, or, if the machine is off: muster hosts fence h-1"
    )
    request = pb.FenceHostRequest(host_id="h-1")
    assert (await client.hosts.FenceHost(request)).gone == str(key)


async def test_a_host_is_reserved_for_longer_than_anything_may_run_there(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    hosts.join("h-1", "h-2", "h-3")
    job_id = await client.submit(GANG)
    hosts.vote(job_id)
    hosts.up(job_id, 0)
    hosts.up(job_id, 1)
    key = hosts.key(job_id, 1)
    child = hosts.host_of(key)
    child.say(key, Progress.RELEASED, exit_code=0)
    child.disconnect()
    cluster.tick(40)
    word, reason = await _word(client, child.host_id)
    assert word == "LOST"
    assert reason.endswith("nothing runs there, and its gang has not ended")
    fenced = await client.hosts.FenceHost(pb.FenceHostRequest(host_id=child.host_id))
    assert fenced.gone == ""


async def test_a_host_is_forgotten(client: Client, hosts: FakeHosts) -> None:
    hosts.join("h-1")
    code, details = await refusal(client.hosts.ForgetHost(pb.ForgetHostRequest(host_id="h-1")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "stop its agent first" in details
    hosts.by_id["h-1"].disconnect()
    await client.hosts.ForgetHost(pb.ForgetHostRequest(host_id="h-1"))
    assert not (await client.hosts.ListHosts(pb.ListHostsRequest())).hosts
    hosts.by_id["h-1"].hello()
    assert await _word(client, "h-1") == ("FREE", "")


async def test_a_restart_has_not_seen_its_hosts(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    hosts.join("h-1")
    known = cluster.state.hosts
    cluster.machine = Machine(cluster.settings)
    cluster.machine.state.hosts |= known
    cluster.machine.start(cluster.now_ms)
    host = await _host(client, "h-1")
    assert (host.state, host.last_contact_at) == (pb.UNSEEN, 0)
    assert host.reason == "its agent has not called since the coordinator started"
    hosts.by_id["h-1"].hello(unusable_reason="docker does not answer")
    assert await _word(client, "h-1") == ("UNUSABLE", "docker does not answer")


async def test_operators_are_told_that_the_journal_is_older(
    client: Client, cluster: FakeCluster, hosts: FakeHosts
) -> None:
    hosts.join("h-1")
    listed = await client.hosts.ListHosts(pb.ListHostsRequest())
    assert listed.notice == ""
    cluster.state.outrun = Outrun(host_id=HostId("h-1"), life_id="aa", position=12, is_known=True)
    cluster.state.shortage = "the disk is nearly full"
    listed = await client.hosts.ListHosts(pb.ListHostsRequest())
    assert listed.notice == (
        "The journal of the coordinator is older than what host h-1 has seen (entry 12, which is "
        "not in this journal): nothing is placed, since jobs that have ended could run again; what "
        "runs goes on. Bring back the newer journal, or start the coordinator once with "
        "--accept-older-journal; the disk is nearly full: no new jobs, definitions and queues are "
        "taken until that is put right"
    )


async def test_draining(client: Client, hosts: FakeHosts) -> None:
    hosts.join("h-1")
    drained = (
        await client.hosts.DrainHost(pb.DrainHostRequest(host_id="h-1", reason="new disk"))
    ).host
    assert (drained.state, drained.draining, drained.reason) == (
        pb.FREE,
        True,
        "draining: new disk (until: muster hosts resume h-1)",
    )
    again = (await client.hosts.DrainHost(pb.DrainHostRequest(host_id="h-1"))).host
    assert again.reason == "draining (until: muster hosts resume h-1)"
    resumed = (await client.hosts.ResumeHost(pb.ResumeHostRequest(host_id="h-1"))).host
    assert (resumed.draining, resumed.reason) == (False, "")


async def test_what_is_done_to_hosts_needs_a_host(client: Client) -> None:
    for rpc in ("DrainHost", "ResumeHost", "FenceHost", "ForgetHost"):
        call, request = getattr(client.hosts, rpc), getattr(pb, f"{rpc}Request")
        code, details = await refusal(call(request(host_id="nope")))
        assert code is grpc.StatusCode.NOT_FOUND
        assert details.startswith("Host nope does not exist")
        assert await refusal(call(request())) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "hostId is required",
        )
    code, _ = await refusal(
        client.hosts.DrainHost(pb.DrainHostRequest(host_id="h-1", reason="x" * 1025))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
