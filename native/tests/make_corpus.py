"""
Write the corpora that the fuzz targets start from: ``native/tests/corpus/TARGET/NAME``.

Each input is named for what it holds; its layout is said at the top of the target's C file.  Inputs that once
showed a bug are added by hand beside them, and stay.
"""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"

# ---- packets ----


def checksum(data: bytes) -> int:
    """Give the Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(payload: bytes, pseudo: bytes, *, no_checksum: bool = False) -> bytes:
    """Give a UDP header to a payload; *pseudo* holds the addresses."""
    length = 8 + len(payload)
    head = struct.pack(">HHH", 40000, 5001, length)
    zero = struct.pack(">HH", 17, length) + head + bytes(2) + payload
    value = 0 if no_checksum else checksum(pseudo + zero) or 0xFFFF
    return head + struct.pack(">H", value) + payload


def ipv4(payload: bytes, *, options: bytes = b"", fragment: int = 0, no_checksum: bool = False) -> bytes:
    """Give a packet to 239.1.1.1."""
    addresses = socket.inet_aton("10.0.0.1") + socket.inet_aton("239.1.1.1")
    content = udp(payload, addresses, no_checksum=no_checksum)
    words = 5 + len(options) // 4
    head = struct.pack(">BBHHHBB", 0x40 | words, 0, words * 4 + len(content), 7, fragment, 16, 17)
    value = checksum(head + bytes(2) + addresses + options)
    return head + struct.pack(">H", value) + addresses + options + content


def ipv6(payload: bytes, *, next_header: int = 17, between: bytes = b"") -> bytes:
    """Give a packet to ff35::8000:1."""
    addresses = socket.inet_pton(socket.AF_INET6, "fd00::9") + socket.inet_pton(
        socket.AF_INET6, "ff35::8000:1"
    )
    content = between + udp(payload, addresses)
    return struct.pack(">IHBB", 0x60000000, len(content), next_header, 16) + addresses + content


# Hop-by-hop options, a routing header without segments left, destination options.
EXTENSIONS = (
    bytes([43, 0, 5, 2, 0, 0, 1, 0]) + bytes([60, 0, 4, 0, 0, 0, 0, 0]) + bytes([17, 0, 1, 4, 0, 0, 0, 0])
)


def parse() -> Iterator[tuple[str, bytes]]:
    """Give protocol, whether the checksum is known, and a packet."""
    v4, v6, vlan, other = b"\0\0", b"\1\0", b"\2\0", b"\xc8\0"
    unfinished = b"\0\1"
    yield "ipv4", v4 + ipv4(b"multicast!")
    yield "ipv4_odd_length", v4 + ipv4(b"multicast")
    yield "ipv4_empty", v4 + ipv4(b"")
    yield "ipv4_options", v4 + ipv4(b"router alert", options=b"\x94\x04\0\0")
    yield "ipv4_most_options", v4 + ipv4(b"options", options=bytes(40))
    yield "ipv4_no_checksum", v4 + ipv4(b"unprotected", no_checksum=True)
    yield "ipv4_wrong_checksum", v4 + ipv4(b"multicast!")[:-1] + b"?"
    yield "ipv4_wrong_header_checksum", v4 + ipv4(b"multicast!").replace(b"\x10\x11", b"\x20\x11", 1)
    yield "ipv4_unfinished_checksum", unfinished + ipv4(b"multicast!")[:-1] + b"?"
    yield "ipv4_padded", v4 + ipv4(b"short") + bytes(18)
    yield "ipv4_cut", v4 + ipv4(b"longer than what was kept")[:-5]
    yield "ipv4_first_fragment", v4 + ipv4(b"multicast!", fragment=0x2000)
    yield "ipv4_last_fragment", v4 + ipv4(b"multicast!", fragment=0x00B9)
    yield "ipv6", v6 + ipv6(b"multicast!")
    yield "ipv6_odd_length", v6 + ipv6(b"multicast")
    yield "ipv6_fragment", v6 + ipv6(b"multicast!", next_header=44)
    yield "ipv6_hop_by_hop", v6 + ipv6(b"multicast!", next_header=0)
    yield "ipv6_extensions", v6 + ipv6(b"multicast!", next_header=0, between=EXTENSIONS)
    yield "ipv6_cut", v6 + ipv6(b"longer than what was kept")[:-5]
    yield "ipv4_as_ipv6", v6 + ipv4(b"multicast!" * 4)
    yield "vlan", vlan + ipv4(b"multicast!")
    yield "lldp", other + ipv4(b"multicast!")


# ---- shares ----

ABI = 1


def group(last: int) -> bytes:
    """Give 239.1.1.LAST as the table has it."""
    return bytes(10) + b"\xff\xff" + bytes((239, 1, 1, last))


def source(last: int) -> bytes:
    """Give 10.0.0.LAST as the table has it."""
    return bytes(10) + b"\xff\xff" + bytes((10, 0, 0, last))


def rule(  # noqa: PLR0913 - a rule has that many fields
    to: bytes,
    slot: int,
    outputs: tuple[int, int],
    sources: tuple[int, int] = (0, 0),
    *,
    ports: tuple[int, int] = (5001, 5001),
    bits: int = 128,
    excludes: bool = False,
) -> bytes:
    """Give a rule; *outputs* and *sources* say from where and how many."""
    place = (to, slot % 4, slot % 4 + 1)
    return struct.pack("=16sIIHHBBHIIIII", *place, *ports, bits, excludes, 0, slot, *outputs, *sources)


def output(slot: int, policy: int = 0, ttl: int = 0) -> bytes:
    """Give an output."""
    place = struct.pack("=16sIIQHhB", group(200), 2, 1500, 0, 6000 + slot, 0, 128)
    return place + struct.pack("=BBBBBBB6sBBI", 0, policy, ttl, 0, 0, 0, 0, b"", 0, 0, slot)


def share(rules: list[bytes], outputs: list[bytes], sources: list[bytes]) -> tuple[bytes, bytes]:
    """Give the two layouts of one share: as it is, and with its counts in front."""
    body = b"".join(rules + outputs + sources)
    counts = bytes((len(rules), len(outputs), len(sources)))
    return (
        b"\0" + struct.pack("=IIIIQQ", ABI, *counts, 1, 1) + body,
        b"\1" + counts + b"\1" + body,
    )


def table() -> Iterator[tuple[str, bytes]]:
    """Give each share in both layouts."""
    shares = {
        "empty": share([], [], []),
        "one_rule": share([rule(group(1), 0, (0, 1))], [output(0)], []),
        "no_outputs": share([rule(group(1), 0, (0, 0))], [], []),
        "fan_out": share([rule(group(1), 0, (0, 8))], [output(n, n % 4, n) for n in range(8)], []),
        "sources": share(
            [
                rule(group(1), 0, (0, 1), (0, 2)),
                rule(group(1), 4, (1, 1), (2, 1)),
                rule(group(1), 8, (2, 1)),
            ],
            [output(n) for n in range(3)],
            [source(n) for n in range(3)],
        ),
        "many_rules": share(
            [rule(group(n), n, (n, 1)) for n in range(64)], [output(n) for n in range(64)], []
        ),
        "same_input_twice": share([rule(group(1), 0, (0, 0)), rule(group(1), 4, (0, 0))], [], []),
        "outputs_beyond_the_end": share([rule(group(1), 0, (0, 2))], [output(0)], []),
        "slot_beyond_the_end": share([rule(group(1), 0, (0, 1))], [output(1 << 15)], []),
        "slot_twice": share([rule(group(1), 0, (0, 0)), rule(group(2), 0, (0, 0))], [], []),
        "output_slot_twice": share([rule(group(1), 0, (0, 2))], [output(3), output(3)], []),
        "output_of_two_rules": share([rule(group(1), 0, (0, 1)), rule(group(2), 1, (0, 1))], [output(0)], []),
        "excludes": share(
            [rule(group(1), 0, (0, 0), (0, 2), excludes=True), rule(group(1), 4, (0, 0))],
            [],
            [source(1), source(2)],
        ),
        "ranges": share(
            [
                rule(group(1), 0, (0, 0)),
                rule(group(1), 4, (0, 0), ports=(5001, 5003)),
                rule(group(0), 8, (0, 0), (0, 1), bits=124),
                rule(group(0), 12, (0, 0), (1, 1), bits=124, excludes=True),
                rule(group(0), 16, (0, 0), ports=(5001, 5002), bits=120),
                rule(bytes(16), 20, (0, 0), ports=(0, 65535), bits=0),
            ],
            [],
            [source(1), source(2)],
        ),
        "nested_ranges": share(
            [rule(group(n), 4 * n, (0, 0), bits=128 - n, ports=(n, n + n % 3)) for n in range(9)], [], []
        ),
        "range_backwards": share([rule(group(1), 0, (0, 0), ports=(2, 1))], [], []),
        "prefix_too_long": share([rule(group(1), 0, (0, 0), bits=129)], [], []),
    }
    for name, (as_it_is, with_counts) in shares.items():
        yield name, as_it_is
        yield f"{name}_by_counts", with_counts


# ---- batches ----

BATCH, RESTART, LINK_DOWN, TIME = b"\0", b"\4\0", b"\6\0", b"\7"
FIRST_SHARE, SECOND_SHARE = b"\3\0", b"\3\1"
RULES = 11
# What a rule for several groups, or several ports, wants to know.
INTERFACE_OF_RULE = (0, 0, 0, 1, 0, 1, 0, 0, 1, 1, 2)
CHOICES_OF_RULE = {4: 2, 5: 2}
LAST_RULE, V4_RANGE, V6_RANGE, LIMITED, PACKETS, REFUSING = 10, 4, 5, 6, 7, 9
OUTGOING, VLAN, NO_ROOM, NEEDS_CHECKSUM, CHECKSUM_VALID, SUPER, FINISH_HEADER = 1, 2, 4, 8, 16, 32, 128


def frame(  # noqa: PLR0913 - most are rarely said
    to: int,
    payload_bytes: int = 100,
    *,
    flags: int = 0,
    metadata: bytes = b"",
    changes: bytes = b"\0",
    ttl: int = 16,
    sender: int = 1,
    choices: bytes | None = None,
) -> bytes:
    """Give the step that receives a frame for a rule, from 10.0.0.SENDER."""
    head = bytes((1, INTERFACE_OF_RULE[to], to, ttl, flags))
    if choices is None:
        choices = bytes(CHOICES_OF_RULE.get(to, 0))
    return head + metadata + bytes((sender,)) + choices + struct.pack(">HB", payload_bytes, 0) + changes


def loop(to: int, times: int, payload_bytes: int = 4) -> bytes:
    """Give the step that receives one datagram again and again, its time to live run out."""
    return bytes((8, to, times, payload_bytes)) + bytes(CHOICES_OF_RULE.get(to, 0))


def trace(of: int, every: int) -> bytes:
    """Give the step that traces a rule."""
    return bytes((9, of + 1, every))


def super_frame(to: int, payload_bytes: int, segment_bytes: int) -> bytes:
    """Give a frame of several datagrams, its checksum unfinished."""
    metadata = struct.pack(">H", segment_bytes)
    return frame(to, payload_bytes, flags=SUPER | NEEDS_CHECKSUM, metadata=metadata)


def raw(interface: int, protocol: int, packet: bytes) -> bytes:
    """Give the step that receives a frame byte by byte."""
    return bytes((2, interface, protocol, 0, len(packet))) + packet


def outcomes(*values: int) -> bytes:
    """Give what send calls lead to, the first call's first."""
    return bytes(reversed(values))


