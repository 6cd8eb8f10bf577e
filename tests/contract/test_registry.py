"""Pulls from a real registry on this machine: logins, fresh tags, and a registry that is away."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.core.assignment import Login
from agent.engine.port import EngineError
from agent.engine.registry_login import login_directory
from tests.contract.engine_bench import (
    CONTAINERS,
    DEADLINE_SECONDS,
    Bench,
    bench,
    command_lines,
    host,
)
from tests.e2e.cluster import free_port
from tests.engines import RealEngine, import_image, remove_image
from tests.wait import eventually

__all__ = ["bench", "host"]

pytestmark = [CONTAINERS, pytest.mark.real("registry"), pytest.mark.limit(120)]
PASSWORD = "never-in-a-process-list"
LOGIN = Login(username="ci", password=PASSWORD)


@dataclass
class Registry:
    """A registry with one user, and a way to put images into it."""

    directory: Path
    port: int
    process: asyncio.subprocess.Process | None = None

    @property
    def image(self) -> str:
        return f"127.0.0.1:{self.port}/team/tool:1"

    async def start(self) -> None:
        (self.directory / "htpasswd").write_text(_users())
        config = self.directory / "config.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: "
            f"{self.directory}/data}}}}\nhttp: {{addr: '127.0.0.1:{self.port}'}}\n"
            f"auth: {{htpasswd: {{realm: test, path: {self.directory}/htpasswd}}}}\n"
        )
        self.process = await asyncio.create_subprocess_exec(
            "docker-registry", "serve", config, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        async def answers() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                return False
            writer.close()
            await writer.wait_closed()
            return True

        await eventually(answers, DEADLINE_SECONDS, lambda: "the registry does not answer")

    async def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            await process.wait()

    async def push(self, real: RealEngine, words: str) -> None:
        """The image anew, with another command; the engine has afterwards what it had before."""
        kept = f"localhost/muster-kept-{self.port}:1"
        has_one = await _ends([*real.argv, "tag", self.image, kept])
        import_image(real, self.image, [f'CMD ["echo", "{words}"]'])
        with login_directory(self.image, LOGIN) as made:
            words_of = {
                "docker": ["--config", str(made), "push"],
                "podman": ["push", f"--authfile={made}/config.json", "--tls-verify=false"],
            }
            pushed = await asyncio.create_subprocess_exec(
                *real.argv, *words_of[real.binary], self.image,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            _, stderr = await pushed.communicate()
            assert pushed.returncode == 0, stderr.decode()
        remove_image(real, self.image)
        if has_one:
            assert await _ends([*real.argv, "tag", kept, self.image])
            remove_image(real, kept)


async def _ends(argv: list[str]) -> bool:
    """Whether the command ends well."""
    process = await asyncio.create_subprocess_exec(*argv, stderr=subprocess.DEVNULL)
    return await process.wait() == 0


def _users() -> str:
    """Who may log in; the registry takes bcrypt only."""
    command = ["htpasswd", "-nbB", LOGIN.username, PASSWORD]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
async def registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> AsyncIterator[Registry]:
    directory = tmp_path / "registry"
    directory.mkdir()
    made = Registry(directory, free_port())
    # Docker takes a loopback registry without TLS as it is; podman wants to be told.
    conf = directory / "registries.conf"
    conf.write_text(f'[[registry]]\nlocation = "127.0.0.1:{made.port}"\ninsecure = true\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    await made.start()
    yield made
    await made.stop()
    remove_image(bench.real, made.image)


async def said(bench: Bench, image: str, login: Login | None) -> str:
    key = bench.key()
    spec = bench.spec(key, (), image=image, login=login)
    await bench.engine.prepare(key, spec)
    await bench.engine.start(key, spec)
    await bench.ended(key)
    await bench.engine.remove(key)
    return bench.output(key)


async def test_a_tag_is_pulled_anew_and_the_cached_one_will_do(
    bench: Bench, registry: Registry
) -> None:
    assert bench.real is not None
    await registry.push(bench.real, "one")
    assert await said(bench, registry.image, LOGIN) == "one\n"
    first = (await bench.cli("image", "inspect", "--format", "{{.Id}}", registry.image)).strip()
    await registry.push(bench.real, "two")
    assert await said(bench, registry.image, LOGIN) == "two\n"
    await registry.stop()
    assert await said(bench, registry.image, LOGIN) == "two\n"
    # It has no name any more.
    remove_image(bench.real, first)


@pytest.mark.parametrize("login", [None, Login(username="ci", password="wrong-password")])
async def test_without_the_right_login_the_vote_is_against(
    bench: Bench, registry: Registry, login: Login | None
) -> None:
    assert bench.real is not None
    await registry.push(bench.real, "private")
    key = bench.key()
    with pytest.raises(EngineError, match=r"^CannotPullContainerError: ") as at:
        await bench.engine.prepare(key, bench.spec(key, (), image=registry.image, login=login))
    assert "wrong-password" not in at.value.reason
    # An image for the fixture to remove.
    await said(bench, registry.image, LOGIN)


async def test_a_password_is_in_no_process_list(bench: Bench, registry: Registry) -> None:
    assert bench.real is not None
    await registry.push(bench.real, "private")
    key = bench.key()
    pull = asyncio.ensure_future(
        bench.engine.prepare(key, bench.spec(key, (), image=registry.image, login=LOGIN))
    )
    seen = 0
    while not pull.done():
        lines = command_lines()
        seen += any(b"pull" in line for line in lines)
        assert not [line for line in lines if PASSWORD.encode() in line]
        await asyncio.wait([pull], timeout=0.01)
    await pull
    assert seen
    assert not list(Path("/dev/shm").glob("muster-*"))
