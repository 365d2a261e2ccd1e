"""The host belongs to the groups of its rules, on the interfaces where they listen, and to no others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from mcr.model.endpoint import consecutive, parse_endpoint
from tests.support.daemon import Daemon, rule_stats
from tests.support.frames import SENDER_MAC, Packet
from tests.support.lab import Host, Lab, Line
from tests.support.laws import assert_all_arrived
from tests.support.traffic import Tap, receiving, send
from tests.support.wait import wait_for

# More than the 20 groups that net.ipv4.igmp_max_memberships grants one socket.
GROUPS_V4 = [str(one.address) for one in consecutive(parse_endpoint("239.1.1.1%r0:5001"), 50)]
GROUPS_V6 = [str(one.address) for one in consecutive(parse_endpoint("[ff3e::8000:101%r0]:5001"), 30)]
# More than the 10 sources of a group that net.ipv4.igmp_max_msf grants one socket.
SOURCES_V4 = [f"10.1.0.{number}" for number in range(100, 115)]
SOURCES_V6 = [f"fd00:1::{number}" for number in range(100, 115)]


def rules_for(groups: list[str]) -> Iterator[dict[str, object]]:
    for number, group in enumerate(groups):
        place = f"[{group}%r0]" if ":" in group else f"{group}%r0"
        yield {"name": f"g{number}", "from": f"{place}:5001", "to": ["239.2.2.2%r1:6000"]}


def groups_on(host: Host, device: str) -> set[str]:
    """Give the groups that a host belongs to on an interface, but those that every host belongs to."""
    groups = {*_groups_v4(host, device), *_groups_v6(host, device)}
    return {group for group in groups if not group.startswith(("224.0.0.", "ff01:", "ff02:"))}


def _groups_v4(host: Host, device: str) -> Iterator[str]:
    """
    Read /proc/net/igmp: a line for each interface, then an indented one for each of its groups.

    The groups stand there as numbers of this machine's byte order.
    """
    here = ""
    for line in host.read("igmp").splitlines()[1:]:
        words = line.split()
        if line[0].isdigit():
            here = words[1]
        elif here == device:
            yield str(ip_address(bytes.fromhex(words[0])[::-1]))


def _groups_v6(host: Host, device: str) -> Iterator[str]:
    """Read /proc/net/igmp6: interface and group stand in the second and third column."""
    for line in host.read("igmp6").splitlines():
        _, here, group, *_ = line.split()
        if here == device:
            yield str(ip_address(bytes.fromhex(group)))


def sources_on(host: Host, device: str, group: str) -> set[str]:
    """
    Read /proc/net/mcfilter and mcfilter6: the sources that a host wants on an interface.

    They show nothing of an interface whose latest group has no sources (net/ipv4/igmp.c, igmp_mcf_get_first).
    """
    name = "mcfilter6" if ":" in group else "mcfilter"
    found = set()
    for line in host.read(name).splitlines()[1:]:
        _, here, wanted_group, source, included, excluded = line.split()
        address = ip_address(bytes.fromhex(wanted_group.removeprefix("0x")))
        if here == device and str(address) == group and int(included) and not int(excluded):
            found.add(str(ip_address(bytes.fromhex(source.removeprefix("0x")))))
    return found


def test_more_groups_than_one_socket_may_join_are_joined_on_one_interface(line: Line, tmp_path: Path) -> None:
    groups = [*GROUPS_V4, *GROUPS_V6]
    with Daemon(line.relay, tmp_path, {"rules": [*rules_for(groups)]}) as daemon:
        joined, reported = groups_on(line.relay, "r0"), daemon.interface("r0")["memberships"]

    assert joined == {*groups}
    assert {*reported} == {f"{group}%r0" for group in groups}
    assert groups_on(line.relay, "r1") == set()
    assert groups_on(line.relay, "r0") == set()


def test_a_group_is_left_when_its_rule_goes_and_joined_again_when_it_comes(
    line: Line, tmp_path: Path
) -> None:
    groups = [*GROUPS_V4[:25], *GROUPS_V6[:25]]
    with Daemon(line.relay, tmp_path, {"rules": [*rules_for(groups)]}) as daemon:
        daemon.ctl("rule", "del", "g3")
        daemon.ctl("rule", "del", "g30")
        left = groups_on(line.relay, "r0")
        daemon.ctl("rule", "add", "again", "--from", f"{groups[3]}%r0:5001", "--to", "239.2.2.2%r1:6000")
        again = groups_on(line.relay, "r0")

    assert left == {*groups} - {groups[3], groups[30]}
    assert again == {*groups} - {groups[30]}


def test_two_rules_for_one_group_share_it_until_both_are_gone(line: Line, tmp_path: Path) -> None:
    rules = [
        {"name": name, "from": f"239.1.1.1%r0:{port}", "to": ["239.2.2.2%r1:6000"]}
        for name, port in (("one", 5001), ("other", 5002))
    ]
    with Daemon(line.relay, tmp_path, {"rules": rules}) as daemon:
        daemon.ctl("rule", "del", "one")
        shared = groups_on(line.relay, "r0")
        daemon.ctl("rule", "del", "other")
        left = groups_on(line.relay, "r0")

    assert shared == {"239.1.1.1"}
    assert left == set()


@pytest.mark.parametrize(
    ("group", "sources"), [("232.1.1.1", SOURCES_V4), ("ff3e::8000:101", SOURCES_V6)], ids=["v4", "v6"]
)
def test_fifteen_sources_of_one_group_are_asked_for_one_by_one(
    line: Line, tmp_path: Path, group: str, sources: list[str]
) -> None:
    source = {"interface": "r0", "address": group, "port": 5001, "sources": sources}
    rule = {"name": "one", "from": source, "to": ["239.2.2.2%r1:6000"]}
    with Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon:
        joined, wanted = groups_on(line.relay, "r0"), sources_on(line.relay, "r0", group)
        daemon.ctl("rule", "del", "one")
        left = groups_on(line.relay, "r0")

    assert joined == {group}
    assert wanted == {*sources}
    assert left == set()
    assert sources_on(line.relay, "r0", group) == set()


@contextmanager
def probing(line: Line, group: str) -> Iterator[Callable[[], bool]]:
    """Give a function that says whether a frame to the group reaches the relay's port."""
    probe = Packet("10.1.0.1" if "." in group else "fd00:1::1", group, 9, b"probe").frame()
    marker = b"\xff" * 6 + SENDER_MAC + b"\x88\xb5" + bytes(50)  # a broadcast goes everywhere
    with Tap(line.source, "a0") as source, Tap(line.relay, "r0") as relay:

        def reaches_relay() -> bool:
            source.send(probe, marker)
            return relay.take_until(marker).count(probe) == 1

        yield reaches_relay


