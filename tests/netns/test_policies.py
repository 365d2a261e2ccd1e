"""What leaves by an output follows its policies, judged by what the receiver sees."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, ignored, rule_stats
from tests.support.lab import Line
from tests.support.laws import assert_all_arrived, assert_conservation
from tests.support.listener import Listener, payloads_of, send_with_dscp
from tests.support.traffic import Outlet, receiving, send

LAST = b"the last one"
V4 = ("239.1.1.1%{}:5001", "239.2.2.2", 6000, "10.1.0.1", "10.2.0.1")
V6 = ("[ff3e::8000:101%{}]:5001", "ff3e::8000:202", 6000, "fd00:1::1", "fd00:2::1")
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])


def place(address: str, device: str, port: int) -> str:
    return f"[{address}%{device}]:{port}" if ":" in address else f"{address}%{device}:{port}"


def config(family: Any, **policies: object) -> dict[str, object]:
    given, group, port, _, _ = family
    output = {"interface": "r1", "address": group, "port": port, **policies}
    return {"rules": [{"name": "one", "from": given.format("r0"), "to": output}]}


def trust_every_source(line: Line) -> None:
    """Let the sink take datagrams whose source it has no route to."""
    for device in ("all", "b0"):
        line.sink.set(f"ipv4/conf/{device}/rp_filter", "0")


@FAMILIES
@pytest.mark.parametrize(("policy", "expected"), [("keep", 10), (46, 46), ("af41", 34), (0, 0)])
def test_the_dscp_follows_its_policy(
    line: Line, tmp_path: Path, family: Any, policy: str | int, expected: int
) -> None:
    with (
        Daemon(line.relay, tmp_path, config(family, dscp=policy)) as daemon,
        Listener(line.sink, place(family[1], "b0", family[2])) as listener,
        Outlet(line.source, family[0].format("a0")) as outlet,
    ):
        send_with_dscp(outlet.socket, 10)
        outlet.send(b"first", b"second", LAST)
        came = listener.take_until(LAST)
        stats = daemon.stats()

    assert payloads_of(came) == [b"first", b"second", LAST]
    assert {one.dscp for one in came} == {expected}
    assert_conservation(stats)


@FAMILIES
def test_datagrams_of_different_dscp_keep_their_own_and_their_order(
    line: Line, tmp_path: Path, family: Any
) -> None:
    with (
        Daemon(line.relay, tmp_path, config(family)) as daemon,
        Listener(line.sink, place(family[1], "b0", family[2])) as listener,
        Outlet(line.source, family[0].format("a0")) as outlet,
    ):
        for number in range(64):
            send_with_dscp(outlet.socket, number)
            outlet.send(b"%d" % number)
        outlet.send(LAST)
        came = listener.take_until(LAST)
        stats = daemon.stats()

    assert [(int(one.payload), one.dscp) for one in came[:-1]] == [(n, n) for n in range(64)]
    assert_conservation(stats)


@FAMILIES
def test_the_original_source_is_kept_also_where_the_output_has_no_address(
    line: Line, tmp_path: Path, family: Any
) -> None:
    """One output per policy: what leaves by the other interface's own address has another source."""
    given, group, port, source, _ = family
    trust_every_source(line)
    line.relay.ip("addr flush dev r1 scope global")
    lengths = [0, 1, 7, 100, 1400, 1401]
    with (
        Daemon(line.relay, tmp_path, config(family, source="keep", ttl=9)) as daemon,
        Listener(line.sink, place(group, "b0", port)) as listener,
        Outlet(line.source, given.format("a0"), bind_to=source) as outlet,
    ):
        sent = [bytes([length % 251]) * length for length in lengths] + [LAST]
        outlet.send(*sent)
        came = listener.take_until(LAST)
        source_port = outlet.socket.getsockname()[1]
        stats = daemon.stats()

    assert payloads_of(came) == sent
    assert {(one.source, one.source_port, one.group, one.ttl) for one in came} == {
        (source, source_port, group, 9)
    }
    assert_conservation(stats)


@pytest.mark.alone
@FAMILIES
def test_a_stream_that_keeps_its_source_passes_whole(line: Line, tmp_path: Path, family: Any) -> None:
    """Super-packets are cut by the kernel, single ones are not; both must have right checksums."""
    given, group, port, _, _ = family
    trust_every_source(line)
    # The sink takes no frame whose checksum is unfinished: what crosses the cable is checked.
    line.relay.run("ethtool", "-K", "r1", "tx", "off", status=None)
    with (
        Daemon(line.relay, tmp_path, config(family, source="keep")) as daemon,
        receiving(line.sink, place(group, "b0", port), count=20_000, linger=0.1) as receiver,
    ):
        sent = send(line.source, given.format("a0"), rate="40k", size=1000, count=20_000)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)


@pytest.mark.parametrize("segment", [8, 32])
def test_super_frames_pass_whole_with_their_own_source(line: Line, tmp_path: Path, segment: int) -> None:
    trust_every_source(line)
    given, group, port, _, _ = V4
    with (
        Daemon(line.relay, tmp_path, config(V4, source="keep")) as daemon,
        receiving(line.sink, place(group, "b0", port), count=6400, linger=0.1) as receiver,
    ):
        sent = send(line.source, given.format("a0"), rate="20k", size=1400, count=6400, segment=segment)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)


