"""The C loop that sends, on a socket pair instead of a network."""

import socket
import struct

import pytest

from mcr._native import ffi, lib

PAYLOAD_BYTES = 100
SENT_AT = struct.Struct("!16xQ")  # native/generate.h
RUN_NS = 10**9


@pytest.mark.parametrize(
    ("segments", "messages", "stamps"), [(64, 4, 4), (46, 4, 4), (33, 4, 4), (32, 4, 2), (8, 9, 2), (1, 9, 1)]
)
def test_no_more_than_64_datagrams_are_stamped_together(segments: int, messages: int, stamps: int) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.setblocking(False)  # a full queue is an error then, and no wait without end
    flow = ffi.new("struct mcr_send_flow *", {"total": messages * segments})
    plan = ffi.new(
        "struct mcr_send_plan *",
        {"fd": left.fileno(), "flows": 1, "payload_bytes": PAYLOAD_BYTES, "segments": segments},
    )
    native = ffi.gc(lib.mcr_send__new(plan, flow), lib.mcr_send__free)
    with left, right:
        is_unfinished = lib.mcr_send__run(native, RUN_NS)
        sent = [right.recv(1 << 16, socket.MSG_DONTWAIT) for _ in range(messages)]

    assert not is_unfinished
    assert {len(one) for one in sent} == {segments * PAYLOAD_BYTES}
    assert len({SENT_AT.unpack_from(one)[0] for one in sent}) == stamps
