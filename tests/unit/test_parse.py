"""The C parser: one packet in, a datagram or the reason to ignore it out."""

from dataclasses import dataclass, replace
from ipaddress import IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr._native import ffi, lib
from mcr.model.endpoint import Address
from mcr.model.stats import IGNORED_REASONS
from mcr.wire.share import mapped
from tests.support.packets import (
    DESTINATION,
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    FRAGMENT,
    HOP_BY_HOP,
    ROUTING,
    TCP,
    UDP,
    V4,
    V6,
    Packet,
    extension,
)
from tests.support.rules import GROUPS, HOSTS_V4, HOSTS_V6, PORTS

ETHERTYPES = [ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q, ETH_P_8021AD, ETH_P_ARP]
DONT_FRAGMENT, MORE_FRAGMENTS, RESERVED_FLAG = 0x4000, 0x2000, 0x8000


@dataclass(frozen=True)
class Datagram:
    """
    What the parser found.

    Attributes:
        start: where the payload begins in the packet.
    """

    source: bytes
    group: bytes
    port: int
    ttl: int
    payload: bytes
    start: int


def parse(ethertype: int, data: bytes, *, checksum_known: bool = False) -> Datagram | str:
    """Give what is in a packet, or the reason to ignore it; the memory behind the packet is not ours."""
    memory = ffi.new("uint8_t[]", len(data)) if data else ffi.NULL
    ffi.memmove(memory, data, len(data))
    packet = ffi.new("struct mcr_packet *", (memory, len(data), ethertype, checksum_known, 0))
    found = ffi.new("struct mcr_datagram *")
    result = lib.mcr_parse__packet(packet, found)
    if result:
        return IGNORED_REASONS[-result - 1]
    start = int(ffi.cast("uintptr_t", found.payload)) - int(ffi.cast("uintptr_t", memory))
    assert 0 <= start <= start + found.payload_bytes <= len(data)
    payload = data[start : start + found.payload_bytes]
    return Datagram(bytes(found.source), bytes(found.group), found.port, found.ttl, payload, start)


def parse_packet(packet: Packet, *, checksum_known: bool = False) -> Datagram | str:
    return parse(packet.ethertype, bytes(packet), checksum_known=checksum_known)


def expected(packet: Packet) -> Datagram:
    """Give what is in a packet that has nothing wrong with it."""
    between = sum(1 + len(rest) for _, rest in packet.extensions)
    start = 28 + len(packet.options) if packet.group.version == 4 else 48 + between
    return Datagram(
        mapped(packet.source), mapped(packet.group), packet.port, packet.ttl, packet.payload, start
    )


BOTH = [V4, V6]


@pytest.mark.parametrize("packet", BOTH)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"payload": b""},
        {"payload": b"x"},
        {"payload": b"odd"},
        {"payload": bytes(65507 - 20)},
        {"port": 1},
        {"port": 65535},
        {"ttl": 0},
        {"ttl": 255},
        {"padding": bytes(18)},
    ],
)
def test_a_whole_datagram_is_found(packet: Packet, change: dict[str, object]) -> None:
    whole = replace(packet, **change)  # type: ignore[arg-type]  # one of its fields

    assert parse_packet(whole) == expected(whole)


@pytest.mark.parametrize("words", range(11))
def test_options_of_ipv4_are_skipped(words: int) -> None:
    packet = replace(V4, options=b"\x01\x01\x01\x00" * words)

    assert parse_packet(packet) == expected(packet)


@pytest.mark.parametrize("fragment", [0, DONT_FRAGMENT, RESERVED_FLAG])
def test_flags_that_do_not_mean_fragments_are_ignored(fragment: int) -> None:
    assert parse_packet(replace(V4, fragment=fragment)) == expected(V4)


# Payloads whose checksum comes out as zero are sent with 0xFFFF instead (RFC 768).
@pytest.mark.parametrize("packet", BOTH)
def test_a_checksum_that_comes_out_as_zero_is_right(packet: Packet) -> None:
    zero = replace(packet, payload=b"\0\0", checksum=0)
    checksum = int.from_bytes(bytes(replace(zero, checksum=None))[-4:-2])
    fitting = replace(packet, payload=checksum.to_bytes(2))

    assert bytes(fitting)[-4:-2] == b"\xff\xff"
    assert parse_packet(fitting) == expected(fitting)


