"""The way to the coordinator: one channel, two services, and what a failed call means to a person.

Everything the command asks goes through `coordinator()`, so that no gRPC error reaches the user
raw. Imports of this project only `muster.v1`.
"""

from __future__ import annotations

import argparse
import os
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

# gRPC's own log would put lines that are not for users between ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import asyncio

import grpc
from grpc.aio import AioRpcError

from cli.failure import ExitCode, Failure
from muster.v1.host_service_pb2_grpc import HostServiceStub
from muster.v1.job_service_pb2_grpc import JobServiceStub

if TYPE_CHECKING:
    from muster.v1.host_service_pb2_grpc import HostServiceAsyncStub
    from muster.v1.job_service_pb2_grpc import JobServiceAsyncStub

ANSWER_SECONDS = 30
"""How long a call that is not a stream may take."""

RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""Nothing was done, or what was done is durable: job_service.proto says to ask again."""

_OPTIONS = (
    # The coordinator is in our own network; gRPC would otherwise obey http_proxy.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # Our own back-off decides when to try again, so gRPC's must not be the longer one.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Else nobody would notice on an idle stream that the coordinator's machine has vanished.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)

_EXIT_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: ExitCode.USAGE,
    grpc.StatusCode.NOT_FOUND: ExitCode.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.UNREACHABLE,
}


@dataclass(frozen=True, slots=True)
class Coordinator:
    """An open channel. Calls raise AioRpcError, which `coordinator()` turns into Failure."""

    address: str
    jobs: JobServiceAsyncStub
    hosts: HostServiceAsyncStub


@asynccontextmanager
async def coordinator(args: argparse.Namespace) -> AsyncIterator[Coordinator]:
    """The coordinator that the global flags name. Connects on the first call."""
    channel = _channel(args)
    try:
        yield on_channel(args.coordinator, channel)
    except AioRpcError as error:
        raise failure(error, args.coordinator) from error
    finally:
        await channel.close()


def on_channel(address: str, channel: grpc.aio.Channel) -> Coordinator:
    """The services on a channel. The generated stubs serve both kinds of channel, but only their
    types know that there are two."""
    return Coordinator(
        address,
        cast("JobServiceAsyncStub", JobServiceStub(channel)),
        cast("HostServiceAsyncStub", HostServiceStub(channel)),
    )


def _channel(args: argparse.Namespace) -> grpc.aio.Channel:
    address: str = args.coordinator
    if not re.fullmatch(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", address):
        raise Failure(
            f"the coordinator's address is {address!r}; it must be HOST:PORT, an IPv6 address in "
            "brackets (--coordinator or MUSTER_COORDINATOR)",
            ExitCode.USAGE,
        )
    files = {"--tls-cert": args.tls_cert, "--tls-key": args.tls_key, "--tls-ca": args.tls_ca}
    missing = [flag for flag, path in files.items() if not path]
    if len(missing) == len(files):
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    if missing:
        raise Failure(
            f"{' and '.join(missing)} missing; give all of {', '.join(files)}, or none",
            ExitCode.USAGE,
        )
    certificate, key, authority = (_pem(flag, path) for flag, path in files.items())
    return grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(authority, key, certificate), options=_OPTIONS
    )


def _pem(flag: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Failure(f"{flag}: cannot read {path}: {error.strerror}", ExitCode.USAGE) from error


def failure(error: AioRpcError, address: str) -> Failure:
    """What a failed call means. The coordinator's own texts are passed on as they are."""
    code = error.code()
    # gRPC puts its own story before the one cause that helps.
    details = (error.details() or "no reason given").rpartition("last error: ")[2]
    exit_code = _EXIT_CODES.get(code, ExitCode.FAILED)
    if code is grpc.StatusCode.UNAVAILABLE:
        details = (
            f"cannot reach the coordinator at {address} ({details}); start muster-coordinator "
            "there, or say where it is with --coordinator or MUSTER_COORDINATOR"
        )
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = (
            f"the coordinator at {address} did not answer within {ANSWER_SECONDS} s; check that "
            "this address (--coordinator or MUSTER_COORDINATOR) is the coordinator's"
        )
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        details = f"{address} does not know this call ({details}); it must be a coordinator of at "
        details += "least this command's version"
    elif exit_code is ExitCode.FAILED:
        details = f"{details} ({code.name}, from the coordinator at {address})"
    return Failure(details, exit_code)


class Backoff:
    """Grows from a fifth of a second to five, jittered so that many clients do not come back at
    once."""

    def __init__(self) -> None:
        self._tries = 0

    @property
    def waited(self) -> bool:
        return self._tries > 0

    def reset(self) -> None:
        self._tries = 0

    async def wait(self) -> None:
        longest = min(5.0, 0.2 * 2**self._tries)
        self._tries += 1
        await asyncio.sleep(longest * random.uniform(0.5, 1.0))