def calm_batches() -> Iterator[tuple[str, bytes]]:
    """Give batches whose send calls all succeed."""
    yield "each_rule", b"".join(frame(n) for n in range(RULES)) + BATCH
    yield "equal_payloads", frame(1) * 8 + BATCH
    yield "shorter_last", frame(1) + frame(1) + frame(1, 50) + frame(1) + BATCH
    yield "empty_payloads", frame(0, 0) + frame(0, 0) + frame(0, 1) + BATCH
    yield "longest_payload", frame(1, 65507) + frame(1, 65507) + BATCH
    yield "super_frame", super_frame(0, 8000, 1000) + BATCH
    yield "super_frame_with_rest", super_frame(0, 8001, 1000) + super_frame(0, 999, 1000) + BATCH
    yield "super_frame_of_single_bytes", super_frame(1, 400, 1) + BATCH
    yield "super_frame_of_no_size", super_frame(1, 4000, 0) + BATCH
    yield "super_frame_whole", super_frame(1, 60000, 1400) * 2 + BATCH
    yield "long_frames", frame(1, 3000) + frame(1, 100) + frame(1, 5000) + BATCH
    yield "long_frame_without_room", frame(1, 3000, flags=NO_ROOM) + frame(1, 3000) + BATCH
    yield "vlan", frame(0, flags=VLAN, metadata=b"\0\x0a") + BATCH
    yield "priority_without_vlan", frame(0, flags=VLAN, metadata=b"\xe0\0") + BATCH
    yield "own_frames", frame(0, flags=OUTGOING) + frame(0, 3000, flags=OUTGOING) + BATCH
    yield "wrong_checksum", frame(0, changes=b"\1\x1a\1") + BATCH
    yield "wrong_checksum_not_looked_at", frame(0, flags=CHECKSUM_VALID, changes=b"\1\x1a\1") + BATCH
    yield "source_not_allowed", frame(REFUSING, sender=6) + BATCH
    yield "ttl_of_one", b"".join(frame(n, ttl=1) for n in range(RULES)) + BATCH
    yield "wrong_header_checksum", frame(0, flags=CHECKSUM_VALID, changes=b"\1\x08\x11") + BATCH
    yield "finished_header_checksum", frame(0, flags=FINISH_HEADER, changes=b"\1\x08\x11") + BATCH
    yield (
        "raw",
        raw(0, 0, ipv4(b"raw")) + raw(1, 1, ipv6(b"raw")) + raw(0, 2, b"") + raw(0, 3, b"x" * 40) + BATCH,
    )
    yield "ring_round_and_round", (frame(0) * 5 + BATCH) * 5
    yield "ring_full", frame(0) * 12 + BATCH


