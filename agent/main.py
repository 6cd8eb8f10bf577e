"""`muster-agent`: wiring and nothing else; the only place that knows every class."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Sequence

from agent import config, notify
from agent.admission import HostAdmission
from agent.config import AgentConfig
from agent.daemon import Daemon, Identity
from agent.engine.argv import Site
from agent.engine.docker import DockerEngine
from agent.engine.podman import PodmanEngine
from agent.engine.port import Engine
from agent.engine.process import ProcessEngine
from agent.host.boot import NoAgentUuid, agent_uuid, boot_id
from agent.host.ec2_metadata import ask
from agent.host.fingerprint import fingerprint
from agent.host.gpus import gpus
from agent.host.machine import machine_id
from agent.host.machine_lock import MachineLock, Taken, runtime_directory
from agent.host.private_address import NoPrivateAddress, private_address
from agent.host.shutdown import is_going_down
from agent.host.unit import automatic_restarts
from agent.kit import Kit
from agent.lease_file import Leases
from agent.ledger.port import LedgerError
from agent.ledger.sqlite import SqliteLedger
from agent.logs import LogDesk
from agent.options import make_directory, version
from agent.policy import Policy
from agent.secret_store import SecretStore
from muster.v1 import agent_service_pb2 as pb

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
GOODBYE_SECONDS = 5.0
"""How long a stop waits for the coordinator to write the goodbye down."""
RESTART_SECONDS_MAX = 60.0
"""How far apart the starts are of an agent that fails at each."""


def _engine(settings: AgentConfig, private_ipv4: str, leases: Leases) -> Engine:
    spool_dir = settings.data_dir / "spool"
    spool_dir.mkdir(mode=0o700, exist_ok=True)
    limit_bytes = settings.spool_limit_mib * MIB
    if settings.engine == "process":
        nodes_dir = settings.data_dir / "nodes"
        return ProcessEngine(nodes_dir, spool_dir, limit_bytes, leases, settings.host_id)
    make = DockerEngine if settings.engine == "docker" else PodmanEngine
    return make(
        settings.engine_binary or settings.engine,
        Site(
            host_id=settings.host_id,
            private_ipv4=private_ipv4,
            network=settings.network,
            extra=(*_capabilities(settings), *settings.run_args),
        ),
        spool_dir,
        limit_bytes,
        engine_args=settings.engine_args,
        network_address=settings.network_address or "",
        call_seconds=settings.engine_call_seconds,
        leases=leases,
    )


def _capabilities(settings: AgentConfig) -> list[str]:
    if not settings.capabilities:
        return []
    return ["--cap-drop=ALL", *(f"--cap-add={name}" for name in settings.capabilities)]


def _admission(settings: AgentConfig, identity: Identity, gpus: tuple[str, ...]) -> HostAdmission:
    secrets_file = settings.secrets_file
    return HostAdmission(
        host_id=settings.host_id,
        policy=Policy(
            images=settings.allow_images,
            host_paths=settings.allow_host_paths,
            devices=settings.allow_devices,
            users=settings.allow_users,
            privileged=settings.allow_privileged,
            reserved=(settings.data_dir.resolve(), *([secrets_file] if secrets_file else [])),
        ),
        secrets=SecretStore(secrets_file),
        vcpus=identity.resources.vcpus,
        memory_mib=identity.resources.memory_mib,
        gpus=gpus,
    )


async def _identity(settings: AgentConfig, gpu_count: int) -> Identity:
    ec2 = await ask(settings.imds_endpoint)
    address = await private_address(settings.private_ip, ec2, settings.coordinator)
    facts = fingerprint()
    return Identity(
        host_id=settings.host_id,
        agent_uuid=agent_uuid(settings.data_dir),
        boot_id=boot_id(),
        version=version(),
        private_ipv4=address,
        resources=pb.Resources(
            vcpus=settings.vcpus or facts.vcpus,
            memory_mib=settings.memory_mib or facts.memory_mib,
            gpus=gpu_count,
            instance_type=settings.instance_type or (ec2.instance_type if ec2 else "generic"),
            engine=settings.engine,
        ),
        labels=settings.label,
        machine=machine_id(),
    )


async def _run(settings: AgentConfig) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)
    _hear_what_was_ignored()
    runtime_dir = settings.runtime_dir or runtime_directory()
    make_directory(runtime_dir, "runtime_dir")
    lock = MachineLock(runtime_dir, settings.host_id)
    lock.take()
    make_directory(settings.data_dir, "data_dir")
    found_gpus = await asyncio.to_thread(gpus, settings.engine)
    identity = await _identity(settings, len(found_gpus))
    leases = Leases(settings.data_dir / "leases")
    daemon = Daemon(
        identity=identity,
        coordinator=settings.coordinator,
        tls=settings.tls,
        engine=_engine(settings, identity.private_ipv4, leases),
        ledger=SqliteLedger(settings.data_dir),
        logs=LogDesk(settings.data_dir / "spool", settings.spool_total_mib * MIB),
        admission=_admission(settings, identity, found_gpus),
        kit=Kit(settings.data_dir / "kit", is_mounted=settings.engine != "process"),
        leases=leases,
    )
    running = asyncio.create_task(daemon.run())
    ready = asyncio.create_task(daemon.ready.wait())
    ready.add_done_callback(lambda task: None if task.cancelled() else notify.ready())
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    notify.stopping()
    if not running.done():
        await _say_goodbye(daemon)
    for task in (ready, stopping, running):
        task.cancel()
    await asyncio.wait((ready, stopping, running))
    if not running.cancelled():
        running.result()
    logger.info("stopped")


async def _say_goodbye(daemon: Daemon) -> None:
    """Unless the machine goes down: then what runs does not go on, and the coordinator must find it
    silent."""
    if await asyncio.to_thread(is_going_down):
        logger.info("the machine goes down, and what runs here with it")
    else:
        await daemon.say_goodbye(GOODBYE_SECONDS)


def _hear_what_was_ignored() -> None:
    """A shell starts what goes on in the background with these ignored, and so would all be that
    the agent starts, jobs too. What has a handler has none after an exec."""
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, lambda signum, frame: None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM, then exit 0; containers go on. 1: cannot run now; 2: wrong settings."""
    began = time.monotonic()
    try:
        settings = config.load(sys.argv[1:] if argv is None else argv)
    except SystemExit as refused:
        # Behind wrong flags, unlike what stands in the file, there is an error of argparse.
        if refused.code:
            _fail(began, f"wrong settings: {refused.__context__ or 'see the log'}")
        raise
    notify.status("starting")
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    reasons: list[str] = []
    try:
        asyncio.run(_run(settings))
    except* (NoAgentUuid, NoPrivateAddress, LedgerError, Taken, OSError) as group:
        reasons += [str(error) for error in _leaves(group)]
    except* Exception as group:
        logger.exception("a defect ends the agent")
        reasons += [f"a defect: {error!r}" for error in _leaves(group)]
    if reasons:
        sys.stderr.write(f"muster-agent: {'; '.join(reasons)}\n")
        _fail(began, "; ".join(reasons))
    return 1 if reasons else 0


def _fail(began: float, reason: str) -> None:
    """Say so where a person looks, and let time pass before systemd tries again: the more, the
    more often it has. Its own pauses grow only in releases that few machines have."""
    notify.status(reason)
    restarts = automatic_restarts()
    # The first failure is told at once to who waits for `systemctl restart`.
    pause = min(2.0 ** min(restarts, 10), RESTART_SECONDS_MAX) if restarts else 0.0
    time.sleep(max(0.0, began + pause - time.monotonic()))


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    sys.exit(main())
