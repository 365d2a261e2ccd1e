"""Interfaces that are no plain Ethernet of 1,500 bytes: jumbo frames, VLANs, tun devices; what is refused."""

import fcntl
import os
import select
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, ignored, rule_stats
from tests.support.frames import ETHERTYPE_VLAN, Packet
from tests.support.lab import Host, Line
from tests.support.laws import assert_all_arrived, assert_conservation
from tests.support.listener import Listener, payloads_of
from tests.support.traffic import Outlet, Tap, receiving, send
from tests.support.wait import DEADLINE_S, wait_for

LAST = b"the last one"
JUMBO = 9216
# linux/if_tun.h, linux/virtio_net.h
TUNSETIFF, IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x0001, 0x0002, 0x1000, 0x4000
NEEDS_CSUM, GSO_UDP = 1, 3
IP_HEADER_BYTES, UDP_HEADER_BYTES = 20, 8


@pytest.mark.parametrize("source", ["interface", "keep"])
def test_jumbo_frames_pass_whole(line: Line, tmp_path: Path, source: str) -> None:
    for host, device in ((line.relay, "r0"), (line.relay, "r1"), (line.sink, "b0"), (line.source, "a0")):
        host.ip(f"link set {device} mtu {JUMBO}")
    for device in ("all", "b0"):
        line.sink.set(f"ipv4/conf/{device}/rp_filter", "0")
    output = {"interface": "r1", "address": "239.2.2.2", "port": 6000, "source": source}
    rule = {"name": "one", "from": "239.1.1.1%r0:5001", "to": output}
    size = JUMBO - IP_HEADER_BYTES - UDP_HEADER_BYTES
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=5000, linger=0.1) as receiver,
    ):
        sent = send(line.source, "239.1.1.1%a0:5001", rate="20k", size=size, count=5000)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
    assert rule_stats(stats, "one")["bytes"] == 5000 * size


# ---- VLANs ----


def tagged(packet: Packet, *vlans: int) -> bytes:
    """Give a frame with tags, the outermost first."""
    plain = packet.frame()
    tags = b"".join(struct.pack("!HH", ETHERTYPE_VLAN, vlan) for vlan in vlans)
    return plain[:12] + tags + plain[12:]


def test_tagged_frames_match_no_rule_of_the_interface_below(line: Line, tmp_path: Path) -> None:
    rules = [
        {"name": "single", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000"]},
        {"name": "range", "from": "239.1.2.0/24%r0:5001-5002", "to": ["239.2.2.2%r1:6001"]},
    ]
    packet = Packet("10.1.0.1", "239.1.1.1", 5001, b"of another network")
    with (
        Daemon(line.relay, tmp_path, {"rules": rules}) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000") as listener,
        Tap(line.source, "a0") as tap,
    ):
        tap.send(
            tagged(packet, 6),
            tagged(replace(packet, destination="239.1.2.9"), 6),
            tagged(packet, 5, 7),
            tagged(replace(packet, payload=b"of priority only"), 0),
            tagged(replace(packet, payload=LAST)),
        )
        came = listener.take_until(LAST)
        stats = daemon.stats()

    assert payloads_of(came) == [b"of priority only", LAST]
    assert ignored(stats, "r0") == {"vlan": 3}
    assert_conservation(stats)


def test_a_tagged_frame_belongs_to_its_own_vlan_only(line: Line, tmp_path: Path) -> None:
    for below, vlan in (("r0", "5"), ("r0.5", "7")):
        name = f"{below}.{vlan}"
        made = line.relay.run(
            *("ip", "link", "add", "link", below, "name", name, "type", "vlan", "id", vlan), status=None
        )
        if "Unknown device type" in made.stderr:
            pytest.skip("this kernel has no VLAN devices")
        assert made.returncode == 0, made.stderr
        line.relay.ip(f"link set {name} up")
    devices = {"r0": 6000, "r0.5": 6005, "r0.5.7": 6007}
    rules = [
        {"name": device, "from": f"239.1.1.1%{device}:5001", "to": [f"239.2.2.2%r1:{port}"]}
        for device, port in devices.items()
    ]
    packet = Packet("10.1.0.1", "239.1.1.1", 5001)
    with (
        Daemon(line.relay, tmp_path, {"rules": rules}) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000") as plain,
        Listener(line.sink, "239.2.2.2%b0:6005") as single,
        Listener(line.sink, "239.2.2.2%b0:6007") as double,
        Tap(line.source, "a0") as tap,
    ):
        tap.send(
            tagged(replace(packet, payload=b"of no VLAN here"), 6),
            tagged(replace(packet, payload=b"single"), 5),
            tagged(replace(packet, payload=b"double"), 5, 7),
            tagged(replace(packet, payload=b"plain")),
        )
        came = [payloads_of([one.take()]) for one in (plain, single, double)]
        stats = daemon.stats()

    assert came == [[b"plain"], [b"single"], [b"double"]]
    assert {rule["name"]: rule["matched"] for rule in stats["rules"]} == dict.fromkeys(devices, 1)
    assert ignored(stats, "r0") == {"vlan": 3}
    assert ignored(stats, "r0.5") == {"vlan": 1}
    assert ignored(stats, "r0.5.7") == {}
    assert_conservation(stats)


# ---- layer-3 devices ----


@contextmanager
def tun(host: Host, name: str, flags: int = IFF_TUN) -> Iterator[int]:
    """Make a tun device with an address; what is written to it arrives there, and what leaves is read."""
    with host.entered():
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags | IFF_NO_PI))
    try:
        host.ip(f"addr add 10.99.0.1/24 dev {name}", f"link set {name} up")
        yield descriptor
    finally:
        os.close(descriptor)