def test_datagrams_longer_than_the_mtu_keep_their_source_and_leave_in_fragments(
    line: Line, tmp_path: Path
) -> None:
    trust_every_source(line)
    given, group, port, source, _ = V4
    lengths = [1472, 1473, 1480, 2952, 2953, 20_000, 65_507]
    with (
        Daemon(line.relay, tmp_path, config(V4, source="keep")) as daemon,
        Listener(line.sink, place(group, "b0", port)) as listener,
        Outlet(line.source, given.format("a0"), bind_to=source) as outlet,
    ):
        before = reassembled(line)
        sent = [bytes(number % 256 for number in range(length)) for length in lengths] + [LAST]
        outlet.send(*sent)
        came = listener.take_until(LAST)
        source_port = outlet.socket.getsockname()[1]
        stats = daemon.stats()

    assert [len(one.payload) for one in came] == [*lengths, len(LAST)]
    assert payloads_of(came) == sent
    assert {(one.source, one.source_port) for one in came} == {(source, source_port)}
    assert reassembled(line) - before == 6
    assert_conservation(stats)


def reassembled(line: Line) -> int:
    """Count the datagrams that the sink has put together from fragments."""
    head, values = (text.split() for text in line.sink.read("snmp").splitlines()[:2])
    return int(values[head.index("ReasmOKs")])


def test_over_ipv6_what_is_longer_than_the_mtu_and_keeps_its_source_is_counted(
    line: Line, tmp_path: Path
) -> None:
    """Only the source itself may fragment there."""
    given, group, port, source, _ = V6
    trust_every_source(line)
    for host, device in ((line.source, "a0"), (line.relay, "r0")):
        host.ip(f"link set {device} mtu 9000")
    with (
        Daemon(line.relay, tmp_path, config(V6, source="keep")) as daemon,
        Listener(line.sink, place(group, "b0", port)) as listener,
        Outlet(line.source, given.format("a0"), bind_to=source) as outlet,
    ):
        outlet.send(bytes(1452), bytes(1453), bytes(8000), LAST)
        came = listener.take_until(LAST)
        stats = daemon.stats()

    assert [len(one.payload) for one in came] == [1452, len(LAST)]
    assert rule_stats(stats, "one")["outputs"][0]["not_sent"] == {"too_long": 2}
    assert_conservation(stats)


@FAMILIES
def test_an_address_of_this_host_can_be_the_source(line: Line, tmp_path: Path, family: Any) -> None:
    given, group, port, _, _ = family
    other = "10.2.0.77" if family is V4 else "fd00:2::77"
    line.relay.ip(f"addr add {other}/{'24' if family is V4 else '64 nodad'} dev r1".replace("64 nodad", "64"))
    with (
        Daemon(line.relay, tmp_path, config(family, source=other)) as daemon,
        Listener(line.sink, place(group, "b0", port)) as listener,
        Outlet(line.source, given.format("a0")) as outlet,
    ):
        outlet.send(LAST)
        came = listener.take_until(LAST)
        stats = daemon.stats()

    assert [one.source for one in came] == [other]
    assert_conservation(stats)


@pytest.mark.alone
@pytest.mark.parametrize(
    ("rate", "expected_pps"), [("4kpps", 4000), ("8.512Mbit", 1000)], ids=["datagrams", "bits"]
)
def test_no_more_leaves_than_the_rate_limit_allows(
    line: Line, tmp_path: Path, rate: str, expected_pps: int
) -> None:
    """A payload of 1,036 bytes is an IP packet of 1,064 bytes, which are 8,512 bits."""
    duration_s = 1.0
    given, group, port, _, _ = V4
    with (
        Daemon(line.relay, tmp_path, config(V4, rate=rate)) as daemon,
        receiving(line.sink, place(group, "b0", port), duration=duration_s + 2) as receiver,
    ):
        sent = send(line.source, given.format("a0"), rate="10k", size=1036, duration=duration_s)
        got = receiver.stop()
        stats = daemon.stats()

    output = rule_stats(stats, "one")["outputs"][0]
    assert got["received"] == output["sent"]
    assert output["not_sent"] == {"rate": sent["sent"] - output["sent"]}
    assert got["received"] == pytest.approx(expected_pps * duration_s, rel=0.1)
    assert_conservation(stats)


def test_excluded_sources_are_not_relayed_and_all_others_are(line: Line, tmp_path: Path) -> None:
    line.source.ip("addr add 10.1.0.66/24 dev a0")
    rule = {"name": "one", "from": "!10.1.0.66@239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000"]}
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000") as listener,
        Outlet(line.source, "239.1.1.1%a0:5001", bind_to="10.1.0.66") as unwanted,
        Outlet(line.source, "239.1.1.1%a0:5001", bind_to="10.1.0.1") as wanted,
    ):
        unwanted.send(b"no", b"no")
        wanted.send(b"yes")
        unwanted.send(b"no")
        wanted.send(LAST)
        came = listener.take_until(LAST)
        stats = daemon.stats()

    assert payloads_of(came) == [b"yes", LAST]
    assert ignored(stats, "r0") == {"source": 3}
    assert_conservation(stats)
