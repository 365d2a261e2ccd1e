"""
The programs for packet sockets, run on machines of our own and accepted by the kernel.

What they do in a real fanout is for the tests with namespaces.
"""

import ctypes
import random
import socket
import struct
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr.model.bpf import MAX_EXTENSIONS, Destination, Range, steering_program, unmatched_program
from mcr.model.bpf_code import MAX_INSTRUCTIONS, Program, nothing, packed
from mcr.model.steering import Steering, rule_hash
from tests.support import bpf_machine
from tests.support.packets import (
    DESTINATION,
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_ARP,
    ETH_P_IP,
    FRAGMENT,
    HOP_BY_HOP,
    ROUTING,
    TCP,
    V4,
    V6,
    Packet,
    extension,
)
from tests.support.rules import GROUPS, GROUPS_V6, HOSTS_V4, HOSTS_V6, PORTS

SO_ATTACH_FILTER = 26
FITS = 3072  # hashes that a program has room for, as `steering_program` says
SIZES = [1, 2, 23, 24, 25, 47, 48, 49, 500, 3000, FITS, FITS + 1, 4000]

PACKETS = st.builds(
    lambda group, source_v4, source_v6, port, options, payload, ttl: Packet(
        source_v4 if group.version == 4 else source_v6,
        group,
        port,
        payload,
        ttl,
        options=options if group.version == 4 else b"",
    ),
    st.one_of(GROUPS, HOSTS_V4, HOSTS_V6),
    HOSTS_V4,
    HOSTS_V6,
    PORTS,
    st.integers(0, 10).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words)),
    st.binary(max_size=64),
    st.integers(0, 255),
)


EXTENSIONS = st.lists(
    st.builds(extension, st.sampled_from([HOP_BY_HOP, ROUTING, DESTINATION]), st.binary(max_size=600)),
    min_size=1,
    max_size=MAX_EXTENSIONS,
).map(tuple)
V6_PACKETS = st.builds(
    lambda group, port, extensions: replace(V6, group=group, port=port, extensions=extensions),
    GROUPS_V6,
    PORTS,
    EXTENSIONS,
)

WORKERS = 7


def hashing(destinations: Iterable[Destination], workers: int = WORKERS) -> Program:
    return steering_program(destinations, Steering.HASH, workers)


def run(program: Program, packet: Packet, cpu: int = 0) -> int:
    return bpf_machine.run(program, packet.ethertype, bytes(packet), cpu=cpu)


def passes(program: Program, packet: Packet) -> bool:
    return run(program, packet) > 0


def destination(packet: Packet) -> int:
    return rule_hash(packet.group, packet.port)


def random_destinations(count: int, seed: int = 1) -> list[Packet]:
    """Give packets to *count* destinations of both families, no two of which have the same hash."""
    generator = random.Random(seed)
    found: dict[int, Packet] = {}
    while len(found) < count:
        port = generator.randint(1, 65535)
        v4 = replace(V4, group=IPv4Address(generator.randrange(0xE0000100, 0xF0000000)), port=port)
        v6 = replace(V6, group=IPv6Address(0xFF35 << 112 | generator.getrandbits(32)), port=port)
        for packet in (v4, v6):
            found.setdefault(destination(packet), packet)
    return list(found.values())[:count]


# ---- steering ----


@settings(max_examples=500)
@given(PACKETS, st.integers(1, 255))
def test_the_hash_of_the_destination_names_the_worker(packet: Packet, workers: int) -> None:
    program = hashing([destination(packet)], workers)

    assert run(program, packet) == 1 + destination(packet) % workers


@given(PACKETS, st.integers(1, 255).map(lambda bits: bytes([bits])))
def test_steering_does_not_depend_on_anything_else(packet: Packet, change: bytes) -> None:
    other = replace(packet, payload=packet.payload + change, ttl=packet.ttl ^ change[0], source=packet.group)
    program = hashing([destination(packet)])

    assert run(program, other) == run(program, packet)


