"""Rules for several groups and ports, and outputs that follow from each datagram."""

from contextlib import ExitStack
from pathlib import Path
from socket import SO_ERROR, SOL_SOCKET

import pytest

from tests.support.daemon import Daemon, ignored, rule_stats
from tests.support.lab import Line
from tests.support.laws import assert_all_arrived, assert_conservation
from tests.support.listener import Listener, payloads_of
from tests.support.traffic import Outlet, receiving, send

LAST = b"the last one"

# input, output, what is sent to, where it arrives; inputs differ, so that one daemon can have them all
MAPPINGS = [
    ("239.1.1.0/24%{}:5000-5010", "keep%{}", "239.1.1.7%{}:5003", "239.1.1.7%{}:5003"),
    ("239.1.2.0/24%{}:5000-5010", "keep%{}:+1000", "239.1.2.255%{}:5010", "239.1.2.255%{}:6010"),
    ("239.1.3.0/24%{}:5000-5010", "keep%{}:-10", "239.1.3.0%{}:5000", "239.1.3.0%{}:4990"),
    ("239.1.4.0/24%{}:5000-5010", "keep%{}:7000", "239.1.4.9%{}:5004", "239.1.4.9%{}:7000"),
    ("239.1.5.0/24%{}:5000", "239.9.9.0/24%{}", "239.1.5.33%{}:5000", "239.9.9.33%{}:5000"),
    ("239.1.6.0/24%{}:5000", "239.9.9.128/25%{}:+1", "239.1.6.33%{}:5000", "239.9.9.161%{}:5001"),
    ("239.1.7.0/24%{}:5000", "239.9.0.0/16%{}", "239.1.7.33%{}:5000", "239.9.7.33%{}:5000"),
    ("239.1.8.1%{}:5000-5001", "239.2.2.2%{}:6000", "239.1.8.1%{}:5001", "239.2.2.2%{}:6000"),
    ("[ff35::100/120%{}]:5000-5010", "keep%{}:+5", "[ff35::1aa%{}]:5005", "[ff35::1aa%{}]:5010"),
    ("[ff35::200/120%{}]:5000", "[ff35:9::/64%{}]", "[ff35::2aa%{}]:5000", "[ff35:9::2aa%{}]:5000"),
]


@pytest.mark.parametrize("steering", ["cpu", "hash"])
def test_every_mapping_sends_to_the_group_and_port_that_it_says(
    line: Line, tmp_path: Path, steering: str
) -> None:
    rules = [
        {"name": f"n{number}", "from": given.format("r0"), "to": to.format("r1")}
        for number, (given, to, _, _) in enumerate(MAPPINGS)
    ]
    with Daemon(line.relay, tmp_path, {"steering": steering, "rules": rules}) as daemon:
        for _, _, source, arrival in MAPPINGS:
            with (
                Listener(line.sink, arrival.format("b0")) as listener,
                Outlet(line.source, source.format("a0")) as outlet,
            ):
                outlet.send(b"first", LAST)
                came = listener.take_until(LAST)
            assert payloads_of(came) == [b"first", LAST]
            assert f"{came[0].group}%b0" in arrival.format("b0")
        stats = daemon.stats()

    assert {rule["matched"] for rule in stats["rules"]} == {2}
    assert_conservation(stats)


@pytest.mark.parametrize("steering", ["cpu", "hash"])
@pytest.mark.parametrize("to", ["keep%r1:+1000", "239.9.0.0/24%r1:+1000"], ids=["kept", "mapped"])
def test_64_flows_of_one_range_arrive_exactly_once(
    line: Line, tmp_path: Path, steering: str, to: str
) -> None:
    rule = {"name": "one", "from": "239.1.1.0/24%r0:5000-5010", "to": [to]}
    first = "239.1.1.1%b0:6005" if to.startswith("keep") else "239.9.0.1%b0:6005"
    with (
        Daemon(line.relay, tmp_path, {"steering": steering, "rules": [rule]}) as daemon,
        receiving(line.sink, first, flows=64, count=12_800, linger=0.2) as receiver,
    ):
        sent = send(line.source, "239.1.1.1%a0:5005", flows=64, count=12_800, rate="20k", size=500)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)


