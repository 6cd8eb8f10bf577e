"""Wide reads a slice at a time, so that nobody's question keeps the others waiting.

What one slice may take is measured, not counted: a job with five node groups costs a hundred times
what a small one does. Must not import the daemon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from coordinator.core.errors import InvalidArgument
from coordinator.core.ids import JobId
from coordinator.core.state import ClusterState, Job
from coordinator.journal.port import Record, RecordQuery
from coordinator.rpc.ports import Cluster
from coordinator.rpc.sizes import ITEM_BYTES, REPLY_BYTES_MAX

K = TypeVar("K")
T = TypeVar("T")
M = TypeVar("M", bound=Message)
C = TypeVar("C", contravariant=True)

SLICE_SECONDS = 0.005
"""CPU of one slice; the item that passes it is finished."""
WIDE_MAX = 4
"""Callers whose answers are being made: each can hold as much as a reply does."""


class Items(Protocol[C]):
    """A repeated member of a message."""

    def append(self, item: C, /) -> None: ...


class Turns:
    """The callers of one service: one slice of one of them in each step of the machine, in turn."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._turn = asyncio.Lock()
        self._wide = asyncio.Semaphore(WIDE_MAX)

    async def each(self, keys: Sequence[K], query: Callable[[ClusterState, K], T]) -> list[T]:
        """The query's value for every key, in order. The state may change between two keys."""
        found: list[T] = []
        await self._slices(keys, lambda state, key: found.append(query(state, key)))
        return found

    async def fill(
        self, keys: Sequence[K], render: Callable[[ClusterState, K], M | None], most: int
    ) -> tuple[list[tuple[K, M]], bool]:
        """Up to `most` items of one reply with their keys, as many as a reply holds, and whether
        there are more. A key that has no item is passed over."""
        shown: list[tuple[K, M]] = []
        room = REPLY_BYTES_MAX
        more = False

        def take(state: ClusterState, key: K) -> bool:
            nonlocal room, more
            item = render(state, key)
            if item is None:
                return False
            room -= item.ByteSize() + ITEM_BYTES
            # An item that is longer than a reply would never be shown otherwise.
            more = len(shown) == most or (room < 0 and bool(shown))
            if not more:
                shown.append((key, item))
            return more

        await self._slices(keys, take)
        return shown, more

    async def put(self, items: Iterable[M], into: Items[M]) -> None:
        """Copy items into a reply. To put it on the wire takes the loop once more, afterwards."""
        until = time.thread_time() + SLICE_SECONDS
        for item in items:
            into.append(item)
            if time.thread_time() >= until:
                await asyncio.sleep(0)
                until = time.thread_time() + SLICE_SECONDS
        await asyncio.sleep(0)

    async def ended_job(self, job_id: JobId) -> Job | None:
        """A job that has left memory. Decoded beside the loop, and one at a time: the record of
        a large job is megabytes of text."""
        async with self._turn:
            record = await self.cluster.record(job_id)
            if record is None:
                return None
            return await self.cluster.decode_job(record)

    async def records(
        self, query: RecordQuery, *, after: tuple[int, str] | None, limit: int
    ) -> list[tuple[Record, Job]]:
        """Records and the jobs in them, decoded beside the loop."""
        async with self._turn:
            records = await self.cluster.records(query, after=after, limit=limit)
            jobs = [await self.cluster.decode_job(record) for record in records]
        return list(zip(records, jobs, strict=True))

    async def _slices(
        self, keys: Sequence[K], visit: Callable[[ClusterState, K], bool | None]
    ) -> None:
        """Visit the keys in order, until a visit says that it is enough."""
        at = 0

        def one_slice(state: ClusterState) -> None:
            nonlocal at
            until = time.thread_time() + SLICE_SECONDS
            while at < len(keys):
                at += 1
                if visit(state, keys[at - 1]):
                    at = len(keys)
                if time.thread_time() >= until:
                    return

        if len(keys) == 1:
            await self.cluster.read(one_slice)
            return
        async with self._wide:
            while at < len(keys):
                async with self._turn:
                    await self.cluster.read(one_slice)


def too_much(what: str, asked: int, fit: int) -> InvalidArgument:
    """The answer on things that were asked for by name: nobody is shown a part of it."""
    return InvalidArgument(
        f"the answer on {asked} {what} would have more than {REPLY_BYTES_MAX} bytes, and clients "
        f"take little more than that; ask for {max(fit, 1)} or fewer at a time"
    )