@pytest.mark.parametrize("cpu", [0, 1, 6, 7, 63])
def test_the_cpu_names_the_worker(cpu: int) -> None:
    program = steering_program([destination(V4)], Steering.CPU, WORKERS)

    assert run(program, V4, cpu) == 1 + cpu % WORKERS
    assert run(program, V6, cpu) == 0


@pytest.mark.parametrize("steering", [Steering.CPU, Steering.HASH])
def test_what_too_many_destinations_leave_to_the_workers_is_spread_as_well(steering: Steering) -> None:
    program = steering_program(range(FITS + 1000), steering, WORKERS)

    expected = 3 if steering is Steering.CPU else destination(V4) % WORKERS
    assert run(program, V4, cpu=3) == 1 + expected


# ---- filter ----


def test_nothing_passes_the_empty_filter() -> None:
    assert run(nothing(), V4) == 0
    assert run(hashing([]), V4) == 0


@given(st.lists(PACKETS, min_size=1, max_size=60), st.lists(PACKETS, max_size=60))
def test_exactly_the_wanted_hashes_pass(wanted: list[Packet], others: list[Packet]) -> None:
    hashes = {destination(packet) for packet in wanted}
    program = hashing(hashes)

    bpf_machine.check(program)
    assert all(passes(program, packet) for packet in wanted)
    assert [passes(program, packet) for packet in others] == [
        destination(packet) in hashes for packet in others
    ]


@pytest.mark.parametrize("size", [size for size in SIZES if size <= FITS])
def test_exactly_the_wanted_hashes_pass_whatever_their_number(size: int) -> None:
    destinations = random_destinations(size + 1000)
    wanted, others = destinations[:size], destinations[size:]
    program = hashing(map(destination, wanted))

    assert all(passes(program, packet) for packet in wanted)
    assert not any(passes(program, packet) for packet in others)


def neighbours(hashes: Iterable[int]) -> set[int]:
    return {(value + step) & bpf_machine.MASK for value in hashes for step in (-1, 0, 1)}


@settings(deadline=None)
@given(st.sets(st.one_of(st.integers(0, 200), st.integers(0, (1 << 32) - 1)), min_size=1, max_size=300))
def test_the_search_finds_the_wanted_values_and_not_their_neighbours(hashes: set[int]) -> None:
    """The hash of a packet cannot be chosen, so the search is entered with the hash in its place."""
    whole = hashing(hashes)
    head = len(hashing([0])) - 8  # one key and what follows: its test, two ends, four steps

    for value in neighbours(hashes):
        note = [(0x00, 0, 0, value), (0x02, 0, 0, 4)]  # BPF_LD | BPF_IMM; BPF_ST
        found = bpf_machine.run([*note, *whole[head:]], ETH_P_IP, b"")
        assert found == (1 + value % WORKERS if value in hashes else 0)


@pytest.mark.parametrize("size", [FITS + 100, 4000, 8192])
def test_more_hashes_than_fit_let_all_udp_pass(size: int) -> None:
    program = hashing(range(size))

    bpf_machine.check(program)
    assert passes(program, V4)
    assert passes(program, V6)
    assert not passes(program, replace(V4, protocol=TCP))
    assert not passes(program, replace(V6, protocol=TCP))


@pytest.mark.parametrize("size", SIZES)
def test_jumps_and_lengths_are_within_what_the_kernel_takes(size: int) -> None:
    program = hashing(map(destination, random_destinations(size)))

    bpf_machine.check(program)
    assert len(program) <= MAX_INSTRUCTIONS == bpf_machine.MOST_INSTRUCTIONS


@pytest.mark.parametrize("packet", [V4, V6])
def test_other_protocols_to_a_wanted_destination_are_dropped(packet: Packet) -> None:
    program = hashing([destination(packet)])

    assert passes(program, packet)
    assert run(program, replace(packet, protocol=TCP)) == 0
    assert bpf_machine.run(program, ETH_P_ARP, bytes(packet)) == 0


