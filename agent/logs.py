"""Delivery of node output: reads spools when the coordinator asks, and keeps them bounded.

Must not import an engine.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from pathlib import Path

from agent import spool
from agent.core.assignment import NodeKey
from agent.host.tree import remove_tree
from agent.link import Link
from agent.spool_follow import follow
from muster.v1 import agent_service_pb2 as pb

logger = logging.getLogger(__name__)

PIECE_BYTES = 256 * 1024
TAIL_BYTES = 64 * 1024


class LogDesk:
    """The spools of one host, one directory per node and attempt."""

    def __init__(self, spool_dir: Path, total_bytes: int) -> None:
        self._dir = spool_dir
        self._total_bytes = total_bytes
        self._deliveries: dict[str, asyncio.Task[None]] = {}

    def tail(self, key: NodeKey) -> tuple[int, bytes] | None:
        """The last bytes of a node's output and where they begin; None when they cannot be read,
        which must not keep the node's end from being reported."""
        try:
            return spool.tail(self._dir / key.name, TAIL_BYTES)
        except OSError as error:
            logger.warning("cannot read the end of the output: node=%s %s", key.name, error)
            return None

    def deliver(self, link: Link, request: pb.LogRequest) -> None:
        """Answer one request in the background."""
        task = asyncio.create_task(link.deliver_log(self._pieces(request)))
        self._deliveries[request.request_id] = task
        task.add_done_callback(functools.partial(self._delivered, request.request_id))

    def _delivered(self, request_id: str, task: asyncio.Task[None]) -> None:
        self._deliveries.pop(request_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a delivery failed: request=%s", request_id, exc_info=error)

    def cancel(self, request_id: str) -> None:
        task = self._deliveries.get(request_id)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        tasks = list(self._deliveries.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pieces(self, request: pb.LogRequest) -> AsyncGenerator[pb.DeliverLogRequest]:
        """Everything asked for, and then the word that it was everything, or why it was not: a
        reader that is told nothing waits for ever."""
        last = pb.DeliverLogRequest(request_id=request.request_id, complete=True)
        try:
            async with aclosing(self._output(request)) as output:
                async for piece in output:
                    yield piece
        except OSError as error:
            logger.warning("cannot read output: request=%s %s", request.request_id, error)
            last = _error(request, f"the node's output cannot be read: {error}")
        except Exception as error:
            logger.exception("a defect, told to the reader: request=%s", request.request_id)
            last = _error(request, f"the node's output cannot be read: {error!r}")
        yield last

    async def _output(self, request: pb.LogRequest) -> AsyncGenerator[pb.DeliverLogRequest]:
        key = NodeKey(job_id=request.job_id, attempt=request.attempt, node_index=request.node_index)
        directory = self._dir / key.name
        if NodeKey.parse(key.name) != key or not directory.is_dir():
            yield _error(request, "this host no longer has the node's output")
            return
        offset = request.offset
        if offset < 0:
            first, end = spool.bounds(directory)
            offset = max(first, end + offset)
        # Before the first message, so that a spool which cannot be read does not look like one that
        # is quiet: a reader would think that the host is back, again and again.
        spool.read(directory, offset, 1)
        # The first message names the request, also when there is no output (yet).
        yield pb.DeliverLogRequest(request_id=request.request_id, offset=offset)
        if request.follow:
            async with aclosing(follow(directory, offset)) as output:
                async for at, data in output:
                    for piece in _cut(request.request_id, at, data):
                        yield piece
            return
        _, end = spool.bounds(directory)
        while offset < end:
            at, data = spool.read(directory, offset, min(PIECE_BYTES, end - offset))
            if not data:
                raise FileNotFoundError(errno.ENOENT, "the output was deleted", str(directory))
            yield pb.DeliverLogRequest(request_id=request.request_id, offset=at, data=data)
            offset = at + len(data)

    def finish_others(self, keys: Collection[NodeKey]) -> None:
        """Nobody writes to the output of another node than these: who follows it waits for no more.
        A directory that was brought back from before has nodes that have ended since. A spool that
        cannot be marked is logged, and keeps nothing else from being done."""
        names = {key.name for key in keys}
        for path in self._dir.iterdir():
            try:
                if path.is_dir() and path.name not in names and not spool.is_finished(path):
                    spool.finish(path)
            except OSError as error:
                logger.warning("cannot finish old output: %s", error)

    def prune(self, in_use: Sequence[NodeKey]) -> None:
        """Delete the oldest spools while all together are larger than allowed. A spool that cannot
        be looked at or deleted is logged, and keeps nothing else from being done."""
        busy = {key.name for key in in_use}
        spools = []
        for path in self._dir.iterdir():
            try:
                if path.is_dir() and path.name not in busy:
                    spools.append((path.stat().st_mtime, _size(path), path))
            except OSError as error:
                logger.warning("cannot look at old output: %s", error)
        total = sum(size for _, size, _ in spools)
        for _, size, path in sorted(spools):
            if total <= self._total_bytes:
                break
            logger.info("deleting old output: %s (%d bytes)", path.name, size)
            try:
                spool.unfinish(path)
                remove_tree(path)
            except OSError as error:
                logger.warning("cannot delete old output: %s", error)
            else:
                total -= size


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir() if file.is_file())


def _error(request: pb.LogRequest, why: str) -> pb.DeliverLogRequest:
    return pb.DeliverLogRequest(request_id=request.request_id, error=why)


def _cut(request_id: str, offset: int, data: bytes) -> list[pb.DeliverLogRequest]:
    return [
        pb.DeliverLogRequest(
            request_id=request_id, offset=offset + start, data=data[start : start + PIECE_BYTES]
        )
        for start in range(0, len(data), PIECE_BYTES)
    ]
