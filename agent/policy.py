"""What this host allows a job's container, as rules over a specification.

The rules are the host's own: a job definition cannot change them. Paths are judged as they are
once links are followed, since that is what an engine would mount. Must not import an engine.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from agent.core.assignment import ContainerSpec, Device, Mount

NEVER = (
    *("/var/run/docker.sock", "/run/docker.sock", "/run/docker", "/run/podman"),
    *("/run/containerd", "/run/crio", "/run/user"),
)
"""Whoever has an engine's socket has the host, so only a rule that names one allows it."""

_DEFAULT_REGISTRY = "docker.io"
_IMAGE = re.compile(
    # [registry/]name[:tag][@digest], as the engines' own grammar has it, but for capitals in names,
    # which they refuse themselves.
    r"(([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?/)?"
    r"[A-Za-z0-9]+([._-]+[A-Za-z0-9]+)*(/[A-Za-z0-9]+([._-]+[A-Za-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@[A-Za-z0-9]+:[0-9A-Fa-f]{32,128})?"
)
_TRANSPORTS = re.compile(
    r"(atomic|containers-storage|dir|docker-archive|docker-daemon|oci|oci-archive|ostree|sif"
    r"|tarball):.*/"
)
"""A registry of such a name and a port: podman would read files of the host."""
_USER = re.compile(
    r"(0|[1-9][0-9]{0,9}|[A-Za-z_][A-Za-z0-9_.-]*[$]?)"
    r"(:(0|[1-9][0-9]{0,9}|[A-Za-z_][A-Za-z0-9_.-]*[$]?))?"
)
_ROOT = ("root", "0")
_IDS = range(2**31)
_VARIABLE = re.compile(r"[^\s=\x00-\x1f\x7f]+")
_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_MOUNT_OPTION = re.compile(r"[A-Za-z0-9_.=%/-]{1,64}")
_MOST_ENTRIES = 1000
_MOST_IMAGE_CHARS = 512
_MOST_WORD_BYTES = 120_000


class NotAllowed(Exception):
    """A rule says no. The text names what was asked for and the rule as it stands in agent.toml."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRule:
    """Directories at and below `path`."""

    path: Path
    writable: bool

    @classmethod
    def parse(cls, text: str) -> PathRule:
        """`PATH:ro` or `PATH:rw`. ValueError for anything else."""
        path, colon, mode = text.rpartition(":")
        if not colon or mode not in ("ro", "rw") or not path.startswith("/") or ".." in path:
            raise ValueError(text)
        return cls(path=Path(path), writable=mode == "rw")

    def __str__(self) -> str:
        return f"{self.path}:{'rw' if self.writable else 'ro'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The allow_* settings of agent.toml. A pattern's `*` matches any text, slashes too.

    `reserved` are the agent's own paths: no job gets them but by a rule that names one.
    """

    images: tuple[str, ...] = ("*",)
    host_paths: tuple[PathRule, ...] = ()
    devices: tuple[str, ...] = ()
    users: tuple[str, ...] = ("*",)
    privileged: bool = False
    reserved: tuple[Path, ...] = ()

    def admit(self, spec: ContainerSpec) -> ContainerSpec:
        """The specification with every host path resolved and the image's name in full, so that
        what was judged is what an engine gets. NotAllowed names the first rule that
        it breaks. Makes missing directories that a rule lets it write to. Raises OSError, and
        RuntimeError for a path whose links go round."""
        _check_sizes(spec)
        _check_words(spec)
        self._check_image(spec.image)
        self._check_user(spec.user)
        if spec.privileged and not self.privileged:
            raise NotAllowed("privileged containers (allow_privileged is false)")
        return replace(
            spec,
            image=full_image(spec.image),
            mounts=tuple(self._mount(mount) for mount in spec.mounts),
            devices=tuple(self._device(device) for device in spec.devices),
        )

    def _check_image(self, image: str) -> None:
        """Both as written and in full: a rule for `docker.io/library/*` is one for `busybox`."""
        is_reference = len(image) <= _MOST_IMAGE_CHARS and _IMAGE.fullmatch(image)
        if not is_reference or _TRANSPORTS.match(image):
            raise NotAllowed(
                f"the image name {image[:300]!r}: it must be [REGISTRY/]NAME[:TAG][@DIGEST], "
                "without the name of a transport"
            )
        if not _matches((image, full_image(image)), self.images):
            raise NotAllowed(f"the image {image} (allow_images is {list(self.images)})")

    def _check_user(self, user: str | None) -> None:
        """No user means the image's own, which a rule writes as an empty pattern. In one form only,
        so that a pattern cannot be got round: `00` and `+0` are root to an engine."""
        rules = f"allow_users is {list(self.users)}"
        if user is None:
            if not _matches(("",), self.users):
                raise NotAllowed(f"the image's own user ({rules})")
            return
        if not _USER.fullmatch(user):
            raise NotAllowed(f"the user {user!r}: it must be NAME|UID[:GROUP|GID]")
        name, _, group = user.partition(":")
        for number in (name, group):
            if number.isdecimal() and int(number) not in _IDS:
                raise NotAllowed(f"the user {user}: ids are 0 to {_IDS.stop - 1}")
        if not _matches(_ROOT if user in _ROOT else (user,), self.users):
            raise NotAllowed(f"the user {user} ({rules})")
        if group in _ROOT and name not in _ROOT and "*" not in self.users:
            raise NotAllowed(f"the group of {user} ({rules})")

    def _mount(self, mount: Mount) -> Mount:
        _check_path(mount.target)
        if not mount.source:
            return mount
        _check_path(mount.source)
        rules = f"allow_host_paths is {[str(rule) for rule in self.host_paths]}"
        source = Path(mount.source).resolve()
        for taken in (*self.reserved, *map(Path, NEVER)):
            inside = source.is_relative_to(taken) or taken.resolve().is_relative_to(source)
            if inside and not any(rule.path == taken for rule in self.host_paths):
                raise NotAllowed(f"the host path {mount.source}: {taken} is this host's own")
        matching = [r for r in self.host_paths if source.is_relative_to(r.path.resolve())]
        if not matching:
            led = f", which is {source}" if str(source) != mount.source else ""
            raise NotAllowed(f"the host path {mount.source}{led} ({rules})")
        # The narrowest rule is the one that was meant.
        rule = max(matching, key=lambda rule: len(rule.path.parts))
        if not mount.read_only and not rule.writable:
            raise NotAllowed(f"writing to the host path {mount.source} ({rules})")
        if not source.exists():
            if not rule.writable:
                raise NotAllowed(f"the host path {mount.source}, which does not exist ({rules})")
            source.mkdir(parents=True, exist_ok=True)
        _check_path(str(source))
        return replace(mount, source=str(source))

    def _device(self, device: Device) -> Device:
        _check_path(device.host_path)
        _check_path(device.container_path)
        path = Path(device.host_path).resolve()
        rules = f"allow_devices is {list(self.devices)}"
        if not path.is_relative_to("/dev") or not _matches((str(path),), self.devices):
            raise NotAllowed(f"the device {device.host_path} ({rules})")
        if not path.exists():
            raise NotAllowed(f"the device {device.host_path}, which it does not have")
        return replace(device, host_path=str(path))


