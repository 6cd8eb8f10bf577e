"""What a host allows: each rule, and definitions that try to get round it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.assignment import ContainerSpec, Device, Mount, SecretRef, Tmpfs, Ulimit
from agent.policy import NotAllowed, PathRule, Policy, full_image

SPEC = ContainerSpec(image="busybox", command=("run",), environment=(), vcpus=1, memory_mib=64)


def refused(policy: Policy, **members: Any) -> str:
    with pytest.raises(NotAllowed) as at:
        policy.admit(replace(SPEC, **members))
    return str(at.value)


def test_by_default_nothing_of_the_host_is_given(tmp_path: Path) -> None:
    policy = Policy()
    assert policy.admit(SPEC) == replace(SPEC, image="docker.io/library/busybox:latest")
    assert "allow_privileged is false" in refused(policy, privileged=True)
    mount = Mount(target="/data", source=str(tmp_path))
    assert "allow_host_paths is []" in refused(policy, mounts=(mount,))
    device = Device(host_path="/dev/null", container_path="/dev/null")
    assert "allow_devices is []" in refused(policy, devices=(device,))
    assert policy.admit(replace(SPEC, mounts=(Mount(target="/s", volume="v"),))).mounts


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("team/tool:1", "docker.io/team/tool:1"),
        ("reg.lab:5000/a/b", "reg.lab:5000/a/b:latest"),
        ("localhost/a:1", "localhost/a:1"),
        ("a@sha256:0123", "docker.io/library/a@sha256:0123"),
    ],
)
def test_a_reference_in_full(written: str, full: str) -> None:
    assert full_image(written) == full


def test_images() -> None:
    policy = Policy(images=("docker.io/library/*", "reg.lab/*:1"))
    for image in ("busybox", "docker.io/library/busybox", "reg.lab/a/b:1"):
        policy.admit(replace(SPEC, image=image))
    for image in ("evil/busybox", "reg.lab/a:2", "evil.io/docker.io/library/x", "--privileged"):
        assert image in refused(policy, image=image)


@pytest.mark.parametrize(
    "image",
    [
        *("tarball:/srv/backup.tgz", "docker-archive:/a.tar", "dir:/etc", "oci:/a:b", "oci:5000/x"),
        *("docker-daemon:a:b", "containers-storage:a/b:c", "docker://a/b", "sif:8080/x.sif"),
        *("", " a", "a b", "a\n", "a/", "/a", "a::b", "a@b", "../a", "a" * 600),
    ],
)
def test_what_is_no_reference_is_no_image(image: str) -> None:
    """To podman some of them are files of the host."""
    assert "the image name" in refused(Policy(), image=image)


def test_what_was_judged_is_what_is_run() -> None:
    """An engine would look for a short name, or an id, among what it has by other names."""
    assert Policy().admit(replace(SPEC, image="c3c3dff190c3")).image == (
        "docker.io/library/c3c3dff190c3:latest"
    )
    assert Policy().admit(replace(SPEC, image="dir:x")).image == "docker.io/library/dir:x"


def test_users() -> None:
    policy = Policy(users=("1000:*", "nobody"))
    for user in ("1000:1000", "nobody"):
        policy.admit(replace(SPEC, user=user))
    for user in ("0", "root", "1000", "0:1000", "1000:0", "1000:root", "nobody:1"):
        assert "allow_users" in refused(policy, user=user)
    for user in ("00", "+0", "1000:00", "1000:+0", "1000:0:x", "²", "-1", "4294967295", "", "a b"):
        assert "the user" in refused(Policy(), user=user)
    assert "the image's own user" in refused(policy, user=None)
    Policy(users=("",)).admit(SPEC)
    # Both ways to write it are one user.
    assert Policy(users=("root",)).admit(replace(SPEC, user="0")).user == "0"


def rules(*texts: str) -> Policy:
    return Policy(host_paths=tuple(PathRule.parse(text) for text in texts))


def mounted(policy: Policy, source: Path | str, *, read_only: bool = False) -> str:
    mount = Mount(target="/data", source=str(source), read_only=read_only)
    return policy.admit(replace(SPEC, mounts=(mount,))).mounts[0].source


def test_a_path_is_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "data" / "in").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    policy = rules(f"{tmp_path}/data:ro")
    assert mounted(policy, tmp_path / "data/in", read_only=True) == f"{tmp_path}/data/in"
    link = tmp_path / "data" / "link"
    link.symlink_to("in")
    assert mounted(policy, link, read_only=True) == f"{tmp_path}/data/in"
    # Turned round between the vote and the start.
    link.unlink()
    link.symlink_to(tmp_path / "secret")
    with pytest.raises(NotAllowed, match=f"which is {tmp_path}/secret"):
        mounted(policy, link, read_only=True)
    for path in ("secret", "data2", "data/../secret", "data/link/x", ""):
        with pytest.raises(NotAllowed):
            mounted(policy, f"{tmp_path}/{path}", read_only=True)


def test_links_that_go_round_are_an_error_that_admission_knows(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((OSError, RuntimeError)):
        mounted(rules(f"{tmp_path}:rw"), tmp_path / "loop")


def test_read_only_and_missing_directories(tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir()
    policy = rules(f"{tmp_path}/ro:ro", f"{tmp_path}/ro/rw:rw")
    with pytest.raises(NotAllowed, match="writing to the host path"):
        mounted(policy, tmp_path / "ro")
    with pytest.raises(NotAllowed, match="does not exist"):
        mounted(policy, tmp_path / "ro/missing", read_only=True)
    made = tmp_path / "ro/rw/new"
    assert mounted(policy, made) == str(made)
    assert made.is_dir()


def test_what_is_the_hosts_own_is_never_given(tmp_path: Path) -> None:
    own = tmp_path / "agent"
    own.mkdir()
    policy = replace(rules("/:rw"), reserved=(own,))
    for path in (own, own / "spool", tmp_path, "/", "/run/docker.sock", "/var/run"):
        with pytest.raises(NotAllowed, match="is this host's own"):
            mounted(policy, path)
    (tmp_path / "other").mkdir()
    assert mounted(policy, tmp_path / "other")
    assert mounted(replace(policy, host_paths=rules(f"{own}:rw").host_paths), own)


def test_devices() -> None:
    policy = Policy(devices=("/dev/nu*",))
    device = Device(host_path="/dev/null", container_path="/dev/x")
    assert policy.admit(replace(SPEC, devices=(device,))).devices == (device,)
    for path, words in (
        ("/dev/zero", "the device /dev/zero (allow_devices"),
        ("/dev/../etc/passwd", "it must not have '..'"),
        ("/etc/passwd", "the device /etc/passwd (allow_devices"),
        ("/dev/nu_missing", "which it does not have"),
    ):
        wanted = Device(host_path=path, container_path="/dev/x")
        assert words in refused(policy, devices=(wanted,))


@pytest.mark.parametrize("text", ["/data", "/data:rx", "data:ro", ":ro", "/a/../b:rw"])
def test_a_rule_is_a_path_and_a_mode(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        PathRule.parse(text)


def test_huge_requests() -> None:
    mounts = tuple(Mount(target=f"/{n}", volume="v") for n in range(10_000))
    assert "at most 1000" in refused(Policy(), mounts=mounts)
    assert "bytes" in refused(Policy(), command=("x" * 200_000,))
    assert "bytes" in refused(Policy(), environment=(("A", "x" * 200_000),))


@pytest.mark.parametrize(
    "members",
    [
        {"environment": ((" A", ""),)},
        {"environment": (("A\nB", ""),)},
        {"environment": (("A", "\0"),)},
        {"command": ("\0",)},
        {"secrets": (SecretRef(name=" ", key="k"),)},
        {"tmpfs": (Tmpfs(target="/a:b", size_mib=1),)},
        {"tmpfs": (Tmpfs(target="/a", size_mib=1, options=("a,b",)),)},
        {"mounts": (Mount(target="/a", volume="../etc:/x"),)},
        {"ulimits": (Ulimit(name="a=1 --privileged", soft=1, hard=1),)},
    ],
)
def test_no_word_is_taken_for_more(members: dict[str, Any]) -> None:
    """Also from a coordinator that let it through."""
    refused(Policy(), **members)


@given(st.text(min_size=1, max_size=60))
def test_no_text_is_a_way_out_of_an_allowed_directory(text: str) -> None:
    policy = rules("/nonexistent-allowed:ro")
    with pytest.raises(NotAllowed):
        mounted(policy, f"/nonexistent-allowed/{text}", read_only=True)


@given(st.text(max_size=60))
def test_an_image_is_never_a_flag(image: str) -> None:
    try:
        Policy().admit(replace(SPEC, image=image))
    except NotAllowed:
        return
    assert not image.startswith("-")
    assert image.isprintable()
