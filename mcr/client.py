"""
The client side of the control protocol, blocking: for mcrctl, tests and users' scripts.

::

    with Client("/run/mcr/control.sock") as client:
        for rule in client.call("rule.list"):
            print(rule["name"], rule["state"])
"""

import errno
import os
import socket
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from mcr import __version__
from mcr.errors import PeerError, Refused, Unreachable
from mcr.wire.control import (
    PROTOCOL,
    AnswerDecoder,
    Failure,
    Hello,
    Request,
    decode_hello,
    encode_hello,
    encode_request,
)
from mcr.wire.framing import FrameDecoder

DEFAULT_PATH = Path("/run/mcr/control.sock")
RECEIVE_BYTES = 1 << 18

_SAME_PATH = "check that mcrd is running and was started with the same --control path"
_WHAT_TO_CHECK = {
    errno.ENOENT: f"there is no such socket; {_SAME_PATH}",
    errno.ENOTDIR: f"a part of the path is no directory; {_SAME_PATH}",
    errno.ECONNREFUSED: "nobody listens there; check that mcrd is still running",
    errno.EACCES: "permission denied; run this as root or as a member of group mcr",
    errno.EPERM: "permission denied; run this as root or as a member of group mcr",
    errno.EAGAIN: "too many clients are waiting; check that mcrd is responsive",
}


class Client:
    """
    One connection to the daemon, open inside ``with``.

    Attributes:
        path: the control socket.
        timeout_s: how long connecting and each call may take, in seconds.
        daemon: the version and protocol of the other side, known once connected.
    """

    def __init__(self, path: str | os.PathLike[str] = DEFAULT_PATH, timeout_s: float = 5.0) -> None:
        self.path = Path(path)
        self.timeout_s = timeout_s
        self.daemon = Hello(0, "")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._frames = FrameDecoder()
        self._received: deque[bytes] = deque()
        self._answers = AnswerDecoder()
        self._last_id = 0

    def __enter__(self) -> Self:
        """
        Connect and exchange hellos.

        Raises:
            Unreachable: nobody answers at the path; says what to check.
            Refused: the daemon wants no further client.
            PeerError: who answers speaks something else.
        """
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; requests under way are still carried out."""
        self._socket.close()

    def call(self, method: str, **params: object) -> object:
        """
        Ask for *method*, a key of `wire.control.METHODS`, and give what the daemon answers.

        Raises:
            Refused: the daemon did not do it: code, message, details.
            Unreachable: it did not answer in time, or is gone.
            UsageError: a parameter cannot be sent.
            PeerError: it broke the protocol.
        """
        self._last_id += 1
        deadline = time.monotonic() + self.timeout_s
        self._send(encode_request(Request(self._last_id, method, params)), deadline)
        while True:
            answer = self._answers.feed(self._receive(deadline))
            if isinstance(answer, Failure):
                raise Refused(answer.code, answer.message, answer.details)
            if answer is not None and answer.id == self._last_id:
                return answer.value
            if answer is not None:
                raise PeerError(
                    f"{self.path}: got an answer to request {answer.id}, expected one to {self._last_id}"
                )

    def _connect(self) -> None:
        deadline = time.monotonic() + self.timeout_s
        self._socket.settimeout(self.timeout_s)
        try:
            self._socket.connect(os.fspath(self.path))
        except OSError as error:
            raise self._unreachable(error) from error
        # The daemon's hello is read before ours is sent: a daemon with too many clients says so and hangs up.
        hello = decode_hello(self._receive(deadline))
        if isinstance(hello, Failure):
            raise Refused(hello.code, hello.message, hello.details)
        self.daemon = hello
        self._send(encode_hello(Hello(PROTOCOL, __version__)), deadline)

    def _send(self, frame: bytes, deadline: float) -> None:
        try:
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(frame, socket.MSG_NOSIGNAL)
        except BrokenPipeError:
            return  # why it hung up may stand in what it sent before: read that
        except OSError as error:
            raise self._unreachable(error) from error

    def _receive(self, deadline: float) -> bytes:
        """Give the payload of the next frame."""
        while not self._received:
            try:
                self._socket.settimeout(_left(deadline))
                data = self._socket.recv(RECEIVE_BYTES)
            except OSError as error:
                raise self._unreachable(error) from error
            if not data:
                raise Unreachable(
                    f"{self.path}: the daemon hung up; check that mcrd is still running, and its log"
                )
            self._received.extend(self._frames.feed(data))
        return self._received.popleft()

    def _unreachable(self, error: OSError) -> Unreachable:
        if isinstance(error, TimeoutError):
            return Unreachable(
                f"{self.path}: no answer within {self.timeout_s:g} s; check that mcrd is responsive"
            )
        reason = error.strerror or str(error)
        advice = _WHAT_TO_CHECK.get(error.errno or 0, f"{reason}; check the path and that mcrd is running")
        return Unreachable(f"{self.path}: {advice}")


def _left(deadline: float) -> float:
    """Give the seconds until *deadline*; not zero, which would mean not to wait at all."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