def test_the_most_specific_rule_gets_the_datagram(line: Line, tmp_path: Path) -> None:
    inputs = {
        "239.1.1.0/24%r0:5000-5010": 6001,
        "239.1.1.0/28%r0:5000-5010": 6002,
        "239.1.1.0/28%r0:5005": 6003,
        "239.1.1.1%r0:5005": 6004,
        "10.1.0.66@239.1.1.1%r0:5005": 6005,
    }
    rules = [
        {"name": str(port), "from": given, "to": [f"239.2.2.2%r1:{port}"]} for given, port in inputs.items()
    ]
    line.source.ip("addr add 10.1.0.66/24 dev a0")
    sent = {
        ("239.1.1.200%a0:5000", "10.1.0.1"): 6001,
        ("239.1.1.2%a0:5000", "10.1.0.1"): 6002,
        ("239.1.1.2%a0:5005", "10.1.0.1"): 6003,
        ("239.1.1.1%a0:5005", "10.1.0.1"): 6004,
        ("239.1.1.1%a0:5005", "10.1.0.66"): 6005,
        ("239.1.1.1%a0:5004", "10.1.0.66"): 6002,
    }
    with Daemon(line.relay, tmp_path, {"rules": rules}) as daemon, ExitStack() as stack:
        listeners = {
            port: stack.enter_context(Listener(line.sink, f"239.2.2.2%b0:{port}")) for port in inputs.values()
        }
        for (to, source), port in sent.items():
            with Outlet(line.source, to, bind_to=source) as outlet:
                outlet.send(LAST)
            assert listeners[port].take().payload == LAST, (to, source)
        with Outlet(line.source, "239.1.1.1%a0:4999") as outlet:
            outlet.send(b"outside")
        stats = daemon.stats()

    matched = {int(rule["name"]): rule["matched"] for rule in stats["rules"]}
    assert matched == {6001: 1, 6002: 2, 6003: 1, 6004: 1, 6005: 1}
    assert ignored(stats, "r0") == {}
    assert_conservation(stats)


def test_a_mapped_output_keeps_the_source_of_every_datagram(line: Line, tmp_path: Path) -> None:
    for device in ("all", "b0"):
        line.sink.set(f"ipv4/conf/{device}/rp_filter", "0")
    line.source.ip("addr add 10.1.0.66/24 dev a0")
    rule = {"name": "one", "from": "239.1.1.0/24%r0:5000", "to": [{"to": "keep%r1:+1", "source": "keep"}]}
    groups = [f"239.1.1.{number}" for number in range(1, 9)]
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Listener(line.sink, *(f"{group}%b0:5001" for group in groups)) as listener,
    ):
        sent: set[tuple[bytes, str, int, str]] = set()
        for group in groups:
            for source in ("10.1.0.1", "10.1.0.66"):
                with Outlet(line.source, f"{group}%a0:5000", bind_to=source) as outlet:
                    outlet.send(b"%d" % len(sent))
                    sent.add((b"%d" % len(sent), source, outlet.socket.getsockname()[1], group))
        came = [listener.take() for _ in sent]
        stats = daemon.stats()

    assert {(one.payload, one.source, one.source_port, one.group) for one in came} == sent
    assert rule_stats(stats, "one")["matched"] == 16
    assert_conservation(stats)


@pytest.mark.parametrize(
    ("given", "to"), [("10.1.0.2%{}:{}", "239.2.2.2%{}:6000"), ("[fd00:1::2%{}]:{}", "[ff35::2%{}]:6000")]
)
def test_a_host_takes_in_every_port_of_a_range_and_no_other(
    line: Line, tmp_path: Path, given: str, to: str
) -> None:
    """The daemon holds the ports, so that the host does not answer that they are closed."""
    rule = {"name": "one", "from": given.format("r0", "5000-5010"), "to": [to.format("r1")]}
    ports = range(5000, 5011)
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Listener(line.sink, to.format("b0")) as listener,
        ExitStack() as stack,
    ):
        outlets = {
            port: stack.enter_context(Outlet(line.source, given.format("a0", port)))
            for port in (4999, *ports, 5011)
        }
        for port, outlet in outlets.items():
            outlet.send(b"%d" % port)
        came = [listener.take() for _ in ports]
        for port in (4999, 5011):
            with pytest.raises(ConnectionRefusedError):
                outlets[port].socket.recv(1)
        refused = [port for port in ports if outlets[port].socket.getsockopt(SOL_SOCKET, SO_ERROR)]
        stats = daemon.stats()

    assert sorted(payloads_of(came)) == [b"%d" % port for port in ports]
    assert refused == []
    assert rule_stats(stats, "one")["matched"] == len(ports)
    assert ignored(stats, "r0") == {}
    assert_conservation(stats)
