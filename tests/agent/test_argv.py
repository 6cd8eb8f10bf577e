"""The command lines of docker and podman, and the way a job's environment takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core.assignment import ContainerSpec, Device, Mount, NodeKey, Tmpfs, Ulimit
from agent.engine import argv
from agent.engine.docker import DockerEngine
from agent.engine.parse import ImageCommand
from agent.engine.podman import PodmanEngine

KEY = NodeKey(job_id="j-1", attempt=2, node_index=3)


def spec(**changes: object) -> ContainerSpec:
    values: dict[str, object] = {
        "image": "registry/image:1",
        "command": ("run", "--flag"),
        "environment": (),
        "vcpus": 2,
        "memory_mib": 512,
        **changes,
    }
    return ContainerSpec(**values)  # type: ignore[arg-type]


ENVIRONMENT = argv.SplitEnvironment("", ("LINES=a\nb",), (("NAME", "x\ny"),), ())
SITE = argv.Site(host_id="host-a", private_ipv4="10.0.0.7")
DOCKER, PODMAN = DockerEngine._dialect, PodmanEngine._dialect


def run(
    made_of: ContainerSpec,
    site: argv.Site = SITE,
    dialect: argv.Dialect = DOCKER,
    image_command: ImageCommand | None = None,
) -> list[str]:
    env_file = "/proc/self/fd/9"
    return argv.run(KEY, made_of, site, dialect, 7000, env_file, ENVIRONMENT, image_command)


def test_run() -> None:
    assert run(spec(user="1:2"), replace(SITE, extra=("--extra",))) == [
        "run",
        "--detach",
        "--name",
        "muster-j-1-2-3",
        "--pull",
        "never",
        "--label=muster.job=j-1",
        "--label=muster.attempt=2",
        "--label=muster.node=3",
        "--label=muster.host=host-a",
        "--network=host",
        "--hostname=ip-10-0-0-7",
        "--add-host=ip-10-0-0-7:10.0.0.7",
        "--cpu-shares=2048",
        "--memory=512m",
        "--user=1:2",
        "--env-file=/proc/self/fd/9",
        "--env=LINES=a\nb",
        "--env=NAME",
        *DOCKER.run,
        "--log-opt=max-size=7000",
        "--extra",
        "--",
        "registry/image:1",
        "run",
        "--flag",
    ]


def test_without_a_user_the_image_decides() -> None:
    assert not [argument for argument in run(spec()) if argument.startswith("--user")]


@pytest.mark.parametrize(
    ("members", "docker", "podman"),
    [
        ({"privileged": True}, ["--privileged"], None),
        ({"init": True}, ["--init"], None),
        ({"read_only_root": True}, ["--read-only"], ["--read-only", "--read-only-tmpfs=false"]),
        (
            {"ulimits": (Ulimit(name="memlock", soft=-1, hard=-1),)},
            ["--ulimit=memlock=-1:-1"],
            None,
        ),
        ({"shared_memory_mib": 64}, ["--shm-size=64m"], None),
        ({"max_swap_mib": 0}, ["--memory-swap=512m"], None),
        (
            {"max_swap_mib": 8, "swappiness": 0},
            ["--memory-swap=520m", "--memory-swappiness=0"],
            None,
        ),
        ({"swappiness": 60}, [], None),
        (
            {"tmpfs": (Tmpfs(target="/t", size_mib=1, options=("defaults", "mode=700")),)},
            ["--tmpfs=/t:size=1m,mode=700"],
            None,
        ),
        (
            {"devices": (Device(host_path="/dev/a", container_path="/dev/b", permissions="r"),)},
            ["--device=/dev/a:/dev/b:r"],
            None,
        ),
        (
            {
                "mounts": (
                    Mount(target="/in", source="/out", read_only=True),
                    Mount(target="/tmp", volume="v"),
                )
            },
            ["--volume=/out:/in:ro", f"--volume={KEY.name}-v:/tmp"],
            None,
        ),
        (
            {"gpu_ids": ("GPU-1", "GPU-2")},
            ['--gpus="device=GPU-1,GPU-2"'],
            ["--device=nvidia.com/gpu=GPU-1", "--device=nvidia.com/gpu=GPU-2"],
        ),
    ],
)
def test_each_property_is_these_flags(
    members: dict[str, object], docker: list[str], podman: list[str] | None
) -> None:
    """`podman` None means that it takes docker's."""
    for dialect, flags in ((DOCKER, docker), (PODMAN, docker if podman is None else podman)):
        plain = run(spec(), dialect=dialect)
        assert [flag for flag in run(spec(**members), dialect=dialect) if flag not in plain] == (
            flags
        )


