"""One output fails: its datagrams are counted by reason, and the others do not notice."""

from pathlib import Path

import pytest

from mcr.wire.documents import OutputStats, StatsDocument
from tests.support.daemon import Daemon, rule_stats
from tests.support.lab import Lab, Line
from tests.support.laws import assert_all_arrived
from tests.support.stream import RULE, streaming
from tests.support.traffic import receiving, send

COUNT = 10_000


def config(bad: str) -> dict[str, object]:
    return {"rules": [{**RULE, "to": [bad, *RULE["to"]]}]}


def bad_output(stats: StatsDocument) -> OutputStats:
    return rule_stats(stats, "stream")["outputs"][0]


def wait_until_failing(daemon: Daemon) -> StatsDocument:
    """Wait until the bad output has failed to send a good many datagrams."""
    return daemon.wait_for_stats(
        "the output to fail", lambda stats: sum(bad_output(stats)["not_sent"].values()) > 1000
    )


def wait_until_sending(daemon: Daemon, failing: StatsDocument) -> None:
    """Wait until the bad output has sent a good many datagrams more."""
    sent = bad_output(failing)["sent"]
    daemon.wait_for_stats("the output to work again", lambda stats: bad_output(stats)["sent"] > sent + 1000)


def test_an_output_without_a_route_is_failing_until_there_is_one(line: Line, tmp_path: Path) -> None:
    with (
        Daemon(line.relay, tmp_path, config("203.0.113.9:6000")) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=COUNT, linger=0.1) as receiver,
    ):
        failing = daemon.rules()[0]
        sent = send(line.source, "239.1.1.1%a0:5001", rate="20k", size=1000, count=COUNT)
        got = receiver.report()
        stats = daemon.stats()
        line.relay.ip("route add 203.0.113.0/24 via 10.2.0.2")
        daemon.wait_for_outputs("active")

    assert [output["state"] for output in failing["outputs"]] == ["failing", "active"]
    assert "unreachable" in (failing["outputs"][0]["reason"] or "")
    assert_all_arrived(sent, got, stats)
    assert bad_output(stats)["sent"] == 0
    assert bad_output(stats)["not_sent"] == {"no_socket": COUNT}


@pytest.mark.parametrize(
    ("route", "reason"), [("prohibit", "denied"), ("unreachable", "unreachable"), ("blackhole", "other")]
)
def test_an_output_that_the_routing_table_turns_away_harms_no_other(
    line: Line, tmp_path: Path, route: str, reason: str
) -> None:
    line.relay.ip("route add 203.0.113.0/24 via 10.2.0.2")
    with (
        Daemon(line.relay, tmp_path, config("203.0.113.9:6000")) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=COUNT, linger=0.1) as receiver,
    ):
        line.relay.ip(f"route add {route} 203.0.113.9/32")
        sent = send(line.source, "239.1.1.1%a0:5001", rate="20k", size=1000, count=COUNT)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
    assert bad_output(stats)["sent"] == 0
    assert bad_output(stats)["not_sent"].keys() == {reason, "backing_off"}


def test_an_output_to_a_host_that_does_not_answer_harms_no_other(line: Line, tmp_path: Path) -> None:
    # The kernel asks once and gives up after a tenth of a second.
    line.relay.set("ipv4/neigh/r1/mcast_solicit", "1")
    line.relay.set("ipv4/neigh/r1/retrans_time_ms", "100")
    with (
        Daemon(line.relay, tmp_path, config("10.2.0.77:6000")) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=COUNT, linger=0.1) as receiver,
    ):
        sent = send(line.source, "239.1.1.1%a0:5001", rate="20k", size=1000, count=COUNT)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
    assert bad_output(stats)["not_sent"]["unreachable"] > 0


def test_an_output_to_a_port_where_nobody_listens_harms_no_other(line: Line, tmp_path: Path) -> None:
    with (
        Daemon(line.relay, tmp_path, config("10.2.0.2:7")) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=COUNT, linger=0.1) as receiver,
    ):
        sent = send(line.source, "239.1.1.1%a0:5001", rate="20k", size=1000, count=COUNT)
        got = receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
    assert bad_output(stats)["not_sent"].keys() <= {"refused"}


def test_an_interface_that_goes_down_and_up_harms_only_its_own_output(lab: Lab, tmp_path: Path) -> None:
    line = lab.line(sinks=2)
    with (
        Daemon(line.relay, tmp_path, config("239.2.2.3%r2:6000")) as daemon,
        streaming(line, daemon, rate="20k", size=1000) as stream,
    ):
        line.relay.ip("link set r2 down")
        failing = wait_until_failing(daemon)
        line.relay.ip("link set r2 up")
        wait_until_sending(daemon, failing)
        outcome = stream.finish()

    assert_all_arrived(outcome.sent, outcome.got, outcome.stats)
    assert bad_output(outcome.stats)["not_sent"].keys() <= {"down", "unreachable", "backing_off"}


def test_an_interface_that_is_removed_and_made_again_harms_only_its_own_output(
    lab: Lab, tmp_path: Path
) -> None:
    line = lab.line(sinks=2)
    with (
        Daemon(line.relay, tmp_path, config("239.2.2.3%r2:6000")) as daemon,
        streaming(line, daemon, rate="20k", size=1000) as stream,
    ):
        line.relay.ip("link del r2")
        failing = wait_until_failing(daemon)
        rule = daemon.rules()[0]
        lab.cable(line.relay, "r2", line.sinks[1], "b1")
        wait_until_sending(daemon, failing)
        outcome = stream.finish()

    assert_all_arrived(outcome.sent, outcome.got, outcome.stats)
    assert [output["state"] for output in rule["outputs"]] == ["pending", "active"]
    assert rule["outputs"][0]["reason"] == "interface r2 does not exist"
    assert rule["state"] == "active"
