"""Frames that are not one datagram in one frame of ordinary length."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, ignored, rule_stats
from tests.support.frames import TCP, Packet
from tests.support.lab import Line
from tests.support.laws import assert_all_arrived, assert_conservation
from tests.support.packets import DESTINATION, HOP_BY_HOP, ROUTING, extension
from tests.support.traffic import Inlet, Outlet, Tap, receiving, send

CONFIG = {"rules": [{"name": "one", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000"]}]}
LAST = b"the last one"


def test_datagrams_in_fragments_are_relayed_whole_and_in_order(line: Line, tmp_path: Path) -> None:
    dice = random.Random(10)
    lengths = [
        1472,
        1473,
        3000,
        20_000,
        65_507,
        *(dice.choice((0, 1, 1472, 3000, 20_000)) for _ in range(200)),
    ]
    payloads = [dice.randbytes(length) for length in lengths]
    with (
        Daemon(line.relay, tmp_path, CONFIG) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Outlet(line.source, "239.1.1.1%a0:5001") as outlet,
    ):
        outlet.send(*payloads, LAST)
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert [len(datagram.payload) for datagram in came] == lengths
    assert [datagram.payload for datagram in came] == payloads
    assert rule_stats(stats, "one")["bytes"] == sum(lengths) + len(LAST)
    assert ignored(stats, "r0") == {}
    assert_conservation(stats)


@pytest.mark.parametrize("size", [3000, 20_000])
def test_a_stream_of_fragmented_datagrams_passes_without_loss(line: Line, tmp_path: Path, size: int) -> None:
    with (
        Daemon(line.relay, tmp_path, CONFIG) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=500, linger=0.1) as receiver,
    ):
        sent = send(line.source, "239.1.1.1%a0:5001", rate="2k", size=size, count=500)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)


def test_fragments_over_ipv6_are_not_put_together_but_counted(line: Line, tmp_path: Path) -> None:
    rule = {"name": "one", "from": "[ff3e::8000:101%r0]:5001", "to": ["239.2.2.2%r1:6000"]}
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Outlet(line.source, "[ff3e::8000:101%a0]:5001") as outlet,
    ):
        outlet.send(bytes(3000), LAST)
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert came == []
    assert ignored(stats, "r0").get("fragment", 0) > 0
    assert_conservation(stats)


def test_longer_frames_pass_once_the_mtu_has_been_raised(line: Line, tmp_path: Path) -> None:
    """The ring was laid out for the MTU of before."""
    with (
        Daemon(line.relay, tmp_path, CONFIG) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=2000, linger=0.1) as receiver,
    ):
        for host, device in ((line.relay, "r0"), (line.relay, "r1"), (line.sink, "b0"), (line.source, "a0")):
            host.ip(f"link set {device} mtu 9000")
        sent = send(line.source, "239.1.1.1%a0:5001", rate="10k", size=8900, count=2000)
        got = receiver.report()
        stats = daemon.stats()

    assert sent["engine"] == "ethernet"
    assert_all_arrived(sent, got, stats)


@pytest.mark.parametrize("group", ["239.1.1.1%{}:5001", "[ff3e::8000:101%{}]:5001"], ids=["v4", "v6"])
def test_a_datagram_without_payload_is_relayed(line: Line, tmp_path: Path, group: str) -> None:
    rule = {"name": "one", "from": group.format("r0"), "to": ["239.2.2.2%r1:6000"]}
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Outlet(line.source, group.format("a0")) as outlet,
    ):
        outlet.send(b"before", b"", b"", b"after", LAST)
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert [datagram.payload for datagram in came] == [b"before", b"", b"", b"after"]
    assert rule_stats(stats, "one")["matched"] == 5
    assert_conservation(stats)


def test_a_tagged_frame_belongs_to_its_vlan_and_not_to_the_rule(line: Line, tmp_path: Path) -> None:
    good = Packet("10.1.0.1", "239.1.1.1", 5001, LAST)
    with (
        Daemon(line.relay, tmp_path, CONFIG) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Tap(line.source, "a0") as tap,
    ):
        tagged = [replace(good, payload=b"tagged", vlan=vlan).frame() for vlan in (1, 5, 4094)]
        tap.send(*tagged, good.frame())
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert came == []
    assert ignored(stats, "r0") == {"vlan": 3}
    assert_conservation(stats)


@pytest.mark.parametrize("place", ["239.1.1.1%r0:5001", "239.1.1.0/24%r0:5000-5010"], ids=["one", "range"])
def test_of_frames_with_two_tags_those_for_a_rule_are_counted(line: Line, tmp_path: Path, place: str) -> None:
    """VLAN 0 in front carries a priority, and hides no VLAN behind it."""
    config = {"rules": [{"name": "one", "from": place, "to": ["239.2.2.2%r1:6000"]}]}
    good = Packet("10.1.0.1", "239.1.1.1", 5001, LAST)
    with (
        Daemon(line.relay, tmp_path, config) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Tap(line.source, "a0") as tap,
    ):
        tags = [(1, 2), (4094, 0), (0, 5)]
        tagged = [replace(good, payload=b"tagged", vlan=outer, inner_vlan=inner) for outer, inner in tags]
        others = [replace(packet, port=6001) for packet in tagged]
        tap.send(*(packet.frame() for packet in (*tagged, *others, good)))
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert came == []
    assert ignored(stats, "r0") == {"vlan": 3}
    assert_conservation(stats)


@pytest.mark.parametrize("steering", ["cpu", "hash"])
@pytest.mark.parametrize(
    "place", ["[ff3e::8000:101%r0]:5001", "[ff3e::8000:100/120%r0]:5000-5010"], ids=["one", "range"]
)
def test_extension_headers_of_ipv6_do_not_hide_the_datagram(
    line: Line, tmp_path: Path, place: str, steering: str
) -> None:
    rule = {"name": "one", "from": place, "to": ["239.2.2.2%r1:6000"]}
    good = Packet("fd00:1::1", "ff3e::8000:101", 5001, LAST)
    options, padding = extension(HOP_BY_HOP, b"\x05\2\0\0"), extension(DESTINATION, bytes(600))
    routed = extension(ROUTING, b"\4\0\0\0\0\0")
    with (
        Daemon(line.relay, tmp_path, {"steering": steering, "workers": 2, "rules": [rule]}) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Tap(line.source, "a0") as tap,
    ):
        chains = [(options,), (padding,), (routed,), (options, padding, routed, padding)]
        longer = [replace(good, payload=b"%d" % len(chain), extensions=chain) for chain in chains]
        others = [replace(packet, payload=b"other", port=6001) for packet in longer]
        tap.send(*(packet.frame() for packet in (*others, *longer, good)))
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert [datagram.payload for datagram in came] == [b"1", b"1", b"1", b"4"]
    assert ignored(stats, "r0") == {}
    assert rule_stats(stats, "one")["matched"] == 5
    assert_conservation(stats)


def test_extension_headers_that_must_not_be_skipped_are_counted(line: Line, tmp_path: Path) -> None:
    rule = {"name": "one", "from": "[ff3e::8000:101%r0]:5001", "to": ["239.2.2.2%r1:6000"]}
    good = Packet("fd00:1::1", "ff3e::8000:101", 5001, LAST)
    refused = [
        extension(ROUTING, b"\4\1\0\0\0\0"),
        extension(DESTINATION, b"\x41\0"),
        extension(HOP_BY_HOP, b"\xc2\4" + bytes(4)),
    ]
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Tap(line.source, "a0") as tap,
    ):
        longer = [replace(good, payload=b"refused", extensions=(one,)) for one in refused]
        others = [replace(packet, port=6001) for packet in longer]
        tap.send(*(packet.frame() for packet in (*longer, *others, good)))
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert came == []
    assert ignored(stats, "r0") == {"extension": 3}
    assert_conservation(stats)


def test_a_tag_that_only_carries_a_priority_is_no_vlan(line: Line, tmp_path: Path) -> None:
    good = Packet("10.1.0.1", "239.1.1.1", 5001, LAST)
    with (
        Daemon(line.relay, tmp_path, CONFIG) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Tap(line.source, "a0") as tap,
    ):
        tap.send(replace(good, payload=b"urgent", vlan=5 << 13).frame(), good.frame())
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert [datagram.payload for datagram in came] == [b"urgent"]
    assert_conservation(stats)


def test_options_of_the_ipv4_header_do_not_hide_the_datagram(line: Line, tmp_path: Path) -> None:
    good = Packet("10.1.0.1", "239.1.1.1", 5001, LAST)
    with (
        Daemon(line.relay, tmp_path, CONFIG) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Tap(line.source, "a0") as tap,
    ):
        longer = [replace(good, payload=b"%d" % words, options=b"\x01" * 4 * words) for words in (1, 5, 10)]
        tap.send(*(packet.frame() for packet in (*longer, good)))
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert [datagram.payload for datagram in came] == [b"1", b"5", b"10"]
    assert_conservation(stats)


def test_nothing_that_is_not_udp_or_for_another_port_or_group_is_relayed(line: Line, tmp_path: Path) -> None:
    good = Packet("10.1.0.1", "239.1.1.1", 5001, LAST)
    with (
        Daemon(line.relay, tmp_path, CONFIG) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Tap(line.source, "a0") as tap,
    ):
        others = [
            replace(good, protocol=TCP),
            replace(good, port=5002),
            replace(good, destination="239.1.1.2"),
            replace(good, source="fd00:1::1", destination="ff3e::8000:101"),
        ]
        tap.send(*(replace(packet, payload=b"other").frame() for packet in others), good.frame())
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert came == []
    assert rule_stats(stats, "one")["matched"] == 1
    assert_conservation(stats)


@pytest.mark.parametrize("size", [100, 1472])
def test_super_frames_are_split_into_their_datagrams(line: Line, tmp_path: Path, size: int) -> None:
    common = {"flows": 3, "count": 6_003}
    rules = [
        {"name": f"n{flow}", "from": f"239.1.1.{flow}%r0:5001", "to": [f"239.2.2.{flow}%r1:6000"]}
        for flow in (1, 2, 3)
    ]
    with (
        Daemon(line.relay, tmp_path, {"rules": rules}) as daemon,
        receiving(line.sink, "239.2.2.1%b0:6000", **common, linger=0.1) as receiver,
    ):
        sent = send(line.source, "239.1.1.1%a0:5001", **common, rate="20k", size=size, segment=8)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
    assert [rule["matched"] for rule in stats["rules"]] == [2001] * 3
    assert got["bytes"] == 6003 * size
