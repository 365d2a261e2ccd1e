"""What becomes of checksums and of the time to live, judged by the datagrams that the receiver got."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, ignored, rule_stats
from tests.support.frames import Packet
from tests.support.lab import Line
from tests.support.laws import assert_conservation
from tests.support.traffic import Inlet, Outlet, Tap

V4 = ("10.1.0.1", "239.1.1.1", "239.1.1.1%{}:5001", "239.2.2.{}%{}:6000")
V6 = ("fd00:1::1", "ff3e::8000:101", "[ff3e::8000:101%{}]:5001", "[ff3e::8000:20{}%{}]:6000")
LAST = b"the last one"

# What a datagram leaves with, by policy and the time to live that it arrived with; None: it does not leave.
TTLS: dict[str | int, dict[int, int | None]] = {
    "auto": {1: 1, 2: 1, 3: 2, 255: 254},
    "keep": {1: 1, 2: 2, 3: 3, 255: 255},
    "decrement": {1: None, 2: 1, 3: 2, 255: 254},
    33: {1: 33, 2: 33, 3: 33, 255: 33},
}


@pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
def test_a_wrong_checksum_on_the_wire_is_not_healed_by_the_relay(
    line: Line, tmp_path: Path, family: tuple[str, str, str, str]
) -> None:
    source, group, input_, output = family
    rule = {"name": "one", "from": input_.format("r0"), "to": [output.format(2, "r1")]}
    good = Packet(source, group, 5001, b"a right one")
    odd = replace(good, payload=b"an odd number of bytes, also right")
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Inlet(line.sink, output.format(2, "b0")) as inlet,
        Tap(line.source, "a0") as tap,
    ):
        wrong = replace(good, payload=b"a wrong one").wrong_checksum().frame()
        flipped = bytearray(replace(good, payload=b"a flipped bit").frame())
        flipped[-1] ^= 1
        tap.send(good.frame(), wrong, odd.frame(), bytes(flipped), replace(good, payload=LAST).frame())
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert [datagram.payload for datagram in came] == [good.payload, odd.payload]
    assert ignored(stats, "r0") == {"checksum": 2}
    assert_conservation(stats)


def test_a_checksum_of_zero_passes_over_ipv4(line: Line, tmp_path: Path) -> None:
    rule = {"name": "one", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000"]}
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Tap(line.source, "a0") as tap,
    ):
        tap.send(Packet("10.1.0.1", "239.1.1.1", 5001, LAST, checksum=0).frame())
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert came == []
    assert ignored(stats, "r0") == {}
    assert_conservation(stats)


def test_a_checksum_of_zero_is_wrong_over_ipv6(line: Line, tmp_path: Path) -> None:
    rule = {"name": "one", "from": V6[2].format("r0"), "to": ["239.2.2.2%r1:6000"]}
    good = Packet("fd00:1::1", "ff3e::8000:101", 5001, LAST)
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Tap(line.source, "a0") as tap,
    ):
        tap.send(replace(good, payload=b"none", checksum=0).frame(), good.frame())
        came = inlet.take_until(LAST)
        stats = daemon.stats()

    assert came == []
    assert ignored(stats, "r0") == {"checksum": 1}
    assert_conservation(stats)


@pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
def test_the_time_to_live_follows_the_policy_of_each_output(
    line: Line, tmp_path: Path, family: tuple[str, str, str, str]
) -> None:
    _, _, input_, output = family
    groups = [output.format(number, "b0") for number in range(2, 2 + len(TTLS))]
    outputs = [
        {"interface": "r1", "address": group.lstrip("[").partition("%")[0], "port": 6000, "ttl": policy}
        for group, policy in zip(groups, TTLS, strict=True)
    ]
    rule = {"name": "one", "from": input_.format("r0"), "to": outputs}
    arrived_with = TTLS["auto"].keys()
    left_with: dict[str | int, dict[int, int | None]] = {}
    with Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon, ExitStack() as stack:
        inlets = [stack.enter_context(Inlet(line.sink, group)) for group in groups]
        for ttl in (*arrived_with, 64):
            with Outlet(line.source, input_.format("a0"), ttl=ttl) as outlet:
                outlet.send(b"%d" % ttl if ttl != 64 else LAST)
        for policy, inlet in zip(TTLS, inlets, strict=True):
            came = {int(datagram.payload): datagram.ttl for datagram in inlet.take_until(LAST)}
            left_with[policy] = {ttl: came.get(ttl) for ttl in arrived_with}
        stats = daemon.stats()

    assert left_with == TTLS
    assert_conservation(stats)
    not_sent = [output["not_sent"] for output in rule_stats(stats, "one")["outputs"]]
    assert not_sent == [{}, {}, {"ttl": 1}, {}]


@pytest.mark.parametrize(("input_", "output"), [(V4[2], V6[3]), (V6[2], V4[3])], ids=["v4 to v6", "v6 to v4"])
def test_the_time_to_live_becomes_the_hop_limit_and_back(
    line: Line, tmp_path: Path, input_: str, output: str
) -> None:
    rule = {"name": "one", "from": input_.format("r0"), "to": [output.format(2, "r1")]}
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Inlet(line.sink, output.format(2, "b0")) as inlet,
        Outlet(line.source, input_.format("a0"), ttl=9) as outlet,
    ):
        outlet.send(LAST)
        came = inlet.take()
        stats = daemon.stats()

    assert (came.payload, came.ttl) == (LAST, 8)
    assert_conservation(stats)
