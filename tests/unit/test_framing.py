import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.errors import PeerError
from mcr.wire.framing import MAX_PAYLOAD_BYTES, FrameDecoder, encode_frame

PAYLOADS = st.lists(st.binary(max_size=300), max_size=20)


def test_a_frame_is_its_length_and_its_payload() -> None:
    assert encode_frame(b"abc") == b"\0\0\0\3abc"


def test_frames_fed_whole_come_out_in_order() -> None:
    assert FrameDecoder().feed(encode_frame(b"a") + encode_frame(b"") + encode_frame(b"bc")) == [
        b"a",
        b"",
        b"bc",
    ]


def test_a_frame_fed_bytewise_comes_out_with_its_last_byte() -> None:
    decoder = FrameDecoder()

    fed = [decoder.feed(bytes([byte])) for byte in encode_frame(b"abc")]

    assert fed == [[]] * 6 + [[b"abc"]]


def test_trailing_bytes_are_the_next_frame() -> None:
    decoder = FrameDecoder()

    assert decoder.feed(encode_frame(b"a") + b"\0\0") == [b"a"]
    assert decoder.is_within_frame
    assert decoder.feed(b"\0\1b") == [b"b"]
    assert not decoder.is_within_frame


@given(PAYLOADS, st.lists(st.integers(1, 50), min_size=1))
def test_any_cut_of_the_stream_gives_the_same_payloads(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(encode_frame, payloads))
    decoder = FrameDecoder()
    received: list[bytes] = []
    while stream:
        for cut in cuts:
            received += decoder.feed(stream[:cut])
            stream = stream[cut:]

    assert received == payloads
    assert not decoder.is_within_frame


@pytest.mark.parametrize("length", [MAX_PAYLOAD_BYTES + 1, 2**31, 2**32 - 1])
def test_a_length_over_the_limit_is_refused_before_its_payload(length: int) -> None:
    decoder = FrameDecoder()
    header = struct.pack("!I", length)
    decoder.feed(header[:3])

    with pytest.raises(
        PeerError, match=f"got a frame of {length} bytes, expected at most {MAX_PAYLOAD_BYTES}"
    ):
        decoder.feed(header[3:])


def test_the_longest_frame_passes() -> None:
    payload = bytes(MAX_PAYLOAD_BYTES)

    assert FrameDecoder().feed(encode_frame(payload)) == [payload]


def test_a_decoder_may_take_less() -> None:
    with pytest.raises(PeerError, match="got a frame of 11 bytes, expected at most 10"):
        FrameDecoder(10).feed(encode_frame(bytes(11)))


def test_too_long_a_payload_is_not_framed() -> None:
    with pytest.raises(PeerError, match="expected at most"):
        encode_frame(bytes(MAX_PAYLOAD_BYTES + 1))
