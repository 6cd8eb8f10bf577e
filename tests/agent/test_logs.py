"""Delivery of output: whatever is wrong with a spool, its reader is told and nobody else hurt."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest

from agent import spool
from agent.core.assignment import NodeKey
from agent.link import Link, Owner
from agent.logs import LogDesk
from agent.options import Endpoint
from agent.spool import SpoolWriter
from muster.v1 import agent_service_pb2 as pb
from muster.v1 import agent_service_pb2_grpc as pb_grpc

KEY = NodeKey(job_id="5b4d50f8-0000-4000-8000-000000000000", attempt=1, node_index=0)
REQUEST = pb.LogRequest(request_id="r", job_id=KEY.job_id, attempt=1, follow=True)


class Coordinator(pb_grpc.AgentServiceServicer):
    """Takes in one delivery."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[pb.DeliverLogRequest | None] = asyncio.Queue()

    def Session(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.CoordinatorMessage]:
        raise AssertionError("no test opens a session")

    async def DeliverLog(
        self, request_iterator: AsyncIterator[pb.DeliverLogRequest], context: Any
    ) -> pb.DeliverLogResponse:
        async for piece in request_iterator:
            self.pieces.put_nowait(piece)
        self.pieces.put_nowait(None)
        return pb.DeliverLogResponse()

    async def last(self) -> pb.DeliverLogRequest | None:
        """The last piece of a stream that has ended; None when it had none."""
        last = None
        async with asyncio.timeout(5):
            while (piece := await self.pieces.get()) is not None:
                last = piece
        return last


@asynccontextmanager
async def linked(directory: Path) -> AsyncIterator[tuple[Coordinator, Link]]:
    coordinator, server = Coordinator(), grpc.aio.server()
    pb_grpc.add_AgentServiceServicer_to_server(coordinator, server)
    address = f"unix:{directory / 'coordinator.sock'}"
    server.add_insecure_port(address)
    await server.start()
    link = Link(Endpoint("127.0.0.1", 1), None, cast("Owner", None))
    try:
        async with grpc.aio.insecure_channel(address) as link._channel:
            yield coordinator, link
    finally:
        await server.stop(None)


@asynccontextmanager
async def asked(
    directory: Path, request: pb.LogRequest = REQUEST
) -> AsyncIterator[tuple[Coordinator, LogDesk]]:
    """A desk that was asked for the output of KEY."""
    async with linked(directory) as (coordinator, link):
        desk = LogDesk(directory / "spool", 1)
        desk.deliver(link, request)
        try:
            yield coordinator, desk
        finally:
            await desk.close()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The spool of KEY, with some output, not finished."""
    directory = tmp_path / "spool" / KEY.name
    writer = SpoolWriter(directory)
    writer.write(b"0123456789")
    writer.close()
    return directory


async def error(coordinator: Coordinator) -> str:
    last = await coordinator.last()
    assert last is not None
    assert not last.complete
    return last.error


@pytest.mark.parametrize("follow", [False, True])
async def test_a_spool_that_cannot_be_opened(
    tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch, follow: bool
) -> None:
    def refused(path: Any, *_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    monkeypatch.setattr("agent.spool.os.open", refused)
    request = pb.LogRequest(request_id="r", job_id=KEY.job_id, attempt=1, follow=follow)
    async with asked(tmp_path, request) as (coordinator, desk):
        assert "cannot be read: [Errno 24] Too many open files" in await error(coordinator)
        assert desk.tail(KEY) is None


async def test_a_directory_that_may_not_be_watched(
    tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(directory: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))

    monkeypatch.setattr("agent.spool_follow.DirectoryWatch", refused)
    async with asked(tmp_path) as (coordinator, _):
        assert "Permission denied" in await error(coordinator)


async def test_a_spool_that_is_deleted_under_its_reader(tmp_path: Path, written: Path) -> None:
    async with asked(tmp_path) as (coordinator, _):
        while (await coordinator.pieces.get()) != pb.DeliverLogRequest(
            request_id="r", data=b"0123456789"
        ):
            pass
        shutil.rmtree(written)
        assert "deleted" in await error(coordinator)


async def test_a_segment_that_is_no_file(tmp_path: Path, written: Path) -> None:
    [segment] = written.glob("*.log")
    segment.unlink()
    segment.mkdir()
    async with asked(tmp_path) as (coordinator, desk):
        assert "Is a directory" in await error(coordinator)
        assert desk.tail(KEY) is None


async def test_a_defect_is_told_too(
    tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object) -> tuple[int, bytes]:
        raise ZeroDivisionError("by the test")

    monkeypatch.setattr(spool, "read", defect)
    async with asked(tmp_path) as (coordinator, _):
        assert "ZeroDivisionError" in await error(coordinator)


async def test_a_stream_whose_source_fails_ends(tmp_path: Path) -> None:
    async def pieces() -> AsyncGenerator[pb.DeliverLogRequest]:
        yield pb.DeliverLogRequest(request_id="r")
        raise ZeroDivisionError

    async with linked(tmp_path) as (coordinator, link):
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(5):
                await link.deliver_log(pieces())
        assert await coordinator.last() == pb.DeliverLogRequest(request_id="r")


def test_only_nodes_that_are_here_may_write_more(tmp_path: Path, written: Path) -> None:
    other = tmp_path / "muster-other-1-0"
    other.mkdir()
    desk = LogDesk(tmp_path, total_bytes=1024)
    spool.unfinish(written)
    desk.finish_others([KEY])
    assert spool.is_finished(other)
    assert not spool.is_finished(written)


def test_output_that_cannot_be_finished_keeps_nothing_from_being_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directories = [tmp_path / f"muster-{name}-1-0" for name in "ab"]
    for directory in directories:
        directory.mkdir()
    finish = spool.finish

    def refused(directory: Path) -> None:
        if directory == directories[0]:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(directory))
        finish(directory)

    monkeypatch.setattr("agent.logs.spool.finish", refused)
    LogDesk(tmp_path, total_bytes=1024).finish_others([])
    assert spool.is_finished(directories[1])
    assert f"cannot finish old output: [Errno 30] Read-only file system: '{directories[0]}'" in (
        caplog.text
    )


def test_old_output_that_cannot_be_deleted_keeps_nothing_from_being_done(
    tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(written))

    monkeypatch.setattr("agent.logs.remove_tree", refused)
    LogDesk(tmp_path / "spool", 1).prune([])
    assert "cannot delete old output: [Errno 13] Permission denied" in caplog.text


def test_the_oldest_output_goes(tmp_path: Path, written: Path) -> None:
    LogDesk(tmp_path / "spool", 1).prune([KEY])
    assert written.exists()
    LogDesk(tmp_path / "spool", 1).prune([])
    assert not written.exists()
