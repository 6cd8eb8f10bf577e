"""Real engines for tests: a private docker daemon, the test image, podman's arguments.

Nothing of this may leave anything behind: a daemon ends with its context, images are removed.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.components import missing

IMAGE = "localhost/muster-test:3"
"""Has /bin/sh and the usual programs. Its command is `echo image-command`. The tag is to be raised
when the content changes, as one that is there is taken."""

# Sandboxes often forbid to raise a hard limit, which both engines do by default.
ULIMIT_ARGS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")

_PROGRAMS = (
    *("sh", "cat", "echo", "env", "hostname", "id", "ip", "kill", "nc", "printf", "setsid"),
    *("sleep", "true"),
)


@dataclass(frozen=True, slots=True)
class RealEngine:
    """How to reach an engine that has IMAGE. `argv` begins a command line for it."""

    binary: str
    engine_args: tuple[str, ...]
    run_args: tuple[str, ...]

    @property
    def argv(self) -> list[str]:
        return [self.binary, *self.engine_args]

    @property
    def agent_flags(self) -> list[str]:
        """What an agent is told of it, but for its name."""
        flags = [f"--engine-args={word}" for word in self.engine_args]
        return flags + [f"--run-args={word}" for word in self.run_args]

    def containers_of(self, job_id: str) -> list[str]:
        """Ids of all containers of the job that it still has."""
        listed = _run([*self.argv, "ps", "--all", "--quiet", f"--filter=label=muster.job={job_id}"])
        assert listed.returncode == 0, listed.stderr
        return listed.stdout.split()


PODMAN = RealEngine("podman", ("--runtime", "runc"), ULIMIT_ARGS)


@pytest.fixture(scope="session")
def docker_host() -> Iterator[RealEngine]:
    """`docker_engine` for the whole session."""
    if reason := missing("docker"):
        pytest.skip(reason)
    with docker_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def podman_host() -> Iterator[RealEngine]:
    """`podman_engine` for the whole session."""
    if reason := missing("podman"):
        pytest.skip(reason)
    with podman_engine() as engine:
        yield engine


@contextlib.contextmanager
def docker_engine() -> Iterator[RealEngine]:
    """The docker daemon that answers by default, else one of our own while the context lasts."""
    with contextlib.ExitStack() as stack:
        engine_args: tuple[str, ...] = ()
        if _run(["docker", "version"]).returncode != 0:
            engine_args = ("--host", stack.enter_context(docker_daemon()).address)
        engine = RealEngine("docker", engine_args, ULIMIT_ARGS)
        stack.enter_context(image_in(engine))
        yield engine


@contextlib.contextmanager
def podman_engine() -> Iterator[RealEngine]:
    """Podman with runc."""
    with image_in(PODMAN):
        yield PODMAN


class DockerDaemon:
    """A dockerd of our own with all its state in one directory. It may be killed and started
    again, which is when it sees what became of its containers."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.address = f"unix://{directory}/sock"
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        log = self.directory / "log"
        notify_path = self.directory / "notify"
        notify_path.unlink(missing_ok=True)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(notify_path))
        with notify, open(log, "ab") as output:
            self._process = subprocess.Popen(
                [
                    "dockerd",
                    *("--iptables=false", "--ip6tables=false", "--bridge=none"),
                    *("--host", self.address, "--data-root", str(self.directory / "data")),
                    *("--exec-root", str(self.directory / "exec")),
                    *("--pidfile", str(self.directory / "pid")),
                    *self._flags,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "NOTIFY_SOCKET": str(notify_path)},
                start_new_session=True,
            )
            _await_ready(self._process, notify, log)

    def kill(self) -> None:
        """As a crash: what it runs goes on."""
        if self._process is not None:
            containerd = psutil.Process(self._process.pid).children()
            self._process.kill()
            self._process.wait()
            # The next one would take it for one that it may use, and it is about to end.
            for process in containerd:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(containerd)
            (self.directory / "pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """End it, and what it runs unless it was started with `--live-restore`."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()


@contextlib.contextmanager
def docker_daemon(*flags: str) -> Iterator[DockerDaemon]:
    """A running dockerd; nothing of it is left after the context."""
    # Not pytest's tmp_path: a socket's path may have 107 characters only.
    daemon = DockerDaemon(Path(tempfile.mkdtemp(prefix="muster-dockerd-")), *flags)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()
        unmount_below(daemon.directory)
        shutil.rmtree(daemon.directory)


@contextlib.contextmanager
def own_docker_engine(*flags: str) -> Iterator[tuple[RealEngine, DockerDaemon]]:
    """Docker whose daemon a test may kill."""
    with docker_daemon(*flags) as daemon:
        engine = RealEngine("docker", ("--host", daemon.address), ULIMIT_ARGS)
        with image_in(engine):
            yield engine, daemon


def _await_ready(daemon: subprocess.Popen[bytes], notify: socket.socket, log: Path) -> None:
    """Return when the daemon tells systemd, in whose place we are, that it is ready."""
    pidfd = os.pidfd_open(daemon.pid)
    try:
        ready, _, _ = select.select([notify.fileno(), pidfd], [], [], 60)
    finally:
        os.close(pidfd)
    assert ready == [notify.fileno()], f"dockerd does not start:\n{log.read_text()[-4000:]}"


def unmount_below(directory: Path) -> None:
    """Let go of every mount in `directory`."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    points = [line.split()[1] for line in mounts]
    for point in reversed([point for point in points if point.startswith(f"{directory}/")]):
        subprocess.run(["umount", "--lazy", point], check=True)


@contextlib.contextmanager
def image_in(engine: RealEngine) -> Iterator[None]:
    """IMAGE, made of a static busybox; removed afterwards unless it was there before."""
    if _run([*engine.argv, "image", "inspect", IMAGE]).returncode == 0:
        yield
        return
    import_image(engine, IMAGE, ['CMD ["echo", "image-command"]'])
    try:
        yield
    finally:
        remove_image(engine, IMAGE)


def import_image(engine: RealEngine, name: str, changes: Sequence[str]) -> None:
    """An image with the test's programs; `changes` are lines of a Containerfile."""
    flags = [word for change in changes for word in ("--change", change)]
    imported = subprocess.run(
        [*engine.argv, "import", *flags, "-", name],
        input=root_file_system(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert imported.returncode == 0, imported.stderr.decode()


def remove_image(engine: RealEngine | None, name: str) -> None:
    """The image, and every container of it."""
    assert engine is not None
    removed = _run([*engine.argv, "image", "rm", "--force", name])
    assert removed.returncode == 0, removed.stderr


def root_file_system() -> bytes:
    """What IMAGE consists of, as a tar file."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "the test image is made of busybox (package busybox-static)"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(busybox, "bin/busybox")
        for program in _PROGRAMS:
            link = tarfile.TarInfo(f"bin/{program}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for path, text in (
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1234:1235::/:/bin/sh\n"),
            ("etc/group", "root:x:0:\nuser:x:1235:\n"),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(temporary)
    return buffer.getvalue()


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