def test_ipv4_may_leave_the_checksum_out() -> None:
    assert parse_packet(replace(V4, checksum=0)) == expected(V4)


def test_ipv6_may_not_leave_the_checksum_out() -> None:
    """RFC 8200, section 8.1."""
    assert parse_packet(replace(V6, checksum=0)) == "checksum"


@pytest.mark.parametrize("packet", BOTH)
@pytest.mark.parametrize("checksum", [1, 0x1234, 0xFFFF])
def test_a_wrong_checksum_is_seen_unless_the_kernel_knows_better(packet: Packet, checksum: int) -> None:
    wrong = replace(packet, checksum=checksum)

    assert parse_packet(wrong) == "checksum"
    assert parse_packet(wrong, checksum_known=True) == expected(packet)


@given(st.sampled_from(BOTH), st.binary(min_size=1, max_size=40), st.integers(0), st.integers(1, 255))
def test_a_flipped_byte_of_the_payload_is_seen(packet: Packet, payload: bytes, at: int, bits: int) -> None:
    whole = bytearray(bytes(replace(packet, payload=payload)))
    whole[-1 - at % len(payload)] ^= bits

    assert parse(packet.ethertype, bytes(whole)) == "checksum"


@pytest.mark.parametrize("packet", BOTH)
def test_a_flipped_bit_of_an_address_is_seen(packet: Packet) -> None:
    """The kernel has not compared the header's checksum either, so a wrong group must not be relayed."""
    first = 12 if packet.group.version == 4 else 8
    for position in range(first, first + 2 * len(packet.group.packed)):
        whole = bytearray(bytes(packet))
        whole[position] ^= 0x10

        assert parse(packet.ethertype, bytes(whole)) == "checksum"


@given(st.integers(0, 59), st.integers(1, 255), st.booleans())
def test_a_flipped_byte_of_the_ipv4_header_is_seen(position: int, bits: int, checksum_known: bool) -> None:  # noqa: FBT001 - made by hypothesis
    """What is wrong there may be the destination; what the kernel knows of UDP says nothing about it."""
    whole = bytearray(bytes(replace(V4, options=bytes(40))))
    whole[position] ^= bits

    assert parse(ETH_P_IP, bytes(whole), checksum_known=checksum_known) in {
        *("checksum", "malformed", "not_udp", "fragment", "truncated")
    }


OPTIONS = extension(DESTINATION, b"\x05\2ab")
ROUTED = extension(ROUTING, b"\x02\x01\0\0\0\0" + V6.group.packed)
SKIPPED = [
    extension(HOP_BY_HOP, b"\x05\2\0\0"),  # router alert
    extension(HOP_BY_HOP, b"\1\2\0\0\0\0\x3f\3abc"),
    extension(DESTINATION, b""),
    extension(DESTINATION, bytes(254) + b"\x1e\xff" + bytes(255)),
    extension(ROUTING, b"\x02\0\0\0\0\0" + V6.group.packed),
]


LONG = replace(V6, extensions=tuple(SKIPPED[1:]))

