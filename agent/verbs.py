"""The engine's verbs as the machine's effects ask for them: each returns the next input.

What an engine raises, and what this host adds to a specification, ends here. Must not import the
link, the ledger or protobuf.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from agent.admission import Admission, NotAdmitted
from agent.core import effects as f
from agent.core import inputs as i
from agent.core.assignment import ContainerSpec, NodeKey
from agent.core.marks import Marks
from agent.engine.port import Engine, EngineError, ErrorClass
from agent.host.shutdown import is_going_down
from agent.kit import Kit
from agent.lease_file import Leases

logger = logging.getLogger(__name__)


def wall_ms() -> int:
    """Milliseconds since 1970, for people to read."""
    return time.time_ns() // 1_000_000


class Verbs:
    """One host's engine, with the host's own answers. `mark` says whose a node is that is to be
    started; `engine_is_gone` hears the reason each time that the engine does not answer;
    `goes_down` says whether the machine itself does. A verb that is cancelled may be asked for
    again."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        kit: Kit,
        leases: Leases,
        mark: Callable[[f.Start], Marks],
        engine_is_gone: Callable[[str], None],
        goes_down: Callable[[], bool] = is_going_down,
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._kit = kit
        self._leases = leases
        self._mark = mark
        self._engine_is_gone = engine_is_gone
        self._goes_down = goes_down

    async def prepare(self, effect: f.Prepare) -> i.Input:
        async def prepare() -> i.Input:
            spec = await asyncio.to_thread(self._admission.admit, effect.spec)
            address = await self._engine.prepare(effect.key, spec)
            return i.Prepared(key=effect.key, private_ipv4=address)

        def failed(reason: str, error_class: ErrorClass) -> i.Input:
            permanent = error_class is ErrorClass.PERMANENT
            return i.PrepareFailed(key=effect.key, reason=reason, permanent=permanent)

        return await self._or_failed(prepare(), failed)

    async def start(self, effect: f.Start) -> i.Input:
        certain = True

        async def start() -> i.Input:
            nonlocal certain
            spec = await self._equipped(effect)
            try:
                started = await self._engine.start(effect.key, spec)
            except EngineError as error:
                certain = not error.may_have_run
                raise
            except Exception:
                certain = False  # a defect half way through may have started it
                raise
            address = started.private_ipv4 or ""
            return i.StartedUp(
                key=effect.key, started_at_ms=started.started_at_ms, private_ipv4=address
            )

        def failed(reason: str, error_class: ErrorClass) -> i.Input:
            uncertain = error_class is ErrorClass.ENGINE_GONE
            return i.StartFailed(
                key=effect.key,
                reason=reason,
                uncertain=uncertain,
                wall_ms=wall_ms(),
                not_started=certain and not uncertain,
                permanent=error_class is ErrorClass.PERMANENT,
            )

        return await self._or_failed(start(), failed)

    async def _equipped(self, effect: f.Start) -> ContainerSpec:
        """The specification with all that this host adds. Asked anew: what was allowed at the
        vote may have changed since, a link in a path above all."""
        spec = await asyncio.to_thread(self._admission.admit, effect.spec)
        marks = self._mark(effect)
        spec = replace(
            spec,
            environment=(*spec.environment, *marks.variables),
            marks=marks,
            lease_file=self._leases.path(effect.key.name),
        )
        if effect.gang is None:
            return spec
        equip = functools.partial(self._kit.equip, hold=effect.hold)
        return await asyncio.to_thread(equip, effect.key, spec, effect.gang)

    async def lift(self, effect: f.Lift) -> i.Input:
        async def lift() -> i.Input:
            self._kit.lift(effect.key)
            return i.Lifted(key=effect.key)

        return await self._or_failed(lift(), _told_by(i.LiftFailed, effect.key))

    async def wait(self, effect: f.Wait) -> i.Input:
        async def wait() -> i.Input:
            ended = await self._engine.wait(effect.key, effect.began_at_ms)
            if await asyncio.to_thread(self._goes_down):
                # systemd stops containers beside their agent, and a main that was told to stop may
                # well end with 0: its host has ended, and not the job.
                logger.info("ended as the machine goes down: node=%s", effect.key.name)
                await asyncio.Event().wait()
            return i.Ended(
                key=effect.key,
                exit_code=ended.exit_code,
                reason=ended.reason,
                stopped_at_ms=ended.stopped_at_ms,
                lease_ended=ended.lease_ended,
            )

        return await self._or_failed(wait(), _told_by(i.WaitFailed, effect.key))

    async def stop(self, effect: f.Stop) -> i.Input:
        async def stop() -> i.Input:
            await self._engine.stop(effect.key, effect.grace_seconds)
            return i.Stopped(key=effect.key, wall_ms=wall_ms())

        return await self._or_failed(stop(), _told_by(i.StopFailed, effect.key))

    async def end_lease(self, effect: f.EndLease) -> i.Input:
        async def end_lease() -> i.Input:
            await self._engine.end_lease(effect.key, effect.grace_seconds)
            return i.Stopped(key=effect.key, wall_ms=wall_ms())

        return await self._or_failed(end_lease(), _told_by(i.StopFailed, effect.key))

    async def remove(self, effect: f.Remove) -> i.Input:
        async def remove() -> i.Input:
            await self._engine.remove(effect.key)
            await asyncio.to_thread(self._kit.remove, effect.key)
            return i.Removed(key=effect.key)

        return await self._or_failed(remove(), _told_by(i.RemoveFailed, effect.key))

    async def _or_failed(
        self, verb: Awaitable[i.Input], failed: Callable[[str, ErrorClass], i.Input]
    ) -> i.Input:
        """What comes of a verb, as the next input. A defect that a job has found is that job's
        failure: as this agent's end it would be that of the next host too."""
        try:
            return await verb
        except EngineError as error:
            if error.error_class is ErrorClass.ENGINE_GONE:
                self._engine_is_gone(error.reason)
            return failed(error.reason, error.error_class)
        except NotAdmitted as error:
            # Another host may have other rules, so this is not the job's last word.
            return failed(str(error), ErrorClass.TRANSIENT)
        except OSError as error:
            return failed(f"MusterHostError: {error}", ErrorClass.TRANSIENT)
        except Exception as error:
            logger.exception("a defect, told as a failure")
            return failed(f"MusterAgentError: {error!r}", ErrorClass.TRANSIENT)


_Failure = i.LiftFailed | i.WaitFailed | i.StopFailed | i.RemoveFailed


def _told_by(failure: type[_Failure], key: NodeKey) -> Callable[[str, ErrorClass], i.Input]:
    return lambda reason, _: failure(key=key, reason=reason)
