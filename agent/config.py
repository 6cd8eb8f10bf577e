"""What an operator may set of an agent, and which settings contradict one another.

Read `options.py` for how a field becomes a flag and a TOML key. Imports nothing but that.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent import options
from agent.options import ConfigError, Endpoint, Kind, TlsFiles, option, text, whole
from agent.policy import PathRule

PROGRAM = "muster-agent"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME_EXPECTS = "1 to 128 of letters, digits, dots, dashes and underscores, no dot or dash first"
_CAPABILITY = re.compile(r"[A-Z][A-Z_]{0,62}")
_LABEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._/-]{0,62})=([ -~]{0,255})")


def _read_coordinator(raw: str) -> Endpoint:
    endpoint = Endpoint.parse(raw)
    if endpoint.port == 0:
        raise ValueError(raw)
    return endpoint


def _read_private_ip(raw: str) -> str:
    address = ipaddress.IPv4Address(raw)
    if address.is_unspecified or address.is_multicast:
        raise ValueError(raw)
    return str(address)


def _read_arguments(raw: list[object]) -> tuple[str, ...]:
    if not all(isinstance(argument, str) and argument for argument in raw):
        raise ValueError(raw)
    return tuple(str(argument) for argument in raw)


def _read_user_patterns(raw: list[object]) -> tuple[str, ...]:
    """Empty is a pattern too: no user, and so the image's own."""
    if not all(isinstance(pattern, str) for pattern in raw):
        raise ValueError(raw)
    return tuple(str(pattern) for pattern in raw)


def _read_path_rules(raw: list[object]) -> tuple[PathRule, ...]:
    return tuple(PathRule.parse(text) for text in _read_arguments(raw))


def _read_capabilities(raw: list[object]) -> tuple[str, ...]:
    names = _read_arguments(raw)
    if not all(_CAPABILITY.fullmatch(name) for name in names):
        raise ValueError(raw)
    return names


def _read_labels(raw: dict[str, object]) -> dict[str, str]:
    for key, value in raw.items():
        if not isinstance(value, str) or not _LABEL.fullmatch(f"{key}={value}"):
            raise ValueError(raw)
    return {key: str(value) for key, value in raw.items()}


def _read_imds(raw: str) -> str:
    if raw:
        scheme, _, rest = raw.partition("://")
        Endpoint.parse(rest if re.search(r":[0-9]+$", rest) else f"{rest}:80")
        if scheme != "http":
            raise ValueError(raw)
    return raw


