"""One machine that boots: real systemd in a container of systemd-nspawn, with its own kernel's view
of processes, mounts, control groups and network, and a disk that outlives its reboots.

To the outside a machine is one process, the supervisor: everything else of it, the mount of its
file system too, lives in namespaces of the supervisor's, and the kernel ends it with them.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from tests.boot.control_groups import control_groups
from tests.boot.network import Network, address
from tests.wait import eventually_blocking

BOOT_SECONDS = 60.0
COMMAND_SECONDS = 60.0
_OFF_SECONDS = 60.0
_END_SECONDS = 30.0

# Each line that it reads is the power button; what it prints is how systemd-nspawn ended, which
# says 133 for a reboot. /run is its own, as systemd-nspawn would leave directories there.
_SUPERVISOR = """
set -e
mount -t tmpfs tmpfs /run
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" "$ROOT"
for group in $CONTROL_GROUPS; do echo 0 >"$group/cgroup.procs"; done
while read -r _; do
    status=133
    while [ $status = 133 ]; do status=0; "$@" </dev/null >>"$CONSOLE" 2>&1 || status=$?; done
    echo "$status"
done
"""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Boots:
    """Hears a machine's systemd say that it is ready. What it says is read all the time: there is
    room for ten messages, and then its process 1 would wait for us."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.told, self._tell = os.pipe()
        """Readable once it has said so."""
        os.set_blocking(self.told, False)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while message := self._socket.recv(4096):
            if b"READY=1" in message.split(b"\n"):
                os.write(self._tell, b"!")

    def forget(self) -> None:
        """What was said until now; it says it after each reload of its units too."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.told, 65536)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self._path))
        self._reader.join()
        self._socket.close()
        os.close(self.told)
        os.close(self._tell)


class Machine:
    """A machine, off until `power_on`. Its methods block; all of them fail with the end of its
    console when it does not do in time what is asked of it."""

    def __init__(
        self,
        name: str,
        number: int,
        directory: Path,
        lower: Sequence[Path],
        plugged_into: Network,
        groups: Sequence[Path],
        binds: Mapping[Path, str],
        environment: Mapping[str, str],
    ) -> None:
        self.name = name
        self.address = address(number)
        self._directory = directory
        self._console = directory / "console"
        self._environment = {"PATH": _PATH, "LC_ALL": "C.UTF-8", **environment}
        self._first_pid: int | None = None
        for part in ("upper", "work", "root"):
            # As the root of the file system will have it.
            (directory / part).mkdir(parents=True)
            (directory / part).chmod(0o755)
        self._write_identity()
        self._boots = _Boots(directory / "notify")
        self._supervisor = self._supervise(lower, plugged_into, groups, binds)

    def _write_identity(self) -> None:
        etc = self._directory / "upper" / "etc"
        # Before the network files of systemd itself, which ask for an address.
        link = etc / "systemd/network/10-host0.network"
        link.parent.mkdir(parents=True)
        link.write_text(
            f"[Match]\nName=host0\n[Network]\nAddress={self.address}/24\n"
            "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        )
        # Without one the first boot asks questions on the console.
        (etc / "machine-id").write_text(uuid.uuid4().hex + "\n")

    def _supervise(
        self,
        lower: Sequence[Path],
        plugged_into: Network,
        groups: Sequence[Path],
        binds: Mapping[Path, str],
    ) -> subprocess.Popen[bytes]:
        root = self._directory / "root"
        nspawn = [
            *("systemd-nspawn", "--quiet", "--settings=no", "--register=no", "--keep-unit"),
            *("--boot", "--notify-ready=yes", "--console=read-only", f"--directory={root}"),
            *(f"--machine={plugged_into.machine(self.name)}", f"--hostname={self.name}"),
            *(f"--network-bridge={plugged_into.bridge}", "--link-journal=no"),
            *("--resolv-conf=off", "--timezone=off"),
            # Container engines inside make keyrings for what they run.
            "--system-call-filter=@keyring",
            *(f"--bind={outside}:{inside}" for outside, inside in binds.items()),
        ]
        with self._console.open("ab") as console:
            return subprocess.Popen(
                # Also when the test run is killed, nothing of the machine outlives it.
                ["setpriv", "--pdeathsig", "KILL",
                 "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                 "sh", "-c", _SUPERVISOR, "sh", *nspawn],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=console,
                env={
                    "PATH": os.environ["PATH"],
                    "NOTIFY_SOCKET": str(self._directory / "notify"),
                    "CONSOLE": str(self._console),
                    "CONTROL_GROUPS": " ".join(map(str, groups)),
                    "LOWER": ":".join(map(str, lower)),
                    "UPPER": str(self._directory / "upper"),
                    "WORK": str(self._directory / "work"),
                    "ROOT": str(root),
                },
                start_new_session=True,
            )  # fmt: skip

    # power

    @property
    def is_on(self) -> bool:
        """Whether it has booted and was not switched off since."""
        return self._first_pid is not None

    def power_on(self) -> None:
        """Press the button; `until_booted` waits."""
        assert self._supervisor.stdin is not None
        self._boots.forget()
        self._supervisor.stdin.write(b"on\n")
        self._supervisor.stdin.flush()

    def until_booted(self) -> None:
        """Until all that starts at boot has started or failed."""
        assert self._supervisor.stdout is not None
        told = self._boots.told
        ended = self._supervisor.stdout.fileno()
        readable, _, _ = select.select([told, ended], [], [], BOOT_SECONDS)
        if readable != [told]:
            raise AssertionError(f"{self.name} does not boot\n{self.console()}")
        self._first_pid = eventually_blocking(self._find_first_pid, 5, self.console)

    def power_off(self) -> None:
        """In order, by `systemctl poweroff`."""
        self.try_run("systemctl", "poweroff")
        self._until_off()

    def cut_power(self) -> None:
        """At once: no process of it runs another instruction."""
        os.kill(self.first_pid, signal.SIGKILL)
        self._until_off()

    def reboot(self) -> None:
        """In order, by `systemctl reboot`, and until it has booted again."""
        self._boots.forget()
        self.try_run("systemctl", "reboot")
        self._first_pid = None
        self.until_booted()

    def _until_off(self) -> None:
        assert self._supervisor.stdout is not None
        readable, _, _ = select.select([self._supervisor.stdout], [], [], _OFF_SECONDS)
        assert readable, f"{self.name} does not go off\n{self.console()}"
        self._supervisor.stdout.readline()
        self._first_pid = None

    # what is inside

    @property
    def first_pid(self) -> int:
        """The pid, for us, of what is process 1 in there."""
        assert self._first_pid is not None, f"{self.name} is off"
        return self._first_pid

    def path(self, inside: str) -> Path:
        """A file of the machine while it is on. Links in it would lead to ours."""
        return Path(f"/proc/{self.first_pid}/root") / inside.lstrip("/")

    @property
    def entrance(self) -> list[str]:
        """What goes before a command that is to run in the machine."""
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd")
        return ["nsenter", f"--target={self.first_pid}", *spaces]

    def run(self, *argv: str, deadline_seconds: float = COMMAND_SECONDS) -> str:
        """What a command prints; it must succeed."""
        ended = self.try_run(*argv, deadline_seconds=deadline_seconds)
        assert ended.returncode == 0, (
            f"{self.name}: {' '.join(argv)}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
            f"{self.console()}"
        )
        return ended.stdout

    def sh(self, script: str, deadline_seconds: float = COMMAND_SECONDS) -> str:
        """`run` of a shell's commands, up to the first that fails."""
        return self.run("sh", "-euc", script, deadline_seconds=deadline_seconds)

    def try_run(
        self, *argv: str, deadline_seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        try:
            return subprocess.run(
                [*self.entrance, *argv],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=self._environment,
                timeout=deadline_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name}: {' '.join(argv)} does not end\n{self.console()}"
            ) from None

    def console(self) -> str:
        """The end of what the machine has said to whoever stands before it."""
        text = self._console.read_text("utf-8", "replace") if self._console.exists() else ""
        return f"--- console of {self.name}\n{text[-6000:]}"

    def _find_first_pid(self) -> int | None:
        for process in psutil.Process(self._supervisor.pid).children(recursive=True):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                # Our number, the supervisor's for it, its own.
                pids = status.partition("NSpid:")[2].partition("\n")[0].split()
                if len(pids) == 3 and pids[2] == "1":
                    return process.pid
        return None

    def close(self) -> None:
        """End it as by a cut of power, and delete its disk."""
        supervisor = psutil.Process(self._supervisor.pid)
        # The first of their namespace: when it is gone, so is everything in there.
        for process in supervisor.children() or [supervisor]:
            process.kill()
        self._supervisor.communicate(timeout=_END_SECONDS)
        self._boots.close()
        shutil.rmtree(self._directory)


@contextlib.contextmanager
def machine(
    name: str,
    number: int,
    directory: Path,
    lower: Sequence[Path],
    plugged_into: Network,
    binds: Mapping[Path, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Machine]:
    """A machine that is off, with `address(number)` on the network. `lower` are the layers of its
    file system, the uppermost first; `binds` are directories of ours that it has too;
    `environment` is what `run` adds. Nothing of it is left afterwards."""
    with control_groups(f"muster-{plugged_into.machine(name)}") as groups:
        made = Machine(
            name, number, directory, lower, plugged_into, groups, binds or {}, environment or {}
        )
        try:
            yield made
        finally:
            made.close()
