"""The program that keeps frames from the host's IP stack, run on a machine of our own."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr.model.bpf import Range
from mcr.model.ebpf import bypass_program
from mcr.model.steering import rule_hash
from tests.support.ebpf_machine import Machine
from tests.support.packets import ETH_P_ARP, FRAGMENT, TCP, V4, V6, Packet

NEXT_PROGRAM, OTHER_HOST, MULTICAST, UNICAST = -1, 3, 2, 0
ETHERNET = bytes(14)


def wanted(*packets: Packet) -> set[int | Range]:
    return {rule_hash(packet.group, packet.port) for packet in packets}


def machine(packet: Packet, header: bytes = ETHERNET) -> Machine:
    return Machine(header + bytes(packet), packet.ethertype)


def run(at: Machine, destinations: Iterable[int | Range], link_bytes: int = 14) -> Machine:
    assert at.run(bypass_program(destinations, link_bytes)) == NEXT_PROGRAM
    return at


@pytest.mark.parametrize("packet", [V4, V6, replace(V4, options=bytes(40))], ids=["4", "6", "options"])
@pytest.mark.parametrize("header", [b"", ETHERNET], ids=["none", "Ethernet"])
def test_what_nobody_else_wants_is_marked(packet: Packet, header: bytes) -> None:
    looked = run(machine(packet, header), wanted(packet), len(header))

    ports = len(bytes(packet)) - len(packet.payload) - 8
    addresses = packet.source.packed + packet.group.packed
    assert looked.asked == addresses + bytes(packet)[ports : ports + 4]
    assert looked.marked == OTHER_HOST


@pytest.mark.parametrize("packet", [V4, V6], ids=["4", "6"])
def test_what_has_a_socket_is_left_alone(packet: Packet) -> None:
    at = machine(packet)
    at.has_socket = True
    run(at, wanted(packet))

    assert at.asked
    assert at.marked is None
    assert at.released == 1


UNTOUCHED = {
    "another port": replace(V4, port=V4.port ^ 1),
    "TCP": replace(V4, protocol=TCP),
    "first fragment": replace(V4, fragment=0x2000),
    "later fragment": replace(V4, fragment=0x00B9),
    "unicast": replace(V4, group=IPv4Address("10.0.0.7")),
    "IPv6 unicast": replace(V6, group=ip_address("2001:db8::7")),
    "IPv6 fragment": replace(V6, protocol=FRAGMENT),
}


@pytest.mark.parametrize("packet", UNTOUCHED.values(), ids=UNTOUCHED)
def test_the_rest_is_not_even_looked_up(packet: Packet) -> None:
    destinations = wanted(*(one for name, one in UNTOUCHED.items() if name != "another port"), V4)
    looked = run(machine(packet), {*destinations, rule_hash(V6.group, 0)})

    assert looked.asked is None
    assert looked.marked is None


def test_tagged_frames_and_those_for_one_host_are_left_alone() -> None:
    for change in ({"tagged": True}, {"packet_type": UNICAST}, {"protocol": ETH_P_ARP}):
        looked = run(replace(machine(V4), **change), wanted(V4))

        assert looked.marked is None
    assert run(machine(V4), wanted(V4)).marked == OTHER_HOST


@pytest.mark.parametrize("packet", [V4, V6, replace(V4, options=bytes(40))], ids=["4", "6", "options"])
def test_a_frame_that_ends_too_early_is_left_to_the_programs_behind(packet: Packet) -> None:
    whole = machine(packet)
    for length in range(len(ETHERNET), len(whole.frame) - len(packet.payload) - 4):
        looked = run(replace(whole, frame=whole.frame[:length]), wanted(packet))

        assert looked.marked is None, length


def test_no_destinations_need_no_program() -> None:
    assert bypass_program([], 14) == b""
    assert bypass_program(range(8000), 14) == b""


@given(
    st.sets(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=80),
    st.booleans(),
    st.ip_addresses(network="239.1.0.0/28"),
    st.integers(5000, 5003),
)
def test_the_classic_and_the_extended_program_say_the_same(
    others: set[int],
    is_wanted: bool,  # noqa: FBT001 - a case
    group: IPv4Address,
    port: int,
) -> None:
    packet = replace(V4, group=group, port=port)
    area = Range(IPv4Address("239.1.0.8"), 29, 5001, 5002)
    destinations: set[int | Range] = {*others, area, *(wanted(packet) if is_wanted else ())}
    within = group in {IPv4Address("239.1.0.8") + number for number in range(8)} and 5001 <= port <= 5002

    looked = run(machine(packet), destinations)

    assert (looked.marked == OTHER_HOST) == (is_wanted or within or rule_hash(group, port) in others)