def flowing_batches() -> Iterator[tuple[str, bytes]]:
    """Give batches for outputs whose destination, or source, follows from the datagram."""
    senders = range(1, 200, 33)
    yield "sources_by_turns", b"".join(frame(V4_RANGE, sender=n) for n in (1, 2, 1, 1, 2)) + BATCH
    yield "sources_kept", b"".join(frame(V4_RANGE, 50, sender=n) for n in senders) + BATCH
    yield "sources_kept_v6", b"".join(frame(V6_RANGE, 50, sender=n) for n in senders) + BATCH
    mapped = (bytes((group, port)) for group in (1, 2, 255) for port in (0, 9))
    yield "groups_mapped", b"".join(frame(V4_RANGE, choices=one) for one in mapped) + BATCH
    yield "group_and_source_excluded", frame(V4_RANGE, choices=b"\3\3") + frame(LIMITED, sender=2) + BATCH
    lengths = (571, 572, 573, 1148, 1149, 1724, 9000, 65507)
    yield "fragments", b"".join(frame(V4_RANGE, n) for n in lengths) + BATCH
    yield "too_long_for_the_link", b"".join(frame(V6_RANGE, n) for n in (1232, 1233, 9000, 100)) + BATCH
    yield "super_packet", super_frame(V4_RANGE, 8000, 500) + super_frame(V6_RANGE, 8001, 500) + BATCH
    yield "super_packet_of_fragments", super_frame(V4_RANGE, 8000, 1000) + BATCH
    yield "short_among_fragments", (frame(V4_RANGE, 9) + frame(V4_RANGE, 900)) * 3 + BATCH
    yield "packets", frame(PACKETS) + BATCH + frame(PACKETS, sender=200) * 3 + frame(V4_RANGE) + BATCH
    lengths = (572, 573, 1472, 1473, 9000, 65507)
    yield "packets_too_long", b"".join(frame(PACKETS, n) + BATCH for n in lengths)
    yield "super_packets", super_frame(PACKETS, 8000, 500) + super_frame(PACKETS, 8001, 1400) + BATCH
    yield "above_the_rate", super_frame(LIMITED, 2000, 10) + BATCH + TIME + b"\1" + frame(LIMITED) + BATCH
    yield "rate_starts_over", super_frame(LIMITED, 2000, 10) + BATCH + b"\5\x0c" + frame(LIMITED) + BATCH
    yield "traced", trace(0, 1) + frame(0) * 3 + BATCH + trace(LIMITED, 2) + super_frame(LIMITED, 600, 3)
    yield "loop", loop(0, 103) + loop(0, 9) + TIME + b"\xff" * 5 + frame(0, ttl=1) + BATCH
    yield "two_loops", loop(V4_RANGE, 127) + loop(V6_RANGE, 127) + loop(LIMITED, 127, 0) + BATCH