COORDINATOR = Kind(
    str, "HOST:PORT", "HOST:PORT, a port from 1 and an IPv6 address in brackets", _read_coordinator
)
HOST_ID = text("NAME", _NAME, _NAME_EXPECTS)
NETWORK = text("NAME", r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", "`host` or the name of a network")
INSTANCE_TYPE = text("T", _NAME, _NAME_EXPECTS)
PRIVATE_IP = Kind(str, "ADDR", "an IPv4 address that other hosts can reach", _read_private_ip)
ENGINE = options.choice("process", "docker", "podman")
BINARY = text("PROGRAM", r"[^\0]+", "the name or path of a program")
ARGUMENTS = Kind(list, "ARG", "a list of strings, none empty", _read_arguments)
PATTERNS = Kind(list, "PATTERN", "a list of patterns, none empty", _read_arguments)
USER_PATTERNS = Kind(list, "PATTERN", "a list of patterns", _read_user_patterns)
PATH_RULES = Kind(
    list, "PATH:ro|rw", "a list of absolute paths, each with :ro or :rw", _read_path_rules
)
CAPABILITIES = Kind(list, "NAME", "a list of capabilities such as IPC_LOCK", _read_capabilities)
LABELS = Kind(
    dict,
    "K=V",
    "a table of strings (as a flag K=V), keys of up to 63 letters, digits and ._/-",
    _read_labels,
)
IMDS = Kind(str, "URL", "http://HOST[:PORT], or empty for never", _read_imds)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Every setting, checked. ConfigError when settings contradict one another."""

    coordinator: Endpoint = field(
        metadata=option(COORDINATOR, "Where the coordinator listens. Agents only dial out.")
    )
    host_id: str = field(
        default_factory=socket.gethostname,
        metadata=option(
            HOST_ID,
            "Stable name of this host, unlike that of every other.",
            default="this machine's host name",
        ),
    )
    data_dir: Path = field(
        metadata=option(options.DIRECTORY, "Where ledger and job output are; for this agent alone.")
    )
    runtime_dir: Path | None = field(
        default=None,
        metadata=option(
            options.DIRECTORY,
            "Where the agents of this machine meet, so that no two speak for one host.",
            default="/run/muster-agent; without root below XDG_RUNTIME_DIR, else in /tmp",
        ),
    )
    private_ip: str | None = field(
        default=None,
        metadata=option(
            PRIVATE_IP,
            "IPv4 address at which other hosts reach jobs on this one.",
            default="EC2's, else that of the route to the coordinator",
        ),
    )
    engine: str = field(default="docker", metadata=option(ENGINE, "What runs containers."))
    engine_binary: str | None = field(
        default=None,
        metadata=option(BINARY, "The engine's command.", default="`docker` or `podman`"),
    )
    engine_args: tuple[str, ...] = field(
        default=(),
        metadata=option(ARGUMENTS, "Arguments before every subcommand of the engine."),
    )
    run_args: tuple[str, ...] = field(
        default=(),
        metadata=option(ARGUMENTS, "More arguments for the engine's `run`."),
    )
    network: str = field(
        default="host",
        metadata=option(
            NETWORK, "`host`, or the engine's network on which containers have own addresses."
        ),
    )
    network_address: str | None = field(
        default=None,
        metadata=option(
            PRIVATE_IP,
            "IPv4 address of this host's containers on that network.",
            default="a free one",
        ),
    )
    instance_type: str | None = field(
        default=None,
        metadata=option(
            INSTANCE_TYPE,
            "Kind of machine; all nodes of a job get hosts of one kind.",
            default="EC2's, else `generic`",
        ),
    )
    label: dict[str, str] = field(
        default_factory=dict,
        metadata=option(LABELS, "Labels of this host, for people and tools to tell hosts apart."),
    )
    vcpus: int | None = field(
        default=None,
        metadata=option(
            whole(1, 65_536), "vCPUs that this host offers.", default="all that it has"
        ),
    )
    memory_mib: int | None = field(
        default=None,
        metadata=option(
            whole(1, 1_073_741_824), "MiB of memory that it offers.", default="all that it has"
        ),
    )
    allow_images: tuple[str, ...] = field(
        default=("*",),
        metadata=option(PATTERNS, "Images that jobs may run.", default="any"),
    )
    allow_users: tuple[str, ...] = field(
        default=("*",),
        metadata=option(USER_PATTERNS, "Users that containers may run as.", default="any"),
    )
    allow_privileged: bool = field(
        default=False, metadata=option(options.SWITCH, "Let containers be privileged.")
    )
    allow_host_paths: tuple[PathRule, ...] = field(
        default=(), metadata=option(PATH_RULES, "Directories that containers may mount.")
    )
    allow_devices: tuple[str, ...] = field(
        default=(), metadata=option(PATTERNS, "Devices that containers may have.")
    )
    capabilities: tuple[str, ...] = field(
        default=(),
        metadata=option(
            CAPABILITIES, "All capabilities of a container.", default="the engine's own"
        ),
    )
    secrets_file: Path | None = field(
        default=None, metadata=option(options.FILE, "This host's secrets and registry logins.")
    )
    engine_call_seconds: int = field(
        default=60,
        metadata=option(whole(1, 3600), "How long one call of the engine may take, but for pulls."),
    )
    spool_limit_mib: int = field(
        default=64,
        metadata=option(whole(1, 1_048_576), "Output kept of one node's attempt, in MiB."),
    )
    spool_total_mib: int = field(
        default=1024,
        metadata=option(
            whole(1, 16_777_216), "Output kept of all, in MiB; at least `spool_limit_mib`."
        ),
    )
    tls_cert: Path | None = field(
        default=None, metadata=option(options.FILE, "This host's certificate chain (PEM).")
    )
    tls_key: Path | None = field(
        default=None, metadata=option(options.FILE, "The private key of that certificate (PEM).")
    )
    tls_ca: Path | None = field(
        default=None,
        metadata=option(
            options.FILE, "The authority that must have signed the coordinator's certificate."
        ),
    )
    imds_endpoint: str = field(
        default="http://169.254.169.254",
        metadata=option(IMDS, "Where EC2 answers questions about this host; empty: do not ask."),
    )
    log_level: str = field(
        default="info", metadata=option(options.LOG_LEVEL, "The least level that is logged.")
    )

    def __post_init__(self) -> None:
        if not re.fullmatch(_NAME, self.host_id):
            raise ConfigError(f"host_id is {self.host_id!r}; it must be {_NAME_EXPECTS}")
        if self.spool_total_mib < self.spool_limit_mib:
            raise ConfigError(
                f"spool_total_mib is {self.spool_total_mib}; it must be at least "
                f"spool_limit_mib, which is {self.spool_limit_mib}"
            )
        if self.engine == "process":
            for key in ("engine_binary", "engine_args", "run_args", "capabilities"):
                if getattr(self, key):
                    raise ConfigError(f"{key} is for docker and podman, but engine is process")
        # Checked here so that a half-given set is refused before anything dials.
        _ = self.tls

    @property
    def tls(self) -> TlsFiles | None:
        """The files of mutual TLS, or None for plain text."""
        return options.tls_files(self.tls_cert, self.tls_key, self.tls_ca)


def load(argv: Sequence[str]) -> AgentConfig:
    """`argv` without the program's name. SystemExit(2) with a reason when anything is wrong."""
    return options.load(AgentConfig, PROGRAM, argv)
