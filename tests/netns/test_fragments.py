"""Datagrams in fragments that come in any order, or of which one does not come."""

import random
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mcr.model.steering import rule_hash
from tests.support.daemon import Daemon, ignored, rule_stats
from tests.support.frames import Packet, fragments
from tests.support.lab import Line
from tests.support.laws import assert_conservation
from tests.support.traffic import MAX_DATAGRAM_BYTES, Inlet, Tap

CONFIG = {"rules": [{"name": "one", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000"]}]}
LAST = Packet("10.1.0.1", "239.1.1.1", 5001, b"the last one")


def numbered(count: int) -> list[list[bytes]]:
    """Give datagrams of four fragments each; the payload of number N consists of bytes N."""
    packets = [Packet("10.1.0.1", "239.1.1.1", 5001, bytes([number]) * 5000) for number in range(count)]
    return [fragments(packet, 100 + number) for number, packet in enumerate(packets)]


@pytest.mark.parametrize("withheld", [0, 1, 3], ids=["first", "middle", "last"])
def test_a_lost_fragment_loses_its_datagram_alone_and_is_counted(
    line: Line, tmp_path: Path, withheld: int
) -> None:
    line.relay.set("ipv4/ipfrag_time", "1")
    datagrams = numbered(5)
    del datagrams[2][withheld]
    with (
        Daemon(line.relay, tmp_path, CONFIG) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Tap(line.source, "a0") as tap,
    ):
        tap.send(*(frame for frames in datagrams for frame in frames), LAST.frame())
        came = inlet.take_until(LAST.payload)
        before = daemon.stats()
        # Once for the relay's sockets and once for the host, which has joined the group.
        stats = daemon.wait_for_stats(
            "the kernel to give up twice", lambda stats: stats["reassembly_failed"] >= 2
        )
        shown = daemon.ctl("stats").stdout

    assert [datagram.payload for datagram in came] == [bytes([number]) * 5000 for number in (0, 1, 3, 4)]
    assert before["reassembly_failed"] == 0
    assert stats["reassembly_failed"] == 2
    assert "2 reassemblies failed" in shown
    assert rule_stats(stats, "one")["matched"] == 5
    assert ignored(stats, "r0") == {}
    assert_conservation(stats)


def test_fragments_may_come_in_any_order(line: Line, tmp_path: Path) -> None:
    """Disorder beyond `ipfrag_max_dist`, 64 fragments of one source, makes the kernel give up."""
    datagrams = numbered(20)
    frames = []
    for first in range(0, 20, 5):
        mixed = [frame for frames in datagrams[first : first + 5] for frame in frames]
        random.Random(first).shuffle(mixed)
        frames += mixed
    with (
        Daemon(line.relay, tmp_path, CONFIG) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Tap(line.source, "a0") as tap,
    ):
        tap.send(*frames, LAST.frame())
        came = inlet.take_until(LAST.payload)
        stats = daemon.stats()

    assert {datagram.payload for datagram in came} == {bytes([number]) * 5000 for number in range(20)}
    assert len(came) == 20
    assert stats["reassembly_failed"] == 0
    assert_conservation(stats)


IPV4_WITHOUT_OPTIONS, UDP, MORE_FRAGMENTS = 0x45, 17, 0x2000
# As many as the queue of a receiver holds that has not set its length.
AT_ONCE = 20


def test_workers_that_fragment_for_one_source_and_group_do_not_mix_their_fragments(
    line: Line, tmp_path: Path
) -> None:
    """
    A range that leaves as one group, with its source kept, is sent by whichever worker a group belongs to.

    A receiver puts together what has the same source, destination and identification (RFC 791 section 3.2).
    """
    output = {"interface": "r1", "address": "239.2.2.2", "port": 6000, "source": "keep"}
    rule = {"name": "one", "from": "239.1.1.0/24%r0:5001", "to": [output]}
    first, second = groups_of_two_workers()
    packets = [
        Packet("10.1.0.1", group, 5001, number.to_bytes(2, "big") * 2500)
        for number, group in enumerate([first, second] * 1000)
    ]
    came = []
    remainders: tuple[set[int], set[int]] = (set(), set())  # of each worker's identifications
    with (
        Daemon(line.relay, tmp_path, {"workers": 2, "rules": [rule]}) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Tap(line.source, "a0") as tap,
        Tap(line.sink, "b0") as seen,
    ):
        for begin in range(0, len(packets), AT_ONCE):
            for number, packet in enumerate(packets[begin : begin + AT_ONCE], begin):
                tap.send(*fragments(packet, number))
            came += [inlet.take().payload for _ in range(AT_ONCE)]
            for number, identification in first_fragments(seen, AT_ONCE):
                remainders[number % 2].add(identification % 2)
        stats = daemon.stats()

    assert sorted(came) == sorted(packet.payload for packet in packets)
    assert sorted(map(sorted, remainders)) == [[0], [1]]
    assert_conservation(stats)


def first_fragments(seen: Tap, count: int) -> list[tuple[int, int]]:
    """Wait for that many first fragments; give the number in the payload and the identification of each."""
    found: list[tuple[int, int]] = []
    while len(found) < count:
        frame = seen.socket.recv(MAX_DATAGRAM_BYTES)
        ip, flags_and_offset = frame[14:], int.from_bytes(frame[20:22], "big")
        if ip[0] == IPV4_WITHOUT_OPTIONS and ip[9] == UDP and flags_and_offset == MORE_FRAGMENTS:
            found.append((int.from_bytes(ip[28:30], "big"), int.from_bytes(ip[4:6], "big")))
    return found


def groups_of_two_workers() -> tuple[str, str]:
    """Give a group for each of two workers."""
    groups = [IPv4Address("239.1.1.0") + number for number in range(256)]
    even, odd = (
        next(str(one) for one in groups if rule_hash(one, 5001) % 2 == worker) for worker in range(2)
    )
    return even, odd
