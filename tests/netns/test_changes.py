"""Rules come and go while others carry traffic."""

import json
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, rule_stats
from tests.support.lab import Lab, Line
from tests.support.laws import assert_all_arrived
from tests.support.stream import RULE, lossless_stream
from tests.support.traffic import receiving, send


@pytest.mark.alone
def test_rules_come_and_go_while_another_one_loses_nothing_at_50_kpps(line: Line, tmp_path: Path) -> None:
    with Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon, lossless_stream(line, daemon):
        for number in range(8):
            name, group = f"passing-{number}", f"239.3.{number}.1"
            daemon.ctl("rule", "add", name, "--from", f"{group}%r0:5001", "--to", "239.2.2.3%r1:6000")
            daemon.ctl("rule", "del", name)
        rules = json.loads(daemon.ctl("--json", "rule", "list").stdout)

    assert [rule["name"] for rule in rules] == ["stream"]


@pytest.mark.alone
def test_rules_for_other_ports_of_a_busy_group_come_and_go_without_loss(line: Line, tmp_path: Path) -> None:
    ports = range(5002, 5032)
    with (
        Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon,
        daemon.client() as client,
        lossless_stream(line, daemon),
    ):
        for port in ports:
            outputs = [{"to": f"239.2.2.2%r1:{port + 1000}"}]
            client.call("rule.add", **{"from": f"239.1.1.1%r0:{port}"}, name=f"p{port}", to=outputs)
        for port in ports:
            client.call("rule.del", rule=f"p{port}")


@pytest.mark.alone
def test_a_source_gets_a_rule_of_its_own_and_loses_it_again_without_loss(line: Line, tmp_path: Path) -> None:
    """The busy group is looked up by a rule for any source while one for the sender comes and goes."""
    add = ("rule", "add", "own", "--from", f"10.1.0.77@{RULE['from']}", "--to", "239.2.2.3%r1:6000")
    with Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon, lossless_stream(line, daemon):
        for _ in range(5):
            daemon.ctl(*add)
            daemon.ctl("rule", "del", "own")


@pytest.mark.alone
def test_addresses_of_the_output_interface_come_and_go_without_loss(line: Line, tmp_path: Path) -> None:
    """An output's socket is replaced when the addresses change that it may send from."""
    with Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon, lossless_stream(line, daemon) as stream:
        for number in range(20, 25):
            line.relay.ip(f"addr add 10.2.0.{number}/24 dev r1", f"addr add fd00:2::{number}/64 dev r1 nodad")
            stream.wait_for_more()
            line.relay.ip(f"addr del 10.2.0.{number}/24 dev r1", f"addr del fd00:2::{number}/64 dev r1")
            stream.wait_for_more()


def test_a_rule_carries_packets_as_soon_as_mcrctl_has_returned(line: Line, tmp_path: Path) -> None:
    with (
        Daemon(line.relay, tmp_path) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=1000, linger=0.1) as receiver,
    ):
        daemon.ctl("rule", "add", "one", "--from", "239.1.1.1%r0:5001", "--to", "239.2.2.2%r1:6000")
        sent = send(line.source, "239.1.1.1%a0:5001", rate="20k", size=500, count=1000)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)


def test_a_removed_rule_carries_nothing_and_a_new_one_in_its_place_counts_from_zero(
    line: Line, tmp_path: Path
) -> None:
    add = ("rule", "add", "one", "--from", "239.1.1.1%r0:5001", "--to", "239.2.2.2%r1:6000")
    with Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon:
        with receiving(line.sink, "239.2.2.2%b0:6000", count=300, linger=0.1) as receiver:
            send(line.source, "239.1.1.1%a0:5001", rate="20k", size=500, count=300)
            before = receiver.report()
        daemon.ctl("rule", "del", "stream")
        send(line.source, "239.1.1.1%a0:5001", rate="20k", size=500, count=300)
        daemon.ctl(*add)
        with receiving(line.sink, "239.2.2.2%b0:6000", count=200, linger=0.1) as receiver:
            sent = send(line.source, "239.1.1.1%a0:5001", rate="20k", size=500, count=200)
            got = receiver.report()
        stats = daemon.stats()

    assert before["received"] == 300
    assert_all_arrived(sent, got, stats)
    assert rule_stats(stats, "one")["matched"] == 200


def test_a_rule_for_an_interface_that_does_not_exist_waits_for_it(lab: Lab, tmp_path: Path) -> None:
    line = lab.line()
    late = lab.host("late")
    with Daemon(line.relay, tmp_path) as daemon:
        daemon.ctl("rule", "add", "one", "--from", "239.1.1.1%s0:5001", "--to", "239.2.2.2%r1:6000")
        (pending,) = daemon.rules()
        lab.cable(late, "a9", line.relay, "s0")
        (active,) = daemon.wait_for_rules("active")
        daemon.wait_until_open()
        with receiving(line.sink, "239.2.2.2%b0:6000", count=1000, linger=0.1) as receiver:
            sent = send(late, "239.1.1.1%a9:5001", rate="20k", size=500, count=1000)
            got = receiver.report()
        stats = daemon.stats()

    assert (pending["state"], pending["reason"]) == ("pending", "interface s0 does not exist")
    assert active["id"] == pending["id"]
    assert_all_arrived(sent, got, stats)


def test_a_rule_whose_only_output_interface_does_not_exist_waits_for_it(lab: Lab, tmp_path: Path) -> None:
    line = lab.line()
    late = lab.host("late")
    rule = {"name": "one", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r9:6000"]}
    with Daemon(line.relay, tmp_path, {"rules": [rule]}) as daemon:
        (pending,) = daemon.rules()
        lab.cable(line.relay, "r9", late, "b9")
        daemon.wait_for_rules("active")
        daemon.wait_until_open()
        with receiving(late, "239.2.2.2%b9:6000", count=1000, linger=0.1) as receiver:
            sent = send(line.source, "239.1.1.1%a0:5001", rate="20k", size=500, count=1000)
            got = receiver.report()
        stats = daemon.stats()

    assert (pending["state"], pending["reason"]) == ("pending", "interface r9 does not exist")
    assert_all_arrived(sent, got, stats)