def read_udp(descriptor: int, port: int) -> bytes:
    """Give the next packet to a port; the host itself sends others, such as reports of its groups."""
    while True:
        ready, _, _ = select.select([descriptor], [], [], DEADLINE_S)
        assert ready, f"nothing to port {port}"
        packet = os.read(descriptor, 65536)
        is_udp = packet[0] >> 4 == 4 and packet[9] == 17
        if is_udp and struct.unpack_from("!H", packet, 4 * (packet[0] & 0x0F) + 2)[0] == port:
            return packet


def test_a_tun_device_is_an_input(line: Line, tmp_path: Path) -> None:
    rule = {"name": "one", "from": "239.1.1.1%t0:5001", "to": ["239.2.2.2%r1:6000"]}
    packet = Packet("10.99.0.2", "239.1.1.1", 5001, b"through the tunnel")
    with (
        tun(line.relay, "t0") as tunnel,
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000") as listener,
    ):
        for one in (packet, packet.wrong_checksum(), replace(packet, payload=LAST)):
            os.write(tunnel, one.frame()[14:])
        came = listener.take_until(LAST)
        stats = daemon.stats()

    assert payloads_of(came) == [b"through the tunnel", LAST]
    assert ignored(stats, "t0") == {"checksum": 1}
    assert_conservation(stats)


@pytest.mark.parametrize(
    ("source", "expected"), [("interface", b"\x0a\x63\x00\x01"), ("keep", b"\x0a\x01\x00\x01")]
)
def test_a_tun_device_is_an_output(line: Line, tmp_path: Path, source: str, expected: bytes) -> None:
    output = {"interface": "t0", "address": "239.2.2.2", "port": 6000, "source": source, "ttl": 7}
    rule = {"name": "one", "from": "239.1.1.1%r0:5001", "to": output}
    with (
        tun(line.relay, "t0") as tunnel,
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Outlet(line.source, "239.1.1.1%a0:5001", bind_to="10.1.0.1") as outlet,
    ):
        outlet.send(b"an odd one")
        packet = read_udp(tunnel, 6000)
        source_port = outlet.socket.getsockname()[1]
        stats = daemon.stats()

    sent = Packet(
        ".".join(map(str, expected)),
        "239.2.2.2",
        6000,
        b"an odd one",
        source_port=struct.unpack_from("!H", packet, IP_HEADER_BYTES)[0],
    )
    assert packet[12:20] == expected + b"\xef\x02\x02\x02"
    assert packet[8] == 7
    assert packet[IP_HEADER_BYTES:] == sent.udp()  # with its checksum
    assert (sent.source_port == source_port) is (source == "keep")
    assert_conservation(stats)