CASES: list[tuple[str, Packet, str]] = [
    ("ipv4 in a frame that says ipv6", replace(V6, version=4), "malformed"),
    ("ipv6 in a frame that says ipv4", replace(V4, version=6), "malformed"),
    ("version 0 of ipv4", replace(V4, version=0), "malformed"),
    ("version 15 of ipv6", replace(V6, version=15), "malformed"),
    ("an ipv4 header of no words", replace(V4, header_words=0), "malformed"),
    ("an ipv4 header of four words", replace(V4, header_words=4), "malformed"),
    ("an ipv4 header longer than the packet", replace(V4, header_words=15), "malformed"),
    ("an ipv4 packet of no bytes", replace(V4, ip_bytes=0), "malformed"),
    ("an ipv4 packet shorter than its header", replace(V4, ip_bytes=19), "malformed"),
    ("an ipv4 packet without a udp header", replace(V4, ip_bytes=27), "malformed"),
    ("an ipv4 packet longer than what was captured", replace(V4, ip_bytes=36), "truncated"),
    ("an ipv6 packet without a udp header", replace(V6, ip_bytes=7), "malformed"),
    ("a jumbogram", replace(V6, ip_bytes=0), "malformed"),
    ("an ipv6 packet longer than what was captured", replace(V6, ip_bytes=16), "truncated"),
    ("the first fragment", replace(V4, fragment=MORE_FRAGMENTS), "fragment"),
    ("a fragment in the middle", replace(V4, fragment=MORE_FRAGMENTS | 185), "fragment"),
    ("the last fragment", replace(V4, fragment=185), "fragment"),
    ("the last possible fragment", replace(V4, fragment=0x1FFF), "fragment"),
    ("a fragment of ipv6", replace(V6, protocol=FRAGMENT), "fragment"),
    ("tcp in ipv4", replace(V4, protocol=TCP), "not_udp"),
    ("tcp in ipv6", replace(V6, protocol=TCP), "not_udp"),
    ("a fragment of tcp", replace(V4, protocol=TCP, fragment=185), "not_udp"),
    ("options of ipv6 that are none", replace(V6, protocol=HOP_BY_HOP), "malformed"),
    *(
        (f"extensions of ipv6: {name}", replace(V6, extensions=tuple(extensions)), reason)
        for name, extensions, reason in [
            ("a routing header with a segment left", [ROUTED], "extension"),
            ("an option to discard", [extension(DESTINATION, b"\x41\x00")], "extension"),
            ("an option to discard behind others", [extension(HOP_BY_HOP, b"\x05\2ab\0\xc2\0")], "extension"),
            ("an option beyond its header", [extension(DESTINATION, b"\x05\5abcd")], "malformed"),
            ("half an option", [extension(DESTINATION, b"\0\0\0\0\0\1")], "malformed"),
            ("hop-by-hop options in the second place", [OPTIONS, extension(HOP_BY_HOP, b"")], "malformed"),
            ("a header beyond the packet", [(DESTINATION, b"\xff" + bytes(6))], "malformed"),
        ]
    ),
    ("tcp behind an extension", replace(V6, extensions=(OPTIONS,), protocol=TCP), "not_udp"),
    ("a fragment behind an extension", replace(V6, extensions=(OPTIONS,), protocol=FRAGMENT), "fragment"),
    ("an extension and no more", replace(V6, extensions=(OPTIONS,), ip_bytes=8), "malformed"),
    ("an extension cut", replace(V6, extensions=(OPTIONS,), ip_bytes=7), "malformed"),
    (
        "extensions longer than what was captured",
        replace(V6, extensions=(OPTIONS,), ip_bytes=24),
        "truncated",
    ),
    *(
        case
        for packet in BOTH
        for case in [
            (f"no udp length in ipv{packet.group.version}", replace(packet, udp_bytes=0), "malformed"),
            (
                f"a udp length of seven in ipv{packet.group.version}",
                replace(packet, udp_bytes=7),
                "malformed",
            ),
            (
                f"a udp length beyond the packet in ipv{packet.group.version}",
                replace(packet, udp_bytes=8 + len(packet.payload) + 1),
                "malformed",
            ),
            (
                f"the longest udp length in ipv{packet.group.version}",
                replace(packet, udp_bytes=0xFFFF),
                "malformed",
            ),
        ]
    ),
]