def test_a_named_network_gives_an_address_of_its_own() -> None:
    site = replace(SITE, network="lan")
    line = run(spec(address="10.9.0.5"), site)
    assert line[line.index("--network=lan") :][:3] == [
        "--network=lan",
        "--ip=10.9.0.5",
        "--hostname=ip-10-9-0-5",
    ]
    assert not [flag for flag in line if flag.startswith("--add-host")]


def test_a_gate_keeps_the_images_entrypoint() -> None:
    image = ImageCommand(("/enter", "in"), ("image", "command"))
    for command, whole in (
        (("mine",), ("/enter", "in", "mine")),
        ((), ("/enter", "in", "image", "command")),
    ):
        line = run(spec(gate="/g", command=command), image_command=image)
        assert line[line.index("--entrypoint=/bin/sh") + 1] == "--"
        assert line[line.index("-c") + 2 :] == ["/g", *whole]


@pytest.mark.parametrize(("vcpus", "shares"), [(1, 1024), (256, 262_144), (1000, 262_144)])
def test_cpu_shares_are_what_the_kernel_takes(vcpus: int, shares: int) -> None:
    assert f"--cpu-shares={shares}" in run(spec(vcpus=vcpus))


@pytest.mark.parametrize(("memory_mib", "flag"), [(1, "--memory=6m"), (7, "--memory=7m")])
def test_memory_is_what_docker_takes(memory_mib: int, flag: str) -> None:
    assert flag in run(spec(memory_mib=memory_mib))


def test_image_and_command_stand_where_no_flag_can() -> None:
    line = run(spec(image="--privileged", command=("--volume=/:/host",)))
    assert line[line.index("--") :] == ["--", "--privileged", "--volume=/:/host"]


@pytest.mark.parametrize("value", ["", "a b", " a ", "a=b", "$A", "grüße", "\\n", "x" * 16384])
@pytest.mark.parametrize("name", ["A", "PATH", "DOCKER_HOST", "LD_PRELOAD", "a.b-c"])
def test_a_value_of_one_line_goes_by_file(name: str, value: str) -> None:
    split = argv.split_environment([(name, value)], [name])
    assert split == argv.SplitEnvironment(f"{name}={value}\n", (), (), ())


# One for each way in which a reader of lines would change it.
NOT_PLAIN = ["a\nb", "\n", "a\r", "\t", "\x85", "\u2028", '"a"', "'a", "`a", "#a", "x" * 16385]


@pytest.mark.parametrize("value", NOT_PLAIN)
def test_any_other_value_is_an_argument_unless_it_is_secret(value: str) -> None:
    split = argv.split_environment([("A", value), ("PATH", value), ("S", value)], ["S"])
    assert split == argv.SplitEnvironment("", (f"A={value}", f"PATH={value}"), (("S", value),), ())


@pytest.mark.parametrize("name", ["#A", "A*", "*", "BASH_FUNC_ls%%", "ä", "1"])
def test_a_name_that_a_reader_of_lines_might_change_is_an_argument(name: str) -> None:
    """And never a secret's: podman would take `A*` for all variables that it has itself."""
    assert argv.split_environment([(name, "a")], []).arguments == (f"{name}=a",)
    assert argv.split_environment([(name, "a")], [name]).refused == (name,)


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "HOME", "TMPDIR", "LD_PRELOAD", "GODEBUG", "http_proxy", "HTTPS_PROXY"),
        *("DOCKER_HOST", "CONTAINER_HOST", "STORAGE_DRIVER", "XDG_RUNTIME_DIR"),
        *("SSL_CERT_FILE", "NOTIFY_SOCKET", "XTABLES_LIBDIR", "NETAVARK_FW", "CNI_PATH"),
        *("BASH_ENV", "ENV", "GCONV_PATH", "RES_OPTIONS", "HOSTALIASES"),
    ],
)
def test_what_the_client_would_obey_is_never_inherited(name: str) -> None:
    split = argv.split_environment([(name, "a\nb")], [name])
    assert split == argv.SplitEnvironment("", (), (), (name,))


@pytest.mark.parametrize(
    ("image", "local"),
    [("localhost/a", True), ("localhost:5000/a", False), ("a/localhost/b", False), ("a", False)],
)
def test_local_registry(image: str, local: bool) -> None:
    assert argv.has_local_registry(image) == local


def test_names_are_never_flags() -> None:
    assert argv.inspect(["-x"])[-2:] == ["--", "-x"]
    assert argv.pull("-x")[-2:] == ["--", "-x"]
    assert argv.inspect_image("-x")[-2:] == ["--", "-x"]


def test_the_other_lines() -> None:
    assert argv.stop(KEY, 30) == ["stop", "-t", "30", KEY.name]
    assert argv.remove(KEY, ["--time=0"]) == ["rm", "--force", "--volumes", "--time=0", KEY.name]
    assert argv.list_ids("h")[-1] == "label=muster.host=h"
