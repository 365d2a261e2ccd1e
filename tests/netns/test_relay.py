"""Datagrams of one network come out in another: every kind of input with every kind of output."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from mcr.model.endpoint import consecutive, parse_endpoint
from tests.support.daemon import Daemon, rule_stats
from tests.support.lab import Lab, Line
from tests.support.laws import assert_all_arrived, assert_conservation
from tests.support.traffic import Inlet, Outlet, receiving, send

COUNT = 5_000

TRANSLATIONS = {
    "v4 to v4": ("239.1.1.1%{}:5001", "239.2.2.2%{}:6000"),
    "v6 to v6": ("[ff3e::8000:101%{}]:5001", "[ff3e::8000:202%{}]:6000"),
    "v4 to v6": ("239.1.1.1%{}:5001", "[ff3e::8000:202%{}]:6000"),
    "v6 to v4": ("[ff3e::8000:101%{}]:5001", "239.2.2.2%{}:6000"),
    "v4 to a host": ("239.1.1.1%{}:5001", "10.2.0.2%{}:6000"),
    "v6 to a host": ("[ff3e::8000:101%{}]:5001", "[fd00:2::2%{}]:6000"),
}


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        ("v4 to v4", "ethernet"),
        ("v4 to v4", "udp"),  # leaves the checksum unfinished, as a container does
        ("v6 to v6", "ethernet"),
        ("v6 to v6", "udp"),
        ("v4 to v6", "udp"),
        ("v6 to v4", "ethernet"),
        ("v4 to a host", "ethernet"),
        ("v6 to a host", "udp"),
    ],
)
def test_every_datagram_comes_out_once_and_whole(line: Line, tmp_path: Path, kind: str, engine: str) -> None:
    source, destination = TRANSLATIONS[kind]
    rule = {"name": "one", "from": source.format("r0"), "to": [destination.format("r1")]}
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        receiving(line.sink, destination.format("b0"), count=COUNT, linger=0.1) as receiver,
    ):
        sent = send(
            line.source, source.format("a0"), rate="20k", size=1000, count=COUNT, ttl=8, engine=engine
        )
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
    assert rule_stats(stats, "one")["matched"] == COUNT
    assert rule_stats(stats, "one")["bytes"] == COUNT * 1000
    assert rule_stats(stats, "one")["outputs"][0]["sent"] == COUNT


@pytest.mark.parametrize("to", ["10.2.0.2:6000", "[fd00:2::2]:6000"])
def test_an_output_without_interface_goes_where_the_routing_table_says(
    line: Line, tmp_path: Path, to: str
) -> None:
    rule = {"name": "one", "from": "239.1.1.1%r0:5001", "to": [to]}
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        receiving(line.sink, to, count=COUNT, linger=0.1) as receiver,
    ):
        sent = send(line.source, "239.1.1.1%a0:5001", rate="20k", size=1000, count=COUNT)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)


@pytest.mark.parametrize(
    ("source", "target"), [("10.1.0.2%r0:5001", "10.1.0.2:5001"), ("[fd00:1::2%r0]:5001", "[fd00:1::2]:5001")]
)
def test_datagrams_to_the_relay_host_itself_are_relayed_and_not_answered_with_port_unreachable(
    line: Line, tmp_path: Path, source: str, target: str
) -> None:
    rule = {"name": "one", "from": source, "to": ["239.2.2.2%r1:6000"]}
    payloads = [b"datagram %d" % number for number in range(50)]
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Inlet(line.sink, "239.2.2.2%b0:6000") as inlet,
        Outlet(line.source, target) as outlet,
    ):
        for payload in payloads:
            outlet.send(payload)  # a connected socket reports an ICMP error by its next call
            assert inlet.take().payload == payload
        stats = daemon.stats()

    assert_conservation(stats)
    assert rule_stats(stats, "one")["outputs"][0]["sent"] == len(payloads)


def test_the_port_of_a_removed_unicast_rule_answers_as_before(line: Line, tmp_path: Path) -> None:
    rule = {"name": "one", "from": "10.1.0.2%r0:5001", "to": ["239.2.2.2%r1:6000"]}
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Outlet(line.source, "10.1.0.2:5001") as outlet,
    ):
        daemon.ctl("rule", "del", "one")
        outlet.send(b"nobody wants this")

        with pytest.raises(ConnectionRefusedError):
            outlet.socket.recv(1)


def test_one_group_is_copied_to_eight_outputs_on_three_interfaces(lab: Lab, tmp_path: Path) -> None:
    line = lab.line(sinks=3)
    # Each is one receiver: its sink, the first of consecutive addresses, and how many of them.
    places = [
        (0, "239.2.0.1%{}:6000", 3),
        (1, "[ff3e::8000:201%{}]:6000", 3),
        (2, "239.2.0.1%{}:6001", 1),
        (2, "10.4.0.2%{}:6000", 1),
    ]
    outputs = [
        str(endpoint)
        for number, place, flows in places
        for endpoint in consecutive(parse_endpoint(place.format(f"r{number + 1}")), flows)
    ]
    rule = {"name": "one", "from": "239.1.1.1%r0:5001", "to": outputs}
    with Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon, ExitStack() as stack:
        receivers = [
            stack.enter_context(
                receiving(
                    line.sinks[number],
                    place.format(f"b{number}"),
                    count=flows * COUNT,
                    flows=flows,
                    linger=0.1,
                )
            )
            for number, place, flows in places
        ]
        sent = send(line.source, "239.1.1.1%a0:5001", rate="10k", size=1000, count=COUNT)
        reports = [receiver.report() for receiver in receivers]
        stats = daemon.stats()

    assert len(outputs) == 8
    assert [output["sent"] for output in rule_stats(stats, "one")["outputs"]] == [COUNT] * 8
    for got, (_, _, flows) in zip(reports, places, strict=True):
        assert_all_arrived(sent, got, stats, copies=flows)


def test_the_same_group_on_two_interfaces_is_two_inputs(lab: Lab, tmp_path: Path) -> None:
    line = lab.line()
    other = lab.host("source1")
    lab.cable(other, "a1", line.relay, "s1")
    rules = [
        {"name": "one", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000"]},
        {"name": "other", "from": "239.1.1.1%s1:5001", "to": ["239.2.2.3%r1:6000"]},
    ]
    with (
        Daemon(line.relay, tmp_path, {"rules": rules}) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=700, linger=0.1) as receiver,
        receiving(line.sink, "239.2.2.3%b0:6000", count=300, linger=0.1) as other_receiver,
    ):
        sent = send(line.source, "239.1.1.1%a0:5001", rate="10k", size=100, count=700)
        other_sent = send(other, "239.1.1.1%a1:5001", rate="10k", size=100, count=300)
        got, other_got = receiver.report(), other_receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
    assert_all_arrived(other_sent, other_got, stats)
