"""The programs that the kernel runs agree with the functions that the supervisor reckons with."""

import os
import random
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from mcr.model import bpf, bpf_code
from mcr.model.steering import Steering, rule_hash
from mcr.supervisor.sockets import Fanout, set_steering
from tests.support.frames import SENDER_MAC, TCP, Packet
from tests.support.lab import Host, Lab
from tests.support.packets import DESTINATION, HOP_BY_HOP, ROUTING, extension
from tests.support.traffic import ETH_P_ALL, PACKET_IGNORE_OUTGOING, SO_RCVBUFFORCE, SOL_PACKET, Tap
from tests.support.wait import DEADLINE_S

# Source: linux/if_packet.h
PACKET_FANOUT = 18
FANOUT_CBPF, FANOUT_FLAG_UNIQUEID = 6, 0x2000
QUIET_S = 0.05  # after the last frame that must come, for those that must not


@dataclass(frozen=True)
class Wire:
    """A cable: frames are written at one end, packet sockets listen at the other."""

    tap: Tap
    listener: Host


@pytest.fixture
def wire(lab: Lab) -> Iterator[Wire]:
    left, right = lab.host("left"), lab.host("right")
    lab.cable(left, "l0", right, "l1")
    with Tap(left, "l0") as tap:
        yield Wire(tap, right)


@contextmanager
def listening(host: Host, members: int = 2) -> Iterator[list[socket.socket]]:
    """Open packet sockets, a fanout group as `open_fanout` makes it; the first is the sink."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) for _ in range(members)
        ]
        group = 0
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
            one.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            one.bind(("l1", ETH_P_ALL))
            kind = FANOUT_CBPF | (0 if group else FANOUT_FLAG_UNIQUEID)
            one.setsockopt(SOL_PACKET, PACKET_FANOUT, struct.pack("=I", kind << 16 | group))
            group = one.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF
        yield sockets


def steer(
    sockets: list[socket.socket], destinations: Iterable[int], steering: Steering = Steering.HASH
) -> None:
    program = bpf.steering_program(destinations, steering, len(sockets) - 1)
    assert len(program) <= bpf_code.MAX_INSTRUCTIONS
    set_steering(Fanout(sockets[0], sockets[1:]), program)


def collect(sockets: Sequence[socket.socket], count: int) -> dict[int, list[int]]:
    """Receive *count* of our frames and what else comes; give by number the members that got each."""
    got: dict[int, list[int]] = {}
    ends_at = time.monotonic() + DEADLINE_S
    while ready := select.select(sockets, [], [], QUIET_S if len(got) >= count else DEADLINE_S)[0]:
        assert time.monotonic() < ends_at, f"got {len(got)} frames, expected {count}"
        for one in ready:
            frame = one.recv(2048)
            if frame[6:12] == SENDER_MAC:
                got.setdefault(int.from_bytes(frame[-4:], "big"), []).append(sockets.index(one))
    return got


def random_packets(count: int, dice: random.Random) -> Iterator[Packet]:
    """Give packets to random destinations, some with options or extension headers."""
    for _ in range(count):
        port = dice.randrange(1, 65536)
        if dice.random() < 0.5:
            group = str(IPv6Address((0xFF3E << 112) | dice.getrandbits(112)))
            chain = tuple(
                extension(dice.choice((HOP_BY_HOP, ROUTING, DESTINATION)), bytes(dice.choice((0, 6, 200))))
                for _ in range(dice.choice((0, 0, 1, 4)))
            )
            yield Packet("fd00:1::1", group, port, extensions=chain)
        else:
            group = str(IPv4Address(0xE0000000 | dice.getrandbits(28)))
            options = b"\x01" * (4 * dice.choice((0, 0, 1, 2, 10)))
            yield Packet("10.1.0.1", group, port, options=options)


def numbered(packets: Iterable[Packet], begin: int = 0) -> dict[int, Packet]:
    """Let each packet say its number in its payload."""
    return {
        number: replace(packet, payload=number.to_bytes(4, "big"))
        for number, packet in enumerate(packets, begin)
    }


def hash_of(packet: Packet) -> int:
    return rule_hash(ip_address(packet.destination), packet.port)


def send_all(tap: Tap, packets: Mapping[int, Packet]) -> None:
    tap.send(*(packet.frame() for packet in packets.values()))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_kernel_gives_each_frame_to_the_member_that_the_hash_names(wire: Wire, workers: int) -> None:
    packets = numbered(random_packets(600, random.Random(workers)))
    with listening(wire.listener, 1 + workers) as sockets:
        steer(sockets, map(hash_of, packets.values()))
        send_all(wire.tap, packets)
        got = collect(sockets, len(packets))

    assert got == {number: [1 + hash_of(packet) % workers] for number, packet in packets.items()}
    assert {member for (member,) in got.values()} == set(range(1, 1 + workers))


def test_the_kernel_gives_each_frame_to_the_member_of_the_cpu_that_it_arrived_on(wire: Wire) -> None:
    """On veth a frame arrives on the CPU that it was sent on."""
    packets = numbered(random_packets(100, random.Random(2)))
    allowed = os.sched_getaffinity(0)
    workers = max(allowed) + 1
    for cpu in allowed:
        with listening(wire.listener, 1 + workers) as sockets:
            steer(sockets, map(hash_of, packets.values()), Steering.CPU)
            try:
                os.sched_setaffinity(0, {cpu})
                send_all(wire.tap, packets)
            finally:
                os.sched_setaffinity(0, allowed)
            got = collect(sockets, len(packets))

        assert got == {number: [1 + cpu] for number in packets}


@pytest.mark.parametrize("size", [1, 2, 24, 25, 49, 1000, 3072])
def test_workers_get_their_destinations_and_the_sink_all_else(wire: Wire, size: int) -> None:
    dice = random.Random(size)
    wanted = numbered(random_packets(size, dice))
    others = numbered(random_packets(500, dice), begin=size)
    not_udp = numbered((replace(packet, protocol=TCP) for packet in wanted.values()), begin=10_000)
    next_port = numbered((replace(packet, port=packet.port ^ 1) for packet in wanted.values()), begin=20_000)
    rest = {**others, **not_udp, **next_port}
    with listening(wire.listener) as sockets:
        steer(sockets, map(hash_of, wanted.values()))
        send_all(wire.tap, {**rest, **wanted})
        got = collect(sockets, len(rest) + size)

    assert got == {**{number: [bpf.SINK] for number in rest}, **{number: [1] for number in wanted}}


def test_more_destinations_than_fit_give_all_udp_to_the_workers(wire: Wire) -> None:
    dice = random.Random(4)
    udp = numbered(random_packets(500, dice))
    not_udp = numbered((replace(packet, protocol=TCP) for packet in udp.values()), begin=10_000)
    with listening(wire.listener) as sockets:
        steer(sockets, range(8192))
        send_all(wire.tap, {**not_udp, **udp})
        got = collect(sockets, len(udp) + len(not_udp))

    assert got == {**{number: [bpf.SINK] for number in not_udp}, **{number: [1] for number in udp}}


def test_no_destinations_give_everything_to_the_sink(wire: Wire) -> None:
    packets = numbered(random_packets(100, random.Random(5)))
    with listening(wire.listener) as sockets:
        steer(sockets, [])
        send_all(wire.tap, packets)
        got = collect(sockets, len(packets))

    assert got == {number: [bpf.SINK] for number in packets}