# ---- what is not relayed ----


@pytest.mark.parametrize("steering", ["cpu", "hash"])
def test_fragments_of_ipv6_are_counted(line: Line, tmp_path: Path, steering: str) -> None:
    rules = [
        {"name": "one", "from": "[ff3e::8000:101%r0]:5001", "to": ["239.2.2.2%r1:6000"]},
        {"name": "some", "from": "[ff3e::8000:200/120%r0]:5001-5002", "to": ["239.2.2.3%r1:6000"]},
    ]
    with (
        Daemon(line.relay, tmp_path, {"steering": steering, "rules": rules}) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000") as listener,
        Outlet(line.source, "[ff3e::8000:101%a0]:5001") as outlet,
        Outlet(line.source, "[ff3e::8000:277%a0]:5001") as ranged,
    ):
        ranged.send(bytes(2000))
        outlet.send(bytes(1452), bytes(1453), bytes(4000), LAST)
        came = listener.take_until(LAST)
        stats = daemon.wait_for_stats("all", lambda now: sum(ignored(now, "r0").values()) == 2 + 2 + 3)

    assert [len(one.payload) for one in came] == [1452, len(LAST)]
    assert ignored(stats, "r0") == {"fragment": 7}
    assert_conservation(stats)


def test_link_local_groups_are_relayed_on_demand_only(line: Line, tmp_path: Path) -> None:
    rule = {"name": "one", "from": "224.0.0.77%r0:5001", "to": ["239.2.2.2%r1:6000"]}
    with (
        Daemon(line.relay, tmp_path, {"rules": [{**rule, "allow_link_local": True}]}) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000") as listener,
        Outlet(line.source, "224.0.0.77%a0:5001") as outlet,
    ):
        refused = daemon.ctl(
            *("rule", "add", "--from", "224.0.0.78%r0:5001", "--to", "239.2.2.2%r1:6000"), status=2
        )
        outlet.send(LAST)
        came = listener.take_until(LAST)
        stats = daemon.stats()

    assert payloads_of(came) == [LAST]
    assert "allow_link_local" in refused.stderr
    assert_conservation(stats)


def test_a_ring_that_the_kernel_has_blocked_is_opened_anew(line: Line, tmp_path: Path) -> None:
    """UDP fragmentation offload of a guest cannot be described in a virtio header, and blocks its place."""
    whole = Packet("10.99.0.2", "239.1.1.1", 5001, LAST).frame()
    # struct virtio_net_hdr: flags, type, header length, segment length, where the checksum is to be put
    plain = struct.pack("=BBHHHH", 0, 0, 0, 0, 0, 0) + whole
    large = Packet("10.99.0.2", "239.1.1.1", 5001, bytes(3000)).frame()
    offloaded = struct.pack("=BBHHHH", NEEDS_CSUM, GSO_UDP, 42, 1000, 34, 6) + large
    config = {"ring_mib": 1, "rules": [{"from": "239.1.1.1%t0:5001", "to": ["239.2.2.2%r1:6000"]}]}
    with (
        tun(line.relay, "t0", IFF_TAP | IFF_VNET_HDR) as tap,
        Daemon(line.relay, tmp_path, config) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000") as listener,
    ):
        os.write(tap, plain)
        listener.take_until(LAST)
        os.write(tap, offloaded)

        def is_relayed_again() -> bool:
            os.write(tap, plain)
            return listener.has_one()

        wait_for("the ring to be opened anew", is_relayed_again)
        assert 'event="ring stuck" interface=t0' in daemon.log()
        stats = daemon.stats()

    assert_conservation(stats)
    assert stats["interfaces"][0]["matched"] == stats["rules"][0]["matched"]
    assert stats["interfaces"][0]["kernel_dropped"] > 0