def changing_batches() -> Iterator[tuple[str, bytes]]:
    """Give batches between which something changes."""
    yield (
        "shares_swapped",
        (frame(0) + frame(LAST_RULE) + SECOND_SHARE + frame(0) + frame(LAST_RULE) + FIRST_SHARE) * 2,
    )
    yield (
        "ring_waits_while_closed",
        SECOND_SHARE + frame(LAST_RULE, 3000) + BATCH + frame(LAST_RULE) + FIRST_SHARE + BATCH,
    )
    yield "worker_restarted", frame(0, 3000) + frame(0) + RESTART + BATCH + frame(0, 3000) + RESTART + BATCH
    yield "limited_output_replaced", frame(LIMITED, sender=2) * 5 + BATCH + b"\5\x0c" + BATCH
    yield "output_replaced", frame(1) + b"\5\5" + BATCH + frame(1) + BATCH
    yield "link_down_before_long_frames", frame(0, 3000) + frame(0, 4000) + LINK_DOWN + BATCH
    yield "link_down_later", frame(0, 3000) + BATCH + frame(0, 3000) + LINK_DOWN + frame(0, 4000) + BATCH


def failing_batches() -> Iterator[tuple[str, bytes]]:
    """Give batches of which send calls fail; 128 + n is the n-th error for all, 192 + n for single sends."""
    no_buffer, unreachable, too_long, refused, invalid = 0, 2, 6, 7, 8
    three = frame(1) * 3 + BATCH
    yield "segments_refused", three + three + outcomes(128 + invalid, 0, 0)
    yield "queue_full", three + three + outcomes(128 + no_buffer, 192 + no_buffer, 0)
    yield "queue_full_after_some", three + outcomes(128 + no_buffer, 129, 192 + no_buffer)
    yield "refused_once", three + outcomes(128 + refused, 0)
    yield "refused_twice", three + outcomes(128 + refused, 192 + refused, 192 + refused, 0)
    yield "too_long", three + outcomes(128 + too_long, 192 + too_long, 192 + too_long, 192 + too_long)
    one = frame(V4_RANGE, 2000) + BATCH
    yield "fragment_refused", one + outcomes(0, 128 + refused)
    yield "later_fragment_without_room", one + one + outcomes(0, 0, 0, 128 + no_buffer)
    packets = frame(V6_RANGE) * 3 + BATCH
    yield "super_packet_refused", packets + packets + outcomes(0, 128 + invalid, 0, 0)
    failing = outcomes(128 + unreachable, 192 + unreachable, 192 + unreachable, 0)
    packet = frame(PACKETS) + BATCH
    yield "packets_stopped_half_way", packet + packet + outcomes(0, 128, 0, 0)
    yield "packet_without_room", packet + packet + outcomes(192 + no_buffer, 0, 192 + unreachable)
    yield (
        "packets_in_segments_refused",
        frame(PACKETS) * 3 + BATCH + outcomes(128 + invalid, 128 + invalid, 0),
    )
    yield "left_alone", three + three + three + failing
    yield "tried_again", three + TIME + b"\x01" + three + TIME + b"\x64" + three + failing


def main() -> None:
    """Write all inputs."""
    targets = {
        "fuzz_parse": [*parse()],
        "fuzz_table": [*table()],
        "fuzz_batch": [*calm_batches(), *flowing_batches(), *changing_batches(), *failing_batches()],
    }
    for target, inputs in targets.items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, content in inputs:
            (CORPUS / target / name).write_bytes(content)


if __name__ == "__main__":
    main()
