"""What an operator may set of the coordinator, and which settings contradict one another.

Read `options.py` for how a field becomes a flag and a TOML key. Imports nothing but that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coordinator import options
from coordinator.options import ConfigError, Endpoint, TlsFiles, option, text, whole

PROGRAM = "muster-coordinator"

REGION = text("NAME", r"[a-z0-9-]{1,64}", "1 to 64 of lower-case letters, digits and dashes")
ACCOUNT_ID = text("ID", r"[0-9]{12}", "a string of 12 digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorConfig:
    """Every setting, checked. ConfigError when settings contradict one another."""

    listen: Endpoint = field(
        default=Endpoint("127.0.0.1", 7400),
        metadata=option(options.ENDPOINT, "Where agents and clients connect. Port 0: any free."),
    )
    data_dir: Path = field(
        metadata=option(options.DIRECTORY, "Where the journal is; for this coordinator alone.")
    )
    insecure: bool = field(
        default=False,
        metadata=option(
            options.SWITCH,
            "Listen beyond this machine without TLS: whoever reaches the port can run commands "
            "on every host.",
        ),
    )
    tls_cert: Path | None = field(
        default=None, metadata=option(options.FILE, "The coordinator's certificate chain (PEM).")
    )
    tls_key: Path | None = field(
        default=None, metadata=option(options.FILE, "The private key of that certificate (PEM).")
    )
    tls_ca: Path | None = field(
        default=None,
        metadata=option(options.FILE, "The authority that must have signed a peer's certificate."),
    )
    heartbeat_seconds: int = field(
        default=5, metadata=option(whole(1, 300), "How often an agent says that it is alive.")
    )
    lost_after_seconds: int = field(
        default=30,
        metadata=option(
            whole(2, 3600), "Silence after which a host is lost; at least two heartbeats."
        ),
    )
    verdict_after_seconds: int | None = field(
        default=None,
        metadata=option(
            whole(2, 2_592_000),
            "Silence after which what runs on a host counts as failed; at least "
            "`lost_after_seconds` and at most the lease.",
            default="300; half of the lease if that is less, but not below `lost_after_seconds`",
        ),
    )
    lease_seconds: int = field(
        default=600,
        metadata=option(
            whole(0, 2_592_000),
            "Time without contact after which a host stops its container by itself; "
            "0: never. Otherwise at least `lost_after_seconds`.",
        ),
    )
    last_attempt_lease_seconds: int = field(
        default=86_400,
        metadata=option(
            whole(0, 2_592_000),
            "The lease of an attempt that is the last its job may have, if it is longer than "
            "`lease_seconds`; 0: never stops by itself.",
        ),
    )
    stop_grace_seconds: int = field(
        default=30, metadata=option(whole(0, 3600), "Time from SIGTERM to SIGKILL.")
    )
    fence_margin_seconds: int = field(
        default=30,
        metadata=option(
            whole(0, 3600),
            "Waited on top of lease, stop grace and a heartbeat before a job of a lost host starts "
            "elsewhere.",
        ),
    )
    vote_timeout_seconds: int = field(
        default=1800,
        metadata=option(
            whole(1, 86_400),
            "Time a host has to prepare a node, image pull included, before another replaces it.",
        ),
    )
    retention_days: int = field(
        default=7, metadata=option(whole(1, 3650), "How long a job stays known after its end.")
    )
    disk_reserve_mib: int = field(
        default=64,
        metadata=option(
            whole(0, 65_536),
            "Room on the disk of `data_dir` that is kept for the ends of jobs, in a file. With "
            "less than as much free besides, no new jobs, definitions and queues are taken. "
            "0: none.",
        ),
    )
    region: str = field(default="local", metadata=option(REGION, "The region in ARNs."))
    account_id: str = field(
        default="000000000000", metadata=option(ACCOUNT_ID, "The account in ARNs.")
    )
    log_level: str = field(
        default="info", metadata=option(options.LOG_LEVEL, "The least level that is logged.")
    )

    def __post_init__(self) -> None:
        if self.tls and self.insecure:
            raise ConfigError("insecure contradicts tls_cert, tls_key and tls_ca; leave it out")
        if not (self.tls or self.insecure or self.listen.is_loopback):
            raise ConfigError(
                f"listen is {self.listen}, which other machines may reach, and there is no TLS: "
                "whoever reaches it could run commands on every host. Set tls_cert, tls_key and "
                "tls_ca, listen on 127.0.0.1, or take the risk with --insecure"
            )
        if self.lost_after_seconds < 2 * self.heartbeat_seconds:
            raise ConfigError(
                f"lost_after_seconds is {self.lost_after_seconds}; it must be at least two "
                f"heartbeats, which is {2 * self.heartbeat_seconds}"
            )
        # A shorter lease would stop the container of a host that nobody calls lost yet.
        if 0 < self.lease_seconds < self.lost_after_seconds:
            raise ConfigError(
                f"lease_seconds is {self.lease_seconds}; it must be 0 or at least "
                f"lost_after_seconds, which is {self.lost_after_seconds}"
            )

        verdict = self.verdict_after_seconds
        if verdict is not None and verdict < self.lost_after_seconds:
            raise ConfigError(
                f"verdict_after_seconds is {verdict}; it must be at least lost_after_seconds, "
                f"which is {self.lost_after_seconds}"
            )
        if verdict is not None and 0 < self.lease_seconds < verdict:
            raise ConfigError(
                f"verdict_after_seconds is {verdict}; it must be at most lease_seconds, which is "
                f"{self.lease_seconds}"
            )

    @property
    def tls(self) -> TlsFiles | None:
        """The files of mutual TLS, or None for plain text."""
        return options.tls_files(self.tls_cert, self.tls_key, self.tls_ca)


def load(argv: Sequence[str]) -> CoordinatorConfig:
    """`argv` without the program's name. SystemExit(2) with a reason when anything is wrong."""
    return options.load(CoordinatorConfig, PROGRAM, argv)
