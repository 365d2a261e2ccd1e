"""A worker's process as the supervisor sees it: its channel, its end."""

import asyncio
import errno
import os
from collections.abc import Callable

from mcr.errors import KernelError, PeerError
from mcr.runtime.channel import Channel, channel_pair
from mcr.runtime.spawn import spawn
from mcr.wire import worker as wire

SEND_DEADLINE_S = 2.0
REALTIME_PRIORITY = 1  # the lowest: whatever else is realtime on this host knows why


class WorkerProcess:
    """A running process and the supervisor's end of its channel."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self._process = process
        self._channel = channel
        self._room = asyncio.Event()

    @classmethod
    async def start(cls) -> "WorkerProcess":
        """
        Start a process that waits for its hello.

        Raises:
            KernelError: no descriptors or no processes are left.
        """
        try:
            ours, theirs = channel_pair()
            ours.setblocking(False)
            with theirs:
                process = await spawn("worker", [str(theirs.fileno())], theirs.fileno())
        except OSError as error:
            raise KernelError("start", "worker", error.errno or errno.EIO) from error
        return cls(process, Channel(ours))

    @property
    def pid(self) -> int:
        """Give the process id."""
        return self._process.pid

    def go_first(self) -> None:
        """
        Let the process run whenever it wants to, before all that have no such privilege (sched(7)).

        Raises:
            KernelError: not permitted here.
        """
        try:
            os.sched_setscheduler(self.pid, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))
        except OSError as error:
            raise KernelError("give realtime to", f"worker {self.pid}", error.errno or errno.EIO) from error

    def listen(self, heard: Callable[[wire.FromWorker], None], failed: Callable[[PeerError], None]) -> None:
        """Call *heard* for every message; on a breach of the protocol call *failed* and listen no more."""
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._read, heard, failed)

    async def send(self, message: wire.ToWorker, descriptors: list[int]) -> None:
        """
        Send one message with descriptors, which stay the caller's; wait while the channel is full.

        Raises:
            PeerError: the worker has hung up, or takes nothing for `SEND_DEADLINE_S`.
        """
        try:
            async with asyncio.timeout(SEND_DEADLINE_S):
                while True:
                    try:
                        return self._channel.send(message, descriptors)
                    except BlockingIOError:
                        await self._writable()
        except TimeoutError as error:
            raise PeerError(f"got no room in the channel for {SEND_DEADLINE_S} s") from error

    async def send_file(self, message: wire.ToWorker, content: bytes) -> None:
        """
        Send one message with a memory file of *content*.

        Raises:
            PeerError: the worker does not take it.
            KernelError: no descriptor or no memory is left.
        """
        try:
            file = os.fdopen(os.memfd_create("mcr-share", os.MFD_CLOEXEC), "wb")
        except OSError as error:
            raise KernelError("make", "memory file", error.errno or errno.EIO) from error
        with file:
            file.write(content)
            file.flush()
            await self.send(message, [file.fileno()])

    async def wait(self) -> int:
        """Wait for the end of the process; give its exit status, negative for a signal."""
        return await self._process.wait()

    def kill(self) -> None:
        """End the process at once."""
        try:
            self._process.kill()
        except ProcessLookupError:
            return

    def hang_up(self) -> None:
        """Close the channel: the worker ends when it sees that."""
        if self._channel.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._channel.fileno())
            loop.remove_writer(self._channel.fileno())
            self._channel.close()
            self._room.set()  # who waits for room sees that the channel is closed

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        self._room.clear()
        loop.add_writer(self._channel.fileno(), self._room.set)
        try:
            await self._room.wait()
        finally:
            if self._channel.fileno() >= 0:
                loop.remove_writer(self._channel.fileno())

    def _read(self, heard: Callable[[wire.FromWorker], None], failed: Callable[[PeerError], None]) -> None:
        try:
            message, descriptors = self._channel.receive()
            for descriptor in descriptors:
                os.close(descriptor)
        except BlockingIOError:
            return
        except PeerError as error:
            self.hang_up()
            failed(error)
            return
        if isinstance(message, wire.FromWorker):
            heard(message)
        else:
            failed(PeerError(f"got a message of kind {message.kind!r}, expected one from a worker"))