@pytest.mark.parametrize(("packet", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("checksum_known", [True, False])
def test_what_contradicts_itself_is_ignored(packet: Packet, reason: str, *, checksum_known: bool) -> None:
    """That the kernel knows the checksum says nothing about lengths."""
    assert parse_packet(packet, checksum_known=checksum_known) == reason


@given(st.lists(st.sampled_from(SKIPPED), max_size=6), st.binary(max_size=50))
def test_extension_headers_of_ipv6_are_skipped(extensions: list[tuple[int, bytes]], payload: bytes) -> None:
    packet = replace(V6, extensions=tuple(extensions), payload=payload)
    is_right = all(kind != HOP_BY_HOP for kind, _ in extensions[1:])

    assert parse_packet(packet) == (expected(packet) if is_right else "malformed")


@pytest.mark.parametrize("packet", BOTH)
def test_padding_that_is_not_udps_is_left_out(packet: Packet) -> None:
    """An IP payload may be longer than the UDP datagram in it; the rest is nobody's (RFC 768)."""
    longer = replace(packet, payload=packet.payload + b"padding", udp_bytes=8 + len(packet.payload))

    assert parse_packet(longer, checksum_known=True) == expected(packet)


@pytest.mark.parametrize("packet", [V4, replace(V4, options=bytes(40)), V6, LONG])
def test_every_beginning_of_a_packet_is_ignored(packet: Packet) -> None:
    whole = bytes(packet)
    header = 20 if packet.group.version == 4 else 40

    for length in range(len(whole)):
        assert parse(packet.ethertype, whole[:length]) == ("malformed" if length < header else "truncated")


@pytest.mark.parametrize(
    ("ethertype", "reason"),
    [
        (ETH_P_8021Q, "vlan"),
        (ETH_P_8021AD, "vlan"),
        (ETH_P_ARP, "not_udp"),
        (0x88CC, "not_udp"),
        (0, "not_udp"),
    ],
)
def test_other_ethertypes_are_ignored(ethertype: int, reason: str) -> None:
    assert parse(ethertype, bytes(V4)) == reason
    assert parse(ethertype, b"") == reason


def test_an_ipv4_group_is_not_confused_with_a_native_ipv6_one() -> None:
    """In the table an IPv4 address is ::ffff:a.b.c.d, which no IPv6 rule can have."""
    found = parse_packet(replace(V6, group=IPv6Address("ff35::efff:101")))

    assert isinstance(found, Datagram)
    assert found.group != mapped(V4.group)


@settings(max_examples=500)
@given(
    st.sampled_from([ETH_P_IP, ETH_P_IPV6]),
    st.integers(),
    st.binary(max_size=200),
    st.booleans(),
)
def test_any_bytes_give_a_reason_or_a_payload_within_them(
    ethertype: int,
    protocol: int,
    data: bytes,
    checksum_known: bool,  # noqa: FBT001 - made by hypothesis
) -> None:
    """Random bytes seldom are UDP of the right version, so these two are helped along."""
    helped = bytearray(data)
    if len(helped) > 9:
        helped[0] = (0x40 if ethertype == ETH_P_IP else 0x60) | helped[0] & 0x0F
        helped[9 if ethertype == ETH_P_IP else 6] = UDP if protocol % 4 else protocol % 256

    for candidate in (data, bytes(helped)):
        found = parse(ethertype, candidate, checksum_known=checksum_known)
        assert isinstance(found, Datagram) or found in IGNORED_REASONS


PACKETS = st.builds(
    lambda group, v4, v6, port, payload, ttl, words: Packet(
        v4 if group.version == 4 else v6,
        group,
        port,
        payload,
        ttl,
        options=bytes(4 * words) if group.version == 4 else b"",
    ),
    GROUPS,
    HOSTS_V4,
    HOSTS_V6,
    PORTS,
    st.binary(max_size=2000),
    st.integers(0, 255),
    st.integers(0, 10),
)


@given(PACKETS)
def test_what_is_put_in_comes_out(packet: Packet) -> None:
    assert parse_packet(packet) == expected(packet)


@given(PACKETS, st.integers(0), st.integers(1, 255))
def test_no_flipped_byte_changes_what_is_relayed_unseen(packet: Packet, at: int, bits: int) -> None:
    """Beside the TTL, which every router changes, and what the relay does not look at."""
    whole = bytearray(bytes(packet))
    whole[at % len(whole)] ^= bits
    found = parse(packet.ethertype, bytes(whole))

    if isinstance(found, Datagram):
        assert replace(found, ttl=packet.ttl) == expected(packet) or is_shifted(packet, at % len(whole))


def is_shifted(packet: Packet, position: int) -> bool:
    """Say whether a byte tells where the datagram begins: a sum over the wrong place may happen to fit."""
    return packet.group.version == 4 and position in {0, 2, 3}


def addresses(found: Datagram | str) -> tuple[bytes, bytes]:
    assert isinstance(found, Datagram)
    return found.source, found.group


@given(HOSTS_V4, st.ip_addresses(v=4))
def test_ipv4_addresses_are_mapped(source: Address, group: Address) -> None:
    found = parse_packet(replace(V4, source=source, group=group))

    assert addresses(found) == (mapped(source), mapped(group))