def full_image(image: str) -> str:
    """The reference with the registry and the tag that engines add: `busybox` is
    `docker.io/library/busybox:latest`."""
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"{_DEFAULT_REGISTRY}/library/{image}"
    elif not ("." in first or ":" in first or first == "localhost"):
        image = f"{_DEFAULT_REGISTRY}/{image}"
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"


def _matches(texts: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for text in texts for pattern in patterns)


def _check_path(path: str) -> None:
    """What both engines take, whatever a coordinator let through."""
    parts = path.split("/")
    if not path.startswith("/") or not path.isprintable() or any(c in path for c in ":,"):
        raise NotAllowed(f"the path {path!r}: it must be absolute, without ':' or ','")
    if ".." in parts:
        raise NotAllowed(f"the path {path}: it must not have '..'")


def _check_sizes(spec: ContainerSpec) -> None:
    entries = len(spec.mounts) + len(spec.devices) + len(spec.tmpfs) + len(spec.ulimits)
    if entries > _MOST_ENTRIES:
        raise NotAllowed(f"{entries} mounts, devices, tmpfs and ulimits; at most {_MOST_ENTRIES}")
    values = (value for _, value in spec.environment)
    longest = max((len(word.encode()) for word in (*spec.command, *values)), default=0)
    if longest > _MOST_WORD_BYTES:
        raise NotAllowed(f"an argument or variable of {longest} bytes; at most {_MOST_WORD_BYTES}")


def _check_words(spec: ContainerSpec) -> None:
    """What stands in a command line beside something else: it must not be taken for more."""
    for tmpfs in spec.tmpfs:
        _check_path(tmpfs.target)
    words = [
        *((_WORD, "the volume", mount.volume) for mount in spec.mounts if not mount.source),
        *((_WORD, "the ulimit", limit.name) for limit in spec.ulimits),
        *((_MOUNT_OPTION, "the mount option", o) for tmpfs in spec.tmpfs for o in tmpfs.options),
        *((_VARIABLE, "the variable", name) for name, _ in spec.environment),
        *((_VARIABLE, "the variable", secret.name) for secret in spec.secrets),
    ]
    for pattern, what, word in words:
        if not pattern.fullmatch(word):
            raise NotAllowed(f"{what} {word!r}, which no engine could be given safely")
    if any("\0" in word for word in (*spec.command, *(value for _, value in spec.environment))):
        raise NotAllowed("a NUL character in a command or variable")
