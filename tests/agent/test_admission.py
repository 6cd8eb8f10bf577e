"""A host's answers: secrets, logins, GPUs, sizes; and who is named in a refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.admission import HostAdmission, NotAdmitted
from agent.core.assignment import ContainerSpec, Login, SecretRef
from agent.host.gpus import gpus
from agent.policy import Policy
from agent.secret_store import SecretStore

ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:db"
VALUE = "hunter2-never-shown"
STORE = f"""
[secrets]
plain = "{VALUE}"
"{ARN}" = "two\\nlines"
[registries.team]
username = "ci"
password = "{VALUE}"
[registries.half]
username = "ci"
"""
SPEC = ContainerSpec(
    image="busybox", command=(), environment=(("A", "1"), ("B", "2")), vcpus=1, memory_mib=64
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    file = tmp_path / "secrets.toml"
    file.touch(mode=0o600)
    file.write_text(STORE)
    return file


def host(store: Path | None = None, gpu_ids: tuple[str, ...] = ()) -> HostAdmission:
    return HostAdmission(
        host_id="h1",
        policy=Policy(),
        secrets=SecretStore(store),
        vcpus=4,
        memory_mib=1000,
        gpus=gpu_ids,
    )


def refused(admission: HostAdmission, **members: Any) -> str:
    with pytest.raises(NotAdmitted) as at:
        admission.admit(replace(SPEC, **members))
    assert VALUE not in str(at.value)
    return str(at.value)


def test_secrets_become_variables(store: Path) -> None:
    wanted = (SecretRef(name="B", key="plain"), SecretRef(name="C", key=ARN))
    admitted = host(store).admit(replace(SPEC, secrets=wanted))
    assert admitted.environment == (("A", "1"), ("B", VALUE), ("C", "two\nlines"))


def test_an_edit_counts_at_once(store: Path) -> None:
    admission = host(store)
    wanted = replace(SPEC, secrets=(SecretRef(name="S", key="late"),))
    assert "no secret 'late'" in refused(admission, secrets=wanted.secrets)
    store.write_text('[secrets]\nlate = "now"\n')
    assert dict(admission.admit(wanted).environment)["S"] == "now"


def test_a_login_is_by_name_and_prints_no_password(store: Path) -> None:
    login = host(store).admit(replace(SPEC, credential="team")).login
    assert login == Login(username="ci", password=VALUE)
    assert VALUE not in repr(login)
    for name in ("half", "nobody"):
        assert f"no registry login {name!r}" in refused(host(store), credential=name)


def test_a_store_is_its_owners_alone(store: Path, tmp_path: Path) -> None:
    wanted = (SecretRef(name="S", key="plain"),)
    store.chmod(0o640)
    assert "can be read by others; chmod 600" in refused(host(store), secrets=wanted)
    assert "secrets_file is not set" in refused(host(), secrets=wanted)
    assert "No such file" in refused(host(tmp_path / "absent"), secrets=wanted)
    store.chmod(0o600)
    store.write_text(f'[secrets\nplain = "{VALUE}"')
    assert "is not TOML" in refused(host(store), secrets=wanted)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"gpus": 4}, "host h1 has 2 GPUs, the node needs 4"),
        ({"vcpus": 5}, "host h1 has 4 vCPUs, the node needs 5"),
        ({"memory_mib": 1001}, "host h1 has 1000 MiB of memory, the node needs 1001"),
        ({"privileged": True}, "host h1 does not allow privileged containers"),
    ],
)
def test_a_refusal_names_host_and_reason(members: dict[str, Any], words: str) -> None:
    assert words in refused(host(gpu_ids=("GPU-1", "GPU-2")), **members)


def test_gpus_are_pinned_and_others_see_none() -> None:
    with_gpus = host(gpu_ids=("GPU-1", "GPU-2"))
    one = with_gpus.admit(replace(SPEC, gpus=1))
    assert one.gpu_ids == ("GPU-1",)
    assert dict(one.environment)["NVIDIA_VISIBLE_DEVICES"] == "GPU-1"
    assert dict(with_gpus.admit(SPEC).environment)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "NVIDIA_VISIBLE_DEVICES" not in dict(host().admit(SPEC).environment)


def test_gpus_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus("docker") == ()
    tool.write_text('#!/bin/sh\n[ "$1" = --query-gpu=uuid ] && echo GPU-a && echo GPU-b\n')
    tool.chmod(0o755)
    assert gpus("docker") == gpus("process") == ("GPU-a", "GPU-b")
    tool.write_text("#!/bin/sh\necho no driver >&2; exit 9\n")
    assert gpus("docker") == ()


def test_gpus_by_cdi(tmp_path: Path) -> None:
    assert gpus("podman", [tmp_path / "absent", tmp_path]) == ()
    (tmp_path / "other.json").write_text('{"kind": "vendor.com/net", "devices": [{"name": "0"}]}')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "nvidia.yaml").write_text(
        'cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: "0"\n  containerEdits:\n'
        "    deviceNodes:\n    - path: /dev/nvidia0\n- name: '1'\n- name: all\n"
        "containerEdits:\n  hooks:\n  - hookName: createContainer\n    name: no-device\n"
    )
    assert gpus("podman", [tmp_path]) == ("0", "1")
    (tmp_path / "uuids.json").write_text(
        '{"kind": "nvidia.com/gpu", "devices": [{"name": "GPU-a"}, {"name": "0"}, {"name": "all"}]}'
    )
    assert gpus("podman", [tmp_path]) == ("GPU-a",)
