"""A SOCK_SEQPACKET channel between the supervisor and one worker: messages, with descriptors beside them."""

import os
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from mcr.errors import PeerError
from mcr.wire import worker as wire

_DESCRIPTOR_BYTES = 4


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Make both ends; the caller owns them."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """One end of a channel; owns *end*, and waits in `receive` and `send` if that is a blocking one."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Give the descriptor, to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end; the other one reads an end of file."""
        self._socket.close()

    def send(self, message: wire.ToWorker | wire.FromWorker, descriptors: Sequence[int] = ()) -> None:
        """
        Send one message; the descriptors are duplicated, the caller keeps its own.

        Raises:
            PeerError: the other end is closed.
            BlockingIOError: a non-blocking channel is full.
        """
        try:
            socket.send_fds(self._socket, [wire.encode(message)], list(descriptors), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            raise
        except OSError as error:  # also of our own end: somebody hung up
            raise PeerError("got a closed channel, expected a living peer") from error

    def receive(self) -> tuple[wire.ToWorker | wire.FromWorker, list[int]]:
        """
        Receive one message and its descriptors, which the caller then owns.

        Raises:
            PeerError: end of file, a message too long, or no message of this protocol.
            BlockingIOError: a non-blocking channel is empty.
        """
        try:
            data, descriptors, flags, _ = socket.recv_fds(
                self._socket, wire.MAX_MESSAGE_BYTES, wire.MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError as error:
            raise PeerError("got a closed channel, expected a living peer") from error
        try:
            return _decode(data, flags), descriptors
        except PeerError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise


def _decode(data: bytes, flags: int) -> wire.ToWorker | wire.FromWorker:
    if not data:
        raise PeerError("got the end of the channel, expected a message")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise PeerError("got a message beyond the limits of the protocol")
    return wire.decode(data)
