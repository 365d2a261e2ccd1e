"""What leaves past the host's IP stack looks as if that had sent it; what cannot leave so, it sends."""

import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import pytest

from mcr.wire.documents import StatsDocument
from tests.support.daemon import Daemon
from tests.support.lab import Host, Line
from tests.support.laws import assert_all_arrived, assert_conservation
from tests.support.listener import Listener, send_with_dscp
from tests.support.traffic import BUFFER_BYTES, SO_RCVBUFFORCE, Inlet, Outlet, receiving, send
from tests.support.wait import DEADLINE_S, wait_for

COUNT = 2000
FEW = 100  # IGMP and neighbours
LAST = b"the last one"
LONGEST_FRAME = 1600
GROUP, PAUSE_S = 4, 0.001  # a batch of its own for each group
# Source: asm-generic/socket.h (since Linux 6.14), linux/if_ether.h
SO_RCVPRIORITY, ETH_P_ALL = 82, 0x0003
ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES = 14, 20, 40
IPV6_FRAGMENT = 44
V4 = ("239.1.1.1%{}:5001", "239.2.2.2%{}:6000")
V6 = ("[ff3e::8000:101%{}]:5001", "[ff3e::8000:202%{}]:6000")
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
Family = tuple[str, str]


@dataclass(frozen=True, order=True)
class Departure:
    """A frame that leaves, without what differs from packet to packet, and the priority that it has."""

    priority: int
    frame: bytes


class Watcher:
    """A packet socket that sees what leaves by an interface."""

    def __init__(self, host: Host, device: str) -> None:
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.settimeout(DEADLINE_S)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVPRIORITY, 1)
        self._socket.bind((device, ETH_P_ALL))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def take_until(self, last: bytes, flows: int) -> list[Departure]:
        """Wait for as many UDP frames that end with *last*; give the other UDP frames before."""
        taken: list[Departure] = []
        while flows:
            frame, ancillary, _, (_, _, kind, *_) = self._socket.recvmsg(LONGEST_FRAME, 64)
            if kind != socket.PACKET_OUTGOING or not is_udp(frame):
                continue
            if frame.endswith(last):
                flows -= 1
                continue
            (priority,) = (int.from_bytes(data, "little") for _, _, data in ancillary)
            taken.append(Departure(priority, without_numbers(frame)))
        return taken


def is_udp(frame: bytes) -> bool:
    packet = frame[ETHERNET_BYTES:]
    return packet[9] == socket.IPPROTO_UDP if packet[0] >> 4 == 4 else packet[6] in {17, IPV6_FRAGMENT}


def without_numbers(frame: bytes) -> bytes:
    """Leave out identifications, the flow label, the source port, and checksums, which follow from them."""
    packet = bytearray(frame)
    ip = ETHERNET_BYTES
    if packet[ip] >> 4 == 4:
        packet[ip + 4 : ip + 6] = packet[ip + 10 : ip + 12] = bytes(2)
        udp, is_first = ip + IPV4_BYTES, not int.from_bytes(packet[ip + 6 : ip + 8], "big") & 0x1FFF
    else:
        packet[ip + 1 : ip + 4] = bytes([packet[ip + 1] & 0xF0, 0, 0])
        udp, is_first = ip + IPV6_BYTES, True
        if packet[ip + 6] == IPV6_FRAGMENT:
            packet[udp + 4 : udp + 8] = bytes(4)
            udp, is_first = udp + 8, not packet[udp + 2] and packet[udp + 3] & 0xF8 == 0
    if is_first:
        packet[udp : udp + 2] = packet[udp + 6 : udp + 8] = bytes(2)
    return bytes(packet)


def let_long_ones_in(line: Line) -> None:
    """Let whole datagrams arrive that must leave in fragments."""
    line.source.ip("link set a0 mtu 9000")
    line.relay.ip("link set r0 mtu 9000")


