"""Every property of a container, on both engines, looked at from inside.

docs/containers.md names these tests; a test there that is not here fails.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.core.assignment import Device, Mount, Tmpfs, Ulimit
from agent.engine.parse import OUT_OF_MEMORY
from agent.engine.port import EngineError
from tests.contract.engine_bench import CONTAINERS, Bench, bench, host, shell

__all__ = ["bench", "host"]

pytestmark = [CONTAINERS, pytest.mark.limit(120)]


async def said(bench: Bench, script: str, code: int = 0, **members: Any) -> str:
    """What a script in a container with these properties says."""
    key = bench.key()
    spec = bench.spec(key, shell(script), **members)
    await bench.engine.prepare(key, spec)
    await bench.engine.start(key, spec)
    end = await bench.ended(key)
    assert (end.exit_code, end.reason) == (code, ""), bench.output(key)
    await bench.engine.remove(key)
    return bench.output(key)


def controller(name: str) -> str:
    """A script's way to its own control group of version 1, or of version 2."""
    return f"$(test -d /sys/fs/cgroup/{name} && echo /sys/fs/cgroup/{name} || echo /sys/fs/cgroup)"


async def test_vcpus_are_a_weight_and_no_cap(bench: Bench) -> None:
    weight = await said(
        bench,
        f"cd {controller('cpu')}; cat cpu.shares 2>/dev/null || cat cpu.weight; cat "
        "cpu.cfs_quota_us 2>/dev/null || cat cpu.max",
        vcpus=2,
    )
    assert weight.split()[0] in ("2048", "79")
    assert weight.split()[1] in ("-1", "max")


async def test_memory_is_a_limit(bench: Bench) -> None:
    limit = await said(
        bench,
        f"cd {controller('memory')}; cat memory.limit_in_bytes 2>/dev/null || cat memory.max",
        memory_mib=32,
    )
    assert int(limit) == 32 * 2**20


async def test_too_much_memory_is_said_to_be_the_reason(bench: Bench) -> None:
    key = bench.key()
    eat = shell("x=x; while :; do x=$x$x; done")
    await bench.engine.start(key, bench.spec(key, eat, memory_mib=16))
    end = await bench.ended(key)
    assert (end.exit_code, end.reason) == (137, OUT_OF_MEMORY)


async def test_a_user(bench: Bench) -> None:
    assert await said(bench, "id -u; id -g", user="1234:7") == "1234\n7\n"


async def test_privileged(bench: Bench) -> None:
    """A machine that lacks a capability cannot give it; then the engine's word counts."""
    script = "while read -r a b; do case $a in CapEff:) echo $b;; esac; done < /proc/self/status"
    few = await said(bench, script)
    key = bench.key()
    try:
        await bench.engine.start(key, bench.spec(key, shell(script), privileged=True))
    except EngineError as error:
        if "unable to apply caps" not in error.reason:
            raise
        assert '"Privileged": true' in await bench.inspected(key)
    else:
        await bench.ended(key)
        assert int(few, 16).bit_count() < int(bench.output(key), 16).bit_count()


async def test_a_read_only_root(bench: Bench) -> None:
    """Everywhere: podman alone would make /tmp and /run writable."""
    script = "for d in / /tmp /run /bin; do (echo x > $d/x) 2>/dev/null && echo $d; done; true"
    assert await said(bench, script, read_only_root=True) == ""
    assert "/tmp" in await said(bench, script)


async def test_ulimits(bench: Bench) -> None:
    limits = (Ulimit(name="core", soft=0, hard=0), Ulimit(name="nofile", soft=100, hard=200))
    assert await said(bench, "ulimit -c; ulimit -n; ulimit -Hn", ulimits=limits) == "0\n100\n200\n"


async def test_devices(bench: Bench) -> None:
    devices = (
        Device(host_path="/dev/null", container_path="/dev/other"),
        # None that every container may write to anyway.
        Device(host_path="/dev/kmsg", container_path="/dev/read-only", permissions="r"),
    )
    script = (
        "echo x > /dev/other && echo written; "
        "(echo x > /dev/read-only) 2>/dev/null || echo refused; test -c /dev/read-only && echo is"
    )
    assert await said(bench, script, devices=devices) == "written\nrefused\nis\n"


async def test_shared_memory(bench: Bench) -> None:
    mounts = await said(bench, "cat /proc/mounts", shared_memory_mib=13)
    (line,) = [line for line in mounts.splitlines() if line.split()[1] == "/dev/shm"]
    assert f"size={13 * 1024}k" in line


async def test_tmpfs(bench: Bench) -> None:
    tmpfs = (Tmpfs(target="/scratch", size_mib=3, options=("defaults", "noexec", "mode=0700")),)
    mounts = await said(bench, "cat /proc/mounts", tmpfs=tmpfs)
    (line,) = [line for line in mounts.splitlines() if line.split()[1] == "/scratch"]
    _, _, kind, options, *_ = line.split()
    assert kind == "tmpfs"
    assert {"size=3072k", "noexec", "mode=700"} <= set(options.split(","))


