"""`muster-coordinator`: wiring and nothing else; the only place that knows every class."""

from __future__ import annotations

import asyncio
import difflib
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from coordinator import backup, check, config, notify
from coordinator.config import CoordinatorConfig
from coordinator.core.arn import Arns
from coordinator.core.lineage import ACCEPT
from coordinator.core.settings import Settings
from coordinator.daemon import Daemon
from coordinator.garbage import Collections
from coordinator.journal.port import JournalError
from coordinator.journal.sqlite import SqliteJournal
from coordinator.options import make_directory
from coordinator.rpc.agent_service import AgentService
from coordinator.rpc.host_service import HostService
from coordinator.rpc.job_service import JobService
from coordinator.rpc.refused import RefusedAgents
from coordinator.rpc.roles import RoleInterceptor
from coordinator.rpc.server import Server
from coordinator.shell import UnreadableEntry

logger = logging.getLogger(__name__)

STOP_SECONDS = 2.0
EXIT_UNREADABLE = 3
"""The exit status that the unit does not answer with another start."""
MIB = 1024 * 1024
HELP = f"""\
muster-coordinator {ACCEPT} ...     run, and place jobs although hosts have seen a
                                                 newer journal; for one start (docs/backup.md)

Without one of these words the coordinator runs:

"""
_HELP_OF = dict.fromkeys(check.COMMANDS, check.HELP) | dict.fromkeys(backup.COMMANDS, backup.HELP)


def _settings(settings: CoordinatorConfig) -> Settings:
    return Settings(
        heartbeat_ms=1000 * settings.heartbeat_seconds,
        lost_after_ms=1000 * settings.lost_after_seconds,
        verdict_after_seconds=settings.verdict_after_seconds,
        lease_seconds=settings.lease_seconds,
        last_attempt_lease_seconds=settings.last_attempt_lease_seconds,
        stop_grace_seconds=settings.stop_grace_seconds,
        fence_margin_seconds=settings.fence_margin_seconds,
        vote_timeout_ms=1000 * settings.vote_timeout_seconds,
    )


async def _run(settings: CoordinatorConfig, *, accepts_older: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        # Before the replay, which may take a while: it ends cleanly from here on.
        loop.add_signal_handler(signum, stopped.set)
    make_directory(settings.data_dir, "data_dir")
    journal = await SqliteJournal.open(
        settings.data_dir / "journal.db", reserve_bytes=MIB * settings.disk_reserve_mib
    )
    daemon = Daemon(
        journal, _settings(settings), settings.retention_days, accepts_older=accepts_older
    )
    try:
        await daemon.open()
        refused = RefusedAgents()
        arns = Arns(settings.region, settings.account_id)
        server = Server(
            jobs=JobService(daemon, arns),
            hosts=HostService(daemon, refused),
            agents=AgentService(daemon, refused),
            interceptors=[RoleInterceptor()] if settings.tls is not None else [],
        )
        port = await server.start(settings.listen, settings.tls)
        daemon.tell_full = server.tell_full
        daemon.tell_placing = server.tell_placing
        logger.info("listening: address=%s port=%d", settings.listen.host, port)
        try:
            await _serve(daemon, stopped)
        finally:
            notify.stopping()
            await server.stop(STOP_SECONDS)
    finally:
        await daemon.close()


async def _serve(daemon: Daemon, stopped: asyncio.Event) -> None:
    """Until SIGTERM, or until the daemon cannot go on."""
    running = asyncio.create_task(daemon.run())
    stopping = asyncio.create_task(stopped.wait())
    notify.ready()
    await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        stopping.cancel()
        running.result()
    logger.info("stopping; jobs go on")
    running.cancel()
    await asyncio.wait((running,))
    daemon.part()


def _offline(command: str, words: Sequence[str]) -> int:
    """What is done with a journal instead of running; the exit status."""
    if command not in _HELP_OF:
        near = difflib.get_close_matches(command, _HELP_OF, n=1)
        right = f"did you mean {near[0]}?" if near else f"there are {', '.join(_HELP_OF)}"
        sys.stderr.write(f"muster-coordinator: there is no command {command}; {right}\n")
        return backup.NOT_DONE
    if command in check.COMMANDS:
        return check.run(command, config.load(words).data_dir)
    if not words or words[0].startswith("-"):
        sys.stderr.write(
            f"muster-coordinator {command}: FILE comes first: "
            f"muster-coordinator {command} FILE --data-dir DIR\n"
        )
        return backup.NOT_DONE
    return backup.run(command, Path(words[0]), config.load(words[1:]).data_dir)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM, then exit 0; jobs go on. 1: cannot run now; 2: wrong settings; 3: a row of
    the journal cannot be read, so that to try again is of no use. `check`, `repair`, `backup` and
    `restore` as the first word do that instead."""
    words = list(sys.argv[1:] if argv is None else argv)
    asks_for_help = not {"-h", "--help"}.isdisjoint(words)
    command = words[0] if words and not words[0].startswith("-") else ""
    if command and not asks_for_help:
        return _offline(command, words[1:])
    if asks_for_help:
        sys.stdout.write(_HELP_OF.get(command, check.HELP + backup.HELP + HELP))
        if command in _HELP_OF:
            return 0
    accepts_older = ACCEPT in words
    try:
        settings = config.load([word for word in words if word != ACCEPT])
    except SystemExit as refused:
        if refused.code:
            notify.status(f"wrong settings: {refused.__context__ or 'see the log'}")
        raise
    notify.status("starting")
    Collections().install()
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        asyncio.run(_run(settings, accepts_older=accepts_older))
    except UnreadableEntry as error:
        logger.error(
            "%s. What runs goes on for its lease. `muster-coordinator check --data-dir %s` tells "
            "what setting the row aside means; `muster-coordinator repair --data-dir %s` does it; "
            "then start the coordinator again. If a newer version wrote the row, run that version",
            error,
            settings.data_dir,
            settings.data_dir,
        )
        notify.status(f"{error}; the log says what to do")
        return EXIT_UNREADABLE
    except (JournalError, OSError) as error:
        notify.status(str(error))
        sys.exit(f"muster-coordinator: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
