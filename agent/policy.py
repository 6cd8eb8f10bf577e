"""What this host allows a job's container, as rules over a specification.

The rules are the host's own: a job definition cannot change them. Paths are judged as they are
once links are followed, since that is what an engine would mount. Must not import an engine.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from agent.core.assignment import ContainerSpec, Device, Mount

NEVER = ("/var/run/docker.sock", "/run/docker.sock", "/run/podman", "/run/containerd")
"""Whoever has an engine's socket has the host, so only a rule that names one allows it."""

_DEFAULT_REGISTRY = "docker.io"
_MOST_ENTRIES = 1000
_MOST_COMMAND_BYTES = 120_000


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

    `reserved` are paths that no job ever gets, whatever a rule says: the agent's own.
    """

    images: tuple[str, ...] = ("*",)
    host_paths: tuple[PathRule, ...] = ()
    devices: tuple[str, ...] = ()
    users: tuple[str, ...] = ("*",)
    privileged: bool = False
    reserved: tuple[Path, ...] = ()

    def admit(self, spec: ContainerSpec) -> ContainerSpec:
        """The specification with every host path resolved. NotAllowed names the first rule that
        it breaks. Makes missing directories that a rule lets it write to. Raises OSError."""
        _check_sizes(spec)
        self._check_image(spec.image)
        self._check_user(spec.user)
        if spec.privileged and not self.privileged:
            raise NotAllowed("privileged containers (allow_privileged is false)")
        return replace(
            spec,
            mounts=tuple(self._mount(mount) for mount in spec.mounts),
            devices=tuple(self._device(device) for device in spec.devices),
        )

    def _check_image(self, image: str) -> None:
        """Both as written and in full: a rule for `docker.io/library/*` is one for `busybox`."""
        if image.startswith("-") or not image.isprintable():
            raise NotAllowed(f"the image name {image!r}")
        if not _matches((image, full_image(image)), self.images):
            raise NotAllowed(f"the image {image} (allow_images is {list(self.images)})")

    def _check_user(self, user: str | None) -> None:
        """No user means the image's own, which a rule writes as an empty pattern."""
        name, _, group = (user or "").partition(":")
        forms = ("root", "0") if name in ("root", "0") else (name,)
        if not _matches((*forms, user or ""), self.users):
            shown = f"the user {user}" if user else "the image's own user"
            raise NotAllowed(f"{shown} (allow_users is {list(self.users)})")
        if group in ("root", "0") and name not in ("root", "0") and "*" not in self.users:
            raise NotAllowed(f"the group of {user} (allow_users is {list(self.users)})")

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
    longest = max((len(word.encode()) for word in spec.command), default=0)
    if longest > _MOST_COMMAND_BYTES:
        raise NotAllowed(f"an argument of {longest} bytes; at most {_MOST_COMMAND_BYTES}")