@pytest.mark.parametrize(("swap_mib", "swappiness"), [(0, None), (16, None), (16, 10)])
async def test_swap(bench: Bench, swap_mib: int, swappiness: int | None) -> None:
    """A kernel that does not count swap says nothing, and then the start must not fail."""
    limit = await said(
        bench,
        f"cd {controller('memory')}; cat memory.memsw.limit_in_bytes 2>/dev/null || "
        "cat memory.swap.max 2>/dev/null || echo none",
        memory_mib=32,
        max_swap_mib=swap_mib,
        swappiness=swappiness,
    )
    assert limit.strip() in ("none", str((32 + swap_mib) * 2**20), str(swap_mib * 2**20))


async def test_an_init(bench: Bench) -> None:
    script = "cat /proc/1/comm"
    assert await said(bench, script) in ("sh\n", "cat\n")
    assert await said(bench, script, init=True) in ("docker-init\n", "podman-init\n", "tini\n")


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_host_volume(bench: Bench, tmp_path: Path, read_only: bool) -> None:
    (tmp_path / "in").write_text("hello\n")
    mounts = (Mount(target="/data", source=str(tmp_path), read_only=read_only),)
    out = await said(
        bench, "cat /data/in; (echo x > /data/out) 2>/dev/null && echo wrote; true", mounts=mounts
    )
    assert out == ("hello\n" if read_only else "hello\nwrote\n")
    assert (tmp_path / "out").exists() is not read_only


async def test_a_scratch_volume_is_shared_and_goes_with_its_node(bench: Bench) -> None:
    mounts = (
        Mount(target="/a", volume="scratch"),
        Mount(target="/b", volume="scratch", read_only=True),
        Mount(target="/c", volume="other"),
    )
    script = (
        "echo x > /a/f; cat /b/f; (echo x > /b/g) 2>/dev/null || echo refused; "
        "test -e /c/f || echo apart"
    )
    key = bench.key()
    spec = bench.spec(key, shell(script), mounts=mounts)
    await bench.engine.start(key, spec)
    await bench.ended(key)
    assert bench.output(key) == "x\nrefused\napart\n"
    assert len(await bench.volumes(key)) == 2
    await bench.restart_agent()
    await bench.engine.remove(key)
    assert await bench.volumes(key) == []


async def test_the_entrypoint_stays(bench: Bench) -> None:
    """A command replaces the image's CMD only."""
    image = bench.image_with('ENTRYPOINT ["/bin/echo", "entered:"]', 'CMD ["image", "command"]')
    outputs = []
    for command in ((), ("my", "$HOME")):
        key = bench.key()
        await bench.engine.start(key, bench.spec(key, command, image=image))
        await bench.ended(key)
        outputs.append(bench.output(key))
    assert outputs == ["entered: image command\n", "entered: my $HOME\n"]


async def test_a_gate_holds_the_whole_command_line(bench: Bench, tmp_path: Path) -> None:
    """It waits in a running container, and ENTRYPOINT and CMD come after it as ever."""
    image = bench.image_with('ENTRYPOINT ["/bin/echo", "entered:"]', 'CMD ["image"]')
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    tmp_path.chmod(0o755)
    mounts = (Mount(target="/run/muster", source=str(tmp_path), read_only=True),)
    key = bench.key()
    spec = bench.spec(key, (), image=image, mounts=mounts, gate="/run/muster/gate", user="1234")
    await bench.engine.start(key, spec)
    (managed,) = await bench.engine.list_managed()
    assert managed.running
    gate.write_text("\n")
    assert (await bench.ended(key)).exit_code == 0
    assert bench.output(key) == "entered: image\n"


async def test_who_waits_at_a_gate_obeys_a_stop(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    mounts = (Mount(target="/run/muster", source=str(tmp_path), read_only=True),)
    key = bench.key()
    spec = bench.spec(key, shell("echo went"), mounts=mounts, gate="/run/muster/gate")
    await bench.engine.start(key, spec)
    await bench.engine.stop(key, 20)
    assert (await bench.ended(key)).exit_code == 143
    assert bench.output(key) == ""


async def test_the_hostname_is_the_hosts_address(bench: Bench) -> None:
    """`hostname -i` of programs: this name, looked up in the container's /etc/hosts."""
    script = "cat /proc/sys/kernel/hostname /etc/hosts"
    name, *hosts = (await said(bench, script)).splitlines()
    assert name == "ip-127-0-0-1"
    assert [line.split()[0] for line in hosts if name in line.split()[1:]] == ["127.0.0.1"]


async def test_an_image_that_looks_like_a_flag_is_an_image(bench: Bench) -> None:
    key = bench.key()
    with pytest.raises(EngineError, match=r"CannotPullContainerError: .*invalid reference"):
        await bench.engine.prepare(key, bench.spec(key, shell("true"), image="--privileged"))
