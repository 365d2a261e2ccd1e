"""
Frames on a byte stream: a length of four bytes, big-endian, then so many bytes of payload.

Pure state, no I/O: the asyncio server and the blocking client feed it what they read.
"""

import struct

from mcr.errors import PeerError

MAX_PAYLOAD_BYTES = 1 << 20

_LENGTH = struct.Struct("!I")


def encode_frame(payload: bytes) -> bytes:
    """
    Put the length before *payload*.

    Raises:
        PeerError: *payload* is longer than any peer accepts.
    """
    _check_length(len(payload), MAX_PAYLOAD_BYTES)
    return _LENGTH.pack(len(payload)) + payload


class FrameDecoder:
    """Cut a byte stream, in whatever pieces it arrives, into payloads of at most *max_payload_bytes*."""

    def __init__(self, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._buffer = bytearray()

    @property
    def is_within_frame(self) -> bool:
        """Say whether a frame has begun that is not complete."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """
        Take the next *data* of the stream and give the payloads that it completes, in order.

        Raises:
            PeerError: a length exceeds the limit; raised with its four bytes, before its payload is
                waited for. The stream cannot be resumed.
        """
        self._buffer += data
        payloads: list[bytes] = []
        position = 0
        while len(self._buffer) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, position)
            _check_length(length, self._max_payload_bytes)
            begin = position + _LENGTH.size
            if len(self._buffer) - begin < length:
                break
            payloads.append(bytes(self._buffer[begin : begin + length]))
            position = begin + length
        del self._buffer[:position]
        return payloads


def _check_length(length: int, limit: int) -> None:
    if length > limit:
        raise PeerError(f"got a frame of {length} bytes, expected at most {limit}")
