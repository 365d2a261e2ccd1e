"""The end of the daemon leaves nothing behind, whenever it comes."""

import signal
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, descendants, is_running, rule_stats
from tests.support.lab import Host, Line
from tests.support.traffic import sending
from tests.support.wait import wait_for

RULES = [
    {"name": "v4", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000", "10.2.0.2:6000"]},
    {"name": "v6", "from": "[ff3e::8000:101%r0]:5001", "to": ["[ff3e::8000:202%r1]:6000"]},
    {"name": "ssm", "from": "10.1.0.1@232.1.1.1%r0:5001", "to": ["239.2.2.3%r1:6000"]},
    {"name": "ssm6", "from": "fd00:1::1@[ff3e::8000:103%r0]:5001", "to": ["239.2.2.5%r1:6000"]},
    {"name": "host", "from": "10.1.0.2%r0:5002", "to": ["239.2.2.4%r1:6000"]},
]
FILES = ("igmp", "igmp6", "udp", "udp6", "packet")
FILTERS = ("mcfilter", "mcfilter6")


def traces(host: Host) -> dict[str, list[str]]:
    """Give what /proc/net shows of memberships and sockets, without counters and timers."""
    return {name: [line[:60] for line in host.read(name).splitlines()] for name in (*FILES, *FILTERS)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_traffic_leaves_no_process_socket_or_membership(
    line: Line, tmp_path: Path, number: signal.Signals
) -> None:
    before = traces(line.relay)
    with (
        Daemon(line.relay, tmp_path, {"rules": RULES}) as daemon,
        sending(line.source, "239.1.1.1%a0:5001", rate="20k", size=500, count="1M") as sender,
    ):
        daemon.wait_for_stats("traffic", lambda stats: rule_stats(stats, "v4")["matched"] > 1000)
        during = traces(line.relay)
        daemon.stop(number)
        still_sending = sender.is_running

    assert still_sending
    assert [name for name in FILES if during[name] == before[name]] == []
    wait_for("the traces to be gone", lambda: traces(line.relay) == before)


@pytest.mark.parametrize("moment", ["control socket", "first worker"])
def test_a_signal_during_the_start_leaves_nothing_either(line: Line, tmp_path: Path, moment: str) -> None:
    before = traces(line.relay)
    daemon = Daemon(line.relay, tmp_path, {"rules": RULES})
    daemon.start()
    if moment == "control socket":
        wait_for(moment, daemon.control.exists)
    else:
        wait_for(moment, lambda: descendants(daemon.pid))
    daemon.stop()

    wait_for("the traces to be gone", lambda: traces(line.relay) == before)


def test_a_daemon_that_was_killed_is_followed_by_one_that_starts_anyway(line: Line, tmp_path: Path) -> None:
    with Daemon(line.relay, tmp_path, {"rules": RULES}) as killed:
        workers = descendants(killed.pid)
        killed.process.kill()
        killed.process.wait()
        wait_for("its workers to end too", lambda: not any(map(is_running, workers)))
        assert killed.control.exists()

        with Daemon(line.relay, tmp_path, {"rules": RULES}) as successor:
            rules = successor.rules()

    assert [rule["state"] for rule in rules] == ["active"] * len(RULES)