@given(V6_PACKETS, V6_PACKETS, st.booleans())
def test_extension_headers_do_not_hide_the_destination(
    wanted: Packet,
    other: Packet,
    in_range: bool,  # noqa: FBT001 - made by hypothesis
) -> None:
    of = Range(wanted.group, 128, wanted.port, wanted.port) if in_range else destination(wanted)
    program = hashing([of])

    assert run(program, wanted) == 1 + destination(wanted) % WORKERS
    assert passes(program, other) == (destination(wanted) == destination(other))
    assert run(program, replace(wanted, protocol=TCP)) == 0


def test_more_extension_headers_than_there_may_be_are_dropped() -> None:
    most = (extension(DESTINATION, b""),) * MAX_EXTENSIONS
    program = hashing([destination(V6)])

    assert passes(program, replace(V6, extensions=most))
    assert not passes(program, replace(V6, extensions=(*most, most[0])))


@given(V6_PACKETS)
def test_a_fragment_behind_extension_headers_counts_as_port_0(packet: Packet) -> None:
    fragment = replace(packet, protocol=FRAGMENT)

    assert passes(hashing([rule_hash(packet.group, 0)]), fragment)
    assert not passes(hashing([destination(packet)]), fragment)


def tagged(packet: Packet, tag: int = 7) -> bytes:
    """Give what is behind the first of two VLAN tags."""
    return struct.pack("!HH", tag, packet.ethertype) + bytes(packet)


@given(PACKETS | V6_PACKETS, PACKETS, st.booleans(), st.sampled_from([ETH_P_8021Q, ETH_P_8021AD]))
def test_of_frames_with_two_tags_those_for_a_rule_pass_to_be_counted(
    wanted: Packet,
    other: Packet,
    in_range: bool,  # noqa: FBT001 - made by hypothesis
    outer: int,
) -> None:
    length = wanted.group.max_prefixlen
    of = Range(wanted.group, length, wanted.port, wanted.port) if in_range else destination(wanted)
    program = hashing([of])

    assert bpf_machine.run(program, outer, tagged(wanted)) == 1 + destination(wanted) % WORKERS
    assert (bpf_machine.run(program, outer, tagged(other)) > 0) == passes(program, other)
    assert bpf_machine.run(program, outer, tagged(replace(wanted, protocol=TCP))) == 0


def test_a_third_tag_is_dropped() -> None:
    program = hashing([destination(V4)])

    assert bpf_machine.run(program, ETH_P_8021Q, struct.pack("!HH", 7, ETH_P_8021Q) + tagged(V4)) == 0


@given(PACKETS, st.data())
def test_a_packet_that_ends_before_its_ports_is_dropped(packet: Packet, data: st.DataObject) -> None:
    whole = bytes(packet)
    ports_end = len(whole) - len(packet.payload) - 4
    cut = data.draw(st.integers(0, ports_end - 1))

    assert bpf_machine.run(hashing([destination(packet)]), packet.ethertype, whole[:cut]) == 0


# ---- the kernel ----


def attach(target: socket.socket, program: Program) -> None:
    instructions = ctypes.create_string_buffer(packed(program))
    request = struct.pack("HP", len(program), ctypes.addressof(instructions))
    target.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, request)


@pytest.mark.parametrize("size", SIZES)
def test_the_kernel_accepts_every_filter(size: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
        attach(target, hashing(map(destination, random_destinations(size))))


def test_the_kernel_accepts_steering_and_nothing() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
        attach(target, steering_program([1], Steering.CPU, WORKERS))
        attach(target, unmatched_program())
        attach(target, nothing())


def test_the_kernel_refuses_what_is_no_program() -> None:
    """Or else the tests above would prove nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target, pytest.raises(OSError, match="Invalid"):
        attach(target, hashing([1])[:-1])