@contextmanager
def relaying(
    line: Line,
    directory: Path,
    rule: Mapping[str, object],
    path: Literal["link", "stack"],
    *,
    bypass_stack: bool | None = None,
) -> Iterator[Daemon]:
    """Run a daemon of which the rule's outputs take that path: because it is told to, or by themselves."""
    directory.mkdir()
    is_on = path == "link" if bypass_stack is None else bypass_stack
    config = {"workers": 1, "bypass_stack": is_on, "rules": [{"name": "one", **rule}]}
    with Daemon(line.relay, directory, config) as daemon:
        assert [output["path"] for output in daemon.rules()[0]["outputs"]] == [path]
        yield daemon
        assert_conservation(daemon.stats())


def departures(
    line: Line,
    tmp_path: Path,
    rule: Mapping[str, object],
    datagrams: Sequence[tuple[str, int, bytes]],
) -> tuple[list[Departure], list[Departure]]:
    """Send datagrams, each with an endpoint, a DSCP and a payload; give what leaves on either path."""
    let_long_ones_in(line)
    found = []
    paths: tuple[Literal["link", "stack"], ...] = ("link", "stack")
    for path in paths:
        with relaying(line, tmp_path / path, rule, path), Watcher(line.relay, "r1") as watcher:
            endpoints = {endpoint for endpoint, _, _ in datagrams}
            for endpoint, dscp, payload in [*datagrams, *((one, 0, LAST) for one in endpoints)]:
                with Outlet(line.source, endpoint) as outlet:
                    send_with_dscp(outlet.socket, dscp)
                    outlet.send(payload)
            found.append(watcher.take_until(LAST, len(endpoints)))
    return found[0], found[1]


@FAMILIES
def test_packets_are_those_that_the_stack_would_send(line: Line, tmp_path: Path, family: Family) -> None:
    """What is longer than the MTU, it does send."""
    given, to = family
    rule = {"from": given.format("r0"), "to": to.format("r1")}
    lengths = (0, 1, 2, 7, 100, 1451, 1452, 1453, 1472, 1473, 2953, 3000)
    datagrams = [(given.format("a0"), 0, bytes([length % 251]) * length) for length in lengths]

    by_link, by_stack = departures(line, tmp_path, rule, datagrams)

    assert len(by_stack) > len(lengths)
    assert by_link == by_stack


@FAMILIES
def test_every_dscp_has_the_priority_that_the_stack_gives_it(
    line: Line, tmp_path: Path, family: Family
) -> None:
    given, to = family
    rule = {"from": given.format("r0"), "to": to.format("r1")}
    datagrams = [(given.format("a0"), dscp, b"%d" % dscp) for dscp in range(64)]

    by_link, by_stack = departures(line, tmp_path, rule, datagrams)

    assert len(by_stack) == 64
    assert len({one.priority for one in by_stack}) == (4 if family is V4 else 1)
    assert by_link == by_stack


@pytest.mark.parametrize(
    ("given", "to", "destinations"),
    [
        ("239.1.1.0/24%r0:5000-5010", "239.9.0.0/16%r1:+1000", ("239.1.1.1%a0:5000", "239.1.1.9%a0:5010")),
        ("239.1.1.0/24%r0:5000-5010", "keep%r1", ("239.1.1.1%a0:5003", "239.1.1.255%a0:5000")),
        (
            "[ff3e::8000:0/120%r0]:5000",
            "[ff35::/64%r1]:6000",
            ("[ff3e::8000:1%a0]:5000", "[ff3e::8000:99%a0]:5000"),
        ),
    ],
)
def test_packets_of_ranges_are_those_that_the_stack_would_send(
    line: Line, tmp_path: Path, given: str, to: str, destinations: tuple[str, ...]
) -> None:
    datagrams = [(place, 0, bytes([length % 251]) * length) for place in destinations for length in (9, 1600)]

    by_link, by_stack = departures(line, tmp_path, {"from": given, "to": to}, datagrams)

    assert len(by_stack) == 3 * len(destinations)
    assert sorted(by_link) == sorted(by_stack)  # flows need not keep their order among each other


