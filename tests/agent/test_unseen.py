"""What an agent without root may not look into is found all the same, or counted as still there."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from agent.host import processes
from agent.host.survivors import blindness
from tests.unprivileged import OTHER_UID, copied, unprivileged
from tests.wait import eventually_blocking

pytestmark = pytest.mark.real("setpriv")

# Runs one node, tells what `stop` and `remove` say, and removes again when the test says so. It is
# a subreaper, as a user's systemd is, so that orphans of the rest of the machine are none of its.
AGENT = """
import asyncio, ctypes, json, sys
from pathlib import Path
from agent.core.assignment import ContainerSpec, NodeKey
from agent.engine import process
from agent.engine.port import EngineError
from agent.host import survivors

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
process._DEATH_SECONDS = survivors.DEATH_SECONDS = 1.0
directory, job_id, script = sys.argv[1:]
key = NodeKey(job_id=job_id, attempt=1, node_index=0)
engine, restarted = (
    process.ProcessEngine(Path(directory, "data"), Path(directory, "spool"), 1 << 20)
    for _ in range(2)
)
spec = ContainerSpec(image="", command=("sh", "-c", script), vcpus=1, memory_mib=1, environment=(
    ("AWS_BATCH_JOB_ID", f"{job_id}#0"), ("AWS_BATCH_JOB_ATTEMPT", "1")))

async def said(verb):
    try:
        result = await verb
    except EngineError as error:
        result = error.reason
    print(json.dumps(str(result)), flush=True)

async def main():
    await engine.start(key, spec)
    print(json.dumps("started"), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await said(engine.probe())
    await said(engine.stop(key, 0))
    await said(engine.wait(key))
    await said(engine.remove(key))
    await said(restarted.remove(key))
    await asyncio.to_thread(sys.stdin.readline)
    await said(engine.remove(key))

asyncio.run(main())
"""


def written_pids(file: Path) -> list[int]:
    """What the node wrote into `file`."""
    eventually_blocking(file.exists, 30, lambda: list(file.parent.iterdir()))
    return [int(word) for word in file.read_text().split()]


def comes_to_run(pid: int, program: str) -> None:
    """Return when the process has become `program`."""

    def name() -> str | None:
        found = processes.process(pid)
        return found.name if found is not None else None

    eventually_blocking(lambda: name() == program, 30, name)


def test_a_child_of_another_user_is_still_there(tmp_path: Path) -> None:
    """As what sudo runs: neither to be looked into nor to be killed."""
    as_other = copied("setpriv", tmp_path / "as-other", 0o4755, OTHER_UID)
    script = (
        f"setsid {as_other} --reuid {OTHER_UID} --keep-groups sleep 1000 & "
        f"echo $! > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; sleep 1000"
    )
    with unprivileged(AGENT, str(tmp_path), f"unseen-{os.getpid()}", script) as agent:
        assert agent.says() == "started"
        [pid] = written_pids(tmp_path / "pid")
        comes_to_run(pid, "sleep")
        agent.go_on()
        assert "cannot read the variables of other users" in agent.says()
        evidence = (
            rf"pid {pid} \(sleep, uid {OTHER_UID}, state S\); this agent may not signal pid {pid}"
        )
        assert re.search(evidence, agent.says())
        assert re.search(r"exit_code=1(43|37)", agent.says())
        assert re.search(evidence, agent.says())
        assert re.search(evidence, agent.says()), "its shim is there for the next agent too"
        os.kill(pid, signal.SIGKILL)
        agent.go_on()
        assert agent.says() == "None"


def test_what_hides_from_the_agent_and_lost_its_shim_cannot_be_judged(tmp_path: Path) -> None:
    """A program that may only be executed, in a session of its own, whose shim was killed."""
    hidden = copied("sleep", tmp_path / "hidden", 0o111)
    script = (
        f"setsid env -i {hidden} 1000 & "
        f"echo $! $PPID > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pids; sleep 1000"
    )
    with unprivileged(AGENT, str(tmp_path), f"unseen-{os.getpid()}", script) as agent:
        assert agent.says() == "started"
        pid, shim = written_pids(tmp_path / "pids")
        comes_to_run(pid, "hidden")
        os.kill(shim, signal.SIGKILL)
        agent.go_on()
        agent.says()
        assert agent.says() == "None"
        assert "exit_code=137" in agent.says()
        evidence = rf"shim was killed, .*pid {pid} \(hidden, uid 0, state S\)"
        assert re.search(evidence, agent.says())
        assert processes.process(pid) is not None
        agent.says()
        os.kill(pid, signal.SIGKILL)
        agent.go_on()
        assert agent.says() == "None"


PROBE = """
import asyncio, json
from pathlib import Path
from agent.engine.argv import Site
from agent.engine.podman import PodmanEngine
from agent.engine.port import EngineError
from agent.engine.process import ProcessEngine

async def main():
    here = Path("/nowhere")
    print(json.dumps(await ProcessEngine(here, here, 1).probe()), flush=True)
    try:
        await PodmanEngine("true", Site(host_id="h", private_ipv4=""), here, 1).probe()
    except EngineError as error:
        print(json.dumps([error.error_class, error.reason]), flush=True)

asyncio.run(main())
"""


def test_where_processes_are_hidden_no_container_is_taken() -> None:
    """What a container leaves could not be seen. A shim sees its own descendants end."""
    with unprivileged(PROBE, hidden=True) as script:
        assert "hides other users' processes" in script.says()
        error_class, reason = script.says()
        assert error_class == "ENGINE_GONE"
        assert reason.startswith(
            "MusterHostError: /proc hides other users' processes from this agent"
        )


def test_an_agent_of_root_has_no_limits_to_tell() -> None:
    assert processes.may_look_into_all()
    assert blindness() == ""
