"""Source-specific multicast: who may send to a group, judged by what the receivers got."""

from pathlib import Path

import pytest

from tests.support.daemon import Daemon, ignored, rule_stats
from tests.support.lab import Line
from tests.support.laws import assert_all_arrived, assert_conservation
from tests.support.traffic import receiving, send

GROUPS = {
    "v4": ("232.1.1.1%{}:5001", "239.2.2.{}%{}:6000", "10.1.0.9"),
    "v6": ("[ff3e::8000:101%{}]:5001", "[ff3e::8000:20{}%{}]:6000", "fd00:1::9"),
}


@pytest.fixture
def line(line: Line) -> Line:
    """Give the source a second address for each family."""
    line.source.ip("addr add 10.1.0.9/24 dev a0", "addr add fd00:1::9/64 dev a0 nodad")
    return line


@pytest.mark.parametrize("version", GROUPS)
def test_only_the_wanted_source_passes_and_others_are_counted(
    line: Line, tmp_path: Path, version: str
) -> None:
    group, output, wanted = GROUPS[version]
    unwanted = wanted.replace("9", "1")
    rule = {"name": "one", "from": f"{wanted}@{group.format('r0')}", "to": [output.format(2, "r1")]}
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        receiving(line.sink, output.format(2, "b0"), count=700, linger=0.1) as receiver,
    ):
        send(line.source, f"{unwanted}@{group.format('a0')}", rate="10k", size=100, count=300)
        sent = send(line.source, f"{wanted}@{group.format('a0')}", rate="10k", size=100, count=700)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
    assert ignored(stats, "r0") == {"source": 300}


@pytest.mark.parametrize("version", GROUPS)
def test_a_rule_for_a_source_goes_before_the_one_for_any(line: Line, tmp_path: Path, version: str) -> None:
    group, output, known = GROUPS[version]
    unknown = known.replace("9", "1")
    rules = [
        {"name": "any", "from": group.format("r0"), "to": [output.format(3, "r1")]},
        {"name": "known", "from": f"{known}@{group.format('r0')}", "to": [output.format(2, "r1")]},
    ]
    with (
        Daemon(line.relay, tmp_path, {"rules": rules}) as daemon,
        receiving(line.sink, output.format(2, "b0"), count=700, linger=0.1) as receiver,
        receiving(line.sink, output.format(3, "b0"), count=300, linger=0.1) as any_receiver,
    ):
        sent = send(line.source, f"{known}@{group.format('a0')}", rate="10k", size=100, count=700)
        any_sent = send(line.source, f"{unknown}@{group.format('a0')}", rate="10k", size=100, count=300)
        got, any_got = receiver.report(), any_receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
    assert_all_arrived(any_sent, any_got, stats)
    assert ignored(stats, "r0") == {}


def test_the_rest_of_a_group_is_ignored_again_once_the_rule_for_any_source_is_gone(
    line: Line, tmp_path: Path
) -> None:
    rules = [
        {"name": "any", "from": "232.1.1.1%r0:5001", "to": ["239.2.2.3%r1:6000"]},
        {"name": "known", "from": "10.1.0.9@232.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000"]},
    ]
    with (
        Daemon(line.relay, tmp_path, {"rules": rules}) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=100, linger=0.1) as receiver,
    ):
        daemon.ctl("rule", "del", "any")
        send(line.source, "10.1.0.1@232.1.1.1%a0:5001", rate="10k", size=100, count=50)
        send(line.source, "10.1.0.9@232.1.1.1%a0:5001", rate="10k", size=100, count=100)
        got = receiver.report()
        stats = daemon.stats()

    assert_conservation(stats)
    assert got["received"] == got["distinct"] == rule_stats(stats, "known")["matched"] == 100
    assert ignored(stats, "r0") == {"source": 50}
