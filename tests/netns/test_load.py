"""More than a trickle."""

import os
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, rule_stats
from tests.support.lab import Line
from tests.support.laws import assert_all_arrived
from tests.support.traffic import receiving, send

COUNT = 200_000
CPU = min(os.sched_getaffinity(0))  # of the sender: frames from two CPUs could overtake each other

pytestmark = pytest.mark.alone


def test_200000_datagrams_of_1000_bytes_pass_at_100_kpps_without_loss(line: Line, tmp_path: Path) -> None:
    rule = {"name": "one", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000"]}
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=COUNT, linger=0.1) as receiver,
    ):
        sent = send(line.source, "239.1.1.1%a0:5001", rate="100k", size=1000, count=COUNT, cpu=CPU)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
    assert rule_stats(stats, "one")["bytes"] == COUNT * 1000
    assert got["reordered"] == 0


def test_64_flows_pass_at_50_kpps_without_loss(line: Line, tmp_path: Path) -> None:
    rules = [
        {"name": f"n{flow}", "from": f"239.1.1.{flow}%r0:5001", "to": [f"239.2.2.{flow}%r1:6000"]}
        for flow in range(1, 65)
    ]
    with (
        Daemon(line.relay, tmp_path, {"rules": rules}) as daemon,
        receiving(line.sink, "239.2.2.1%b0:6000", flows=64, count=COUNT // 2, linger=0.1) as receiver,
    ):
        common = {"flows": 64, "count": COUNT // 2, "cpu": CPU}
        sent = send(line.source, "239.1.1.1%a0:5001", **common, rate="50k", size=1000)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
    assert got["reordered"] == 0


def test_one_flow_is_copied_to_two_hundred_groups_without_loss(line: Line, tmp_path: Path) -> None:
    """More sockets than one message to a worker can carry."""
    outputs = [f"239.2.2.{number}%r1:6000" for number in range(1, 201)]
    rule = {"name": "one", "from": "239.1.1.1%r0:5001", "to": outputs}
    with (
        Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon,
        receiving(line.sink, "239.2.2.1%b0:6000", flows=200, count=200 * 500, linger=0.1) as receiver,
    ):
        sent = send(line.source, "239.1.1.1%a0:5001", rate="500", size=1000, count=500)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats, copies=200)