@FAMILIES
@pytest.mark.parametrize("is_range", [False, True])
def test_one_output_has_one_source_and_port_on_either_path(
    line: Line, tmp_path: Path, family: Family, *, is_range: bool
) -> None:
    """Long datagrams leave by the stack, short ones past it: for who receives them they are one flow."""
    given, to = family
    output = "keep%r1:6000" if is_range else to.format("r1")
    sink = (given.replace("5001", "6000") if is_range else to).format("b0")
    let_long_ones_in(line)
    payloads = [bytes([number]) * (3000 if number % 2 else 30) for number in range(20)]
    with (
        relaying(line, tmp_path / "one", {"from": given.format("r0"), "to": output}, "link"),
        Listener(line.sink, sink) as listener,
        Outlet(line.source, given.format("a0")) as outlet,
    ):
        outlet.send(*payloads, LAST)
        came = listener.take_until(LAST)

    assert [one.payload for one in came] == [*payloads, LAST]
    assert len({one.source_port for one in came}) == 1
    assert {one.source for one in came} == {"10.2.0.1" if family is V4 else "fd00:2::1"}


@pytest.mark.parametrize(("path", "least", "most"), [("link", 0, FEW), ("stack", COUNT // 2, COUNT + FEW)])
def test_the_stack_sends_what_is_not_bypassed(
    line: Line, tmp_path: Path, path: Literal["link", "stack"], least: int, most: int
) -> None:
    rule = {"from": V4[0].format("r0"), "to": V4[1].format("r1")}
    with (
        relaying(line, tmp_path / path, rule, path) as daemon,
        receiving(line.sink, V4[1].format("b0"), count=COUNT, linger=0.1) as receiver,
    ):
        before = sent_by_stack(line.relay)
        sent = send(line.source, V4[0].format("a0"), rate="10k", size=200, count=COUNT)
        got = receiver.report()
        assert_all_arrived(sent, got, daemon.stats())

    assert least <= sent_by_stack(line.relay) - before <= most


def sent_by_stack(host: Host) -> int:
    """Give the datagrams that UDP sockets have sent over IPv4 (Udp, OutDatagrams)."""
    names, values = (line.split() for line in host.read("snmp").splitlines() if line.startswith("Udp:"))
    return int(values[names.index("OutDatagrams")])


def test_hosts_and_loopback_are_reached_by_the_stack(line: Line, tmp_path: Path) -> None:
    outputs = ["10.2.0.2:6000", "239.2.2.2%lo:6000", "239.2.2.2%r1:6000"]
    line.relay.ip("link set lo multicast on")
    rules = [{"name": "one", "from": V4[0].format("r0"), "to": outputs}]
    with (
        Daemon(line.relay, tmp_path, {"rules": rules}) as daemon,
        Inlet(line.sink, "10.2.0.2:6000") as unicast,
        Listener(line.relay, "239.2.2.2%lo:6000") as local,
        Outlet(line.source, V4[0].format("a0")) as outlet,
    ):
        outlet.send(LAST)
        assert unicast.take().source == "10.2.0.1"
        assert len(local.take_until(LAST)) == 1
        paths = {output["to"]: output["path"] for output in daemon.rules()[0]["outputs"]}

    assert paths == dict(zip(outputs, ("stack", "stack", "link"), strict=True))


def test_an_address_that_comes_later_is_the_source_from_then_on(line: Line, tmp_path: Path) -> None:
    rule = {"from": V4[0].format("r0"), "to": V4[1].format("r1")}
    line.relay.ip("addr flush dev r1 scope global")
    with (
        relaying(line, tmp_path / "one", rule, "stack", bypass_stack=True) as daemon,
        Listener(line.sink, V4[1].format("b0")) as listener,
        Outlet(line.source, V4[0].format("a0")) as outlet,
    ):
        line.relay.ip("addr add 10.2.0.77/24 dev r1")
        # Until it is, the kernel may borrow one.
        wait_for("the address to be used", lambda: source_of_next(outlet, listener) == "10.2.0.77")
        assert daemon.rules()[0]["outputs"][0]["path"] == "link"


def test_an_address_that_goes_is_no_source_any_more(line: Line, tmp_path: Path) -> None:
    """Another host may have it by now, as with VRRP."""
    line.relay.ip("addr add 10.2.0.77/24 dev r1")
    output = {"to": V4[1].format("r1"), "source": "10.2.0.77"}
    rules = [{"name": "one", "from": V4[0].format("r0"), "to": [output, "239.2.2.3%r1:6001"]}]
    with (
        Daemon(line.relay, tmp_path, {"rules": rules}) as daemon,
        Listener(line.sink, V4[1].format("b0")) as moved,
        Listener(line.sink, "239.2.2.3%b0:6001") as stays,
        Outlet(line.source, V4[0].format("a0")) as outlet,
    ):
        outlet.send(b"before")
        assert [one.source for one in moved.take_until(b"before")] == ["10.2.0.77"]
        line.relay.ip("addr del 10.2.0.77/24 dev r1")
        wait_for("the change", lambda: daemon.rules()[0]["outputs"][0]["state"] == "failing")
        assert daemon.wait_for_rules("active")[0]["outputs"][0]["path"] == "stack"
        outlet.send(LAST)
        assert stays.take_until(LAST)[-1].source == "10.2.0.1"
        stats = daemon.wait_for_stats("the refusal", lambda stats: failed(stats) == 1)
        line.relay.ip("addr add 10.2.0.77/24 dev r1")
        source = wait_for("the address to be used again", lambda: source_of_next(outlet, moved))
    assert source == "10.2.0.77"
    assert_conservation(stats)


def source_of_next(outlet: Outlet, listener: Listener) -> str | None:
    """Send a datagram; give the source of what has arrived, if anything has."""
    outlet.send(LAST)
    is_readable, _, _ = select.select([listener.socket], [], [], PAUSE_S)
    return listener.take().source if is_readable else None


def failed(stats: StatsDocument) -> int:
    return sum(stats["rules"][0]["outputs"][0]["not_sent"].values())


def test_a_borrowed_address_is_the_one_that_the_other_interface_has_now(line: Line, tmp_path: Path) -> None:
    """The kernel borrows it for each datagram anew where the output's own interface has none."""
    rule = {"from": "239.1.1.0/24%r0:5001", "to": "239.9.0.0/16%r1:6000"}
    line.relay.ip("addr flush dev r1 scope global")
    with (
        relaying(line, tmp_path / "one", rule, "stack", bypass_stack=True),
        Listener(line.sink, "239.9.1.1%b0:6000") as listener,
        Outlet(line.source, V4[0].format("a0")) as outlet,
    ):
        for address in ("10.1.0.2", "10.1.0.99"):
            line.relay.ip("addr flush dev r0 scope global", f"addr add {address}/24 dev r0")
            outlet.send(LAST)
            assert [one.source for one in listener.take_until(LAST)] == [address]


def test_long_and_short_datagrams_keep_their_order_on_a_device_with_queues(
    line: Line, tmp_path: Path
) -> None:
    """A queue is chosen by a hash that differs between packets and what the stack sends."""
    let_long_ones_in(line)
    plug_queues(line, 4)
    rule = {"from": V4[0].format("r0"), "to": V4[1].format("r1")}
    payloads = [number.to_bytes(2, "big") * (1500 if number % GROUP == 0 else 450) for number in range(240)]
    with (
        relaying(line, tmp_path / "one", rule, "link"),
        Listener(line.sink, V4[1].format("b0")) as listener,
        Outlet(line.source, V4[0].format("a0")) as outlet,
    ):
        for begin in range(0, len(payloads), GROUP):
            outlet.send(*payloads[begin : begin + GROUP])
            time.sleep(PAUSE_S)
        outlet.send(LAST)
        came = listener.take_until(LAST)

    assert [one.payload for one in came] == [*payloads, LAST]


def plug_queues(line: Line, queues: int) -> None:
    """Replace the cable to the sink by one of several queues, each of them slow."""
    ends = [f"{name} numtxqueues {queues} numrxqueues {queues}" for name in ("r1", "b0")]
    line.relay.ip(
        "link del r1",
        f"link add {ends[0]} type veth peer name {ends[1]} netns {line.sink.namespace}",
        "addr add 10.2.0.1/24 dev r1",
        "link set r1 up",
    )
    line.sink.ip("addr add 10.2.0.2/24 dev b0", "link set b0 up")
    line.relay.run("tc", "qdisc", "add", "dev", "r1", "root", "handle", "1:", "mq")
    for number in range(1, queues + 1):
        shape = ("tbf", "rate", "5mbit", "burst", "10k", "limit", "5m")
        line.relay.run("tc", "qdisc", "replace", "dev", "r1", "parent", f"1:{number}", *shape)