@pytest.mark.parametrize(
    ("group", "source"),
    [
        ("239.1.1.1", "239.1.1.1%{}:5001"),
        ("ff3e::8000:101", "[ff3e::8000:101%{}]:5001"),
        ("232.1.1.1", "10.1.0.1@232.1.1.1%{}:5001"),
    ],
    ids=["v4", "v6", "ssm"],
)
def test_a_snooping_switch_lets_traffic_through_only_because_of_the_membership(
    lab: Lab, tmp_path: Path, group: str, source: str
) -> None:
    line = lab.switched_line()
    rule = ("one", "--from", source.format("r0"), "--to", "239.2.2.2%r1:6000")
    common = {"rate": "10k", "size": 100, "count": 1000}
    with (
        Daemon(line.relay, tmp_path) as daemon,
        probing(line, group) as reaches_relay,
        receiving(line.sink, "239.2.2.2%b0:6000", count=1000, linger=0.1) as receiver,
    ):
        wait_for("the switch to filter", lambda: not reaches_relay())
        daemon.ctl("rule", "add", *rule)
        wait_for("the switch to have heard the report", reaches_relay)
        sent = send(line.source, source.format("a0"), **common)
        got = receiver.report()
        stats = daemon.stats()
        daemon.ctl("rule", "del", "one")
        wait_for("the switch to have heard that nobody listens", lambda: not reaches_relay())

    assert_all_arrived(sent, got, stats)
    assert rule_stats(stats, "one")["matched"] == 1000
