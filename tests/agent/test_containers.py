"""Control groups and command lines as docker, podman, crun and systemd make them."""

from __future__ import annotations

import pytest

from agent.host import containers
from agent.host.ids import container_id

ID = container_id("0123456789abcdef" * 4)
OTHER = container_id("fedcba9876543210" * 4)

CONMON = (
    f"/usr/bin/conmon --api-version 1 -c {ID} -u {ID} -r /usr/bin/crun -b /b -p /p "
    "-n muster-j-1-0 --exit-dir /e --full-attach -s -l k8s-file:/l --exit-command /usr/bin/podman "
    f"--exit-command-arg container --exit-command-arg cleanup --exit-command-arg {ID}"
).encode().split()  # fmt: skip
DOCKER = (
    f"/usr/bin/containerd-shim-runc-v2 -namespace moby -id {ID} -address /run/c.sock"
).encode().split()  # fmt: skip
USER = "user.slice/user-1000.slice/user@1000.service/user.slice"


@pytest.mark.parametrize(
    "group",
    [
        f"0::/docker/{ID}",
        f"0::/system.slice/docker-{ID}.scope",
        f"0::/{USER}/docker-{ID}.scope",
        f"0::/../docker-{ID}.scope",
        f"0::/machine.slice/libpod-{ID}.scope/container",
        f"0::/machine.slice/libpod-{ID}.scope/container/made-by-the-job",
        f"0::/{USER}/user-libpod_pod_{OTHER}.slice/libpod-{ID}.scope",
        f"0::/system.slice/my.service/libpod-payload-{ID}",
        f"0::/x/crun-{ID}.scope",
        f"9:memory:/libpod_parent/libpod-{ID}\n0::/",
        f"5:a,b:/x\n1:name=systemd:/docker/{ID}\n0::/",
    ],
)
def test_groups_of_a_container(group: str) -> None:
    assert containers.has_group(group.encode(), ID)
    assert not containers.has_group(group.encode(), OTHER)


@pytest.mark.parametrize(
    "group",
    [
        "",
        "0::/",
        # Podman's supervisor has yet to write down how its container ended.
        f"0::/machine.slice/libpod-conmon-{ID}.scope",
        f"0::/machine.slice/libpod-{OTHER}.scope",
        # A name that holds the id and is another's.
        f"0::/system.slice/backup-of-{ID}.service",
        f"0::/{ID}0",
        f"0::/libpod-{ID}.scope.d",
        f"3:name={ID}:/",
    ],
)
def test_groups_of_others(group: str) -> None:
    assert not containers.has_group(group.encode(), ID)


def test_a_supervisor_is_known_by_its_command_line() -> None:
    assert containers.supervises(CONMON, ID)
    assert containers.supervises(DOCKER, ID)
    assert not containers.supervises(CONMON, OTHER)
    assert not containers.supervises([b"sh", *CONMON], ID)
    assert not containers.supervises([], ID)


def test_a_supervisor_tells_the_id_of_a_name() -> None:
    assert containers.supervised(CONMON, "muster-j-1-0") == ID
    assert containers.supervised(CONMON, "muster-j-1-1") is None
    assert containers.supervised(DOCKER, "muster-j-1-0") is None
    assert containers.supervised(CONMON[:3], "") is None
    assert containers.supervised([b"conmon", b"-c", b"", b"-n", b"n"], "n") is None
