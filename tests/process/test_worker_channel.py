"""The supervisor's side of a channel that its worker does not read."""

import asyncio
import contextlib
import socket
from collections.abc import Coroutine, Iterator
from unittest.mock import Mock

import pytest
import uvloop

from mcr.errors import PeerError
from mcr.runtime.channel import Channel, channel_pair
from mcr.supervisor.workers import SEND_DEADLINE_S, WorkerProcess
from mcr.wire import worker as wire

MESSAGE = wire.Watch(0)
SOON_S = SEND_DEADLINE_S / 2


@pytest.fixture
def ends() -> Iterator[tuple[WorkerProcess, socket.socket]]:
    """Give a process whose channel is full, and the end that it does not read."""
    ours, theirs = channel_pair()
    ours.setblocking(False)
    with theirs, Channel(ours) as channel:
        with contextlib.suppress(BlockingIOError):
            while True:
                channel.send(MESSAGE)
        yield WorkerProcess(Mock(), channel), theirs


def run(waiting: Coroutine[object, object, None]) -> None:
    uvloop.run(asyncio.wait_for(waiting, 2 * SEND_DEADLINE_S))


def test_what_finds_no_room_goes_as_soon_as_there_is_some(ends: tuple[WorkerProcess, socket.socket]) -> None:
    process, theirs = ends

    async def scene() -> None:
        sending = asyncio.ensure_future(process.send(wire.Watch(7), []))
        await asyncio.sleep(0)  # it waits now
        theirs.setblocking(False)
        received = []
        async with asyncio.timeout(SOON_S):
            while wire.Watch(7) not in received:
                try:
                    received.append(wire.decode(theirs.recv(wire.MAX_MESSAGE_BYTES)))
                except BlockingIOError:
                    await asyncio.sleep(0)
        await sending

    run(scene())


def test_a_worker_that_reads_nothing_is_given_up(ends: tuple[WorkerProcess, socket.socket]) -> None:
    process, _ = ends

    async def scene() -> None:
        with pytest.raises(PeerError, match="got no room in the channel for 2"):
            await process.send(MESSAGE, [])

    run(scene())


def test_hanging_up_ends_a_wait_for_room_at_once(ends: tuple[WorkerProcess, socket.socket]) -> None:
    process, _ = ends

    async def scene() -> None:
        sending = asyncio.ensure_future(process.send(MESSAGE, []))
        await asyncio.sleep(0)  # it waits now
        process.hang_up()
        async with asyncio.timeout(SOON_S):
            with pytest.raises(PeerError, match="got a closed channel"):
                await sending

    run(scene())
