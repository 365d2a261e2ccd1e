"""A worker dies in the middle of traffic."""

import os
import signal
import sys
from pathlib import Path

from mcr.wire.documents import WorkerDocument
from tests.support.daemon import Daemon, rule_stats
from tests.support.lab import Line
from tests.support.laws import assert_all_arrived, assert_conservation, where_lost
from tests.support.traffic import receiving, send, sending
from tests.support.wait import wait_for

COUNT = 50_000
BATCH = 1_536  # datagrams that a worker may have in hand
RULE = {"name": "one", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000"]}


def kill(daemon: Daemon, number: int) -> WorkerDocument:
    """Kill one worker without warning; give its successor once it has its share."""
    victim = daemon.workers()[number]["pid"]
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    wait_for("the death to be noticed", lambda: daemon.workers()[number]["pid"] != victim)
    return daemon.wait_until_installed()[number]


def wait_for_traffic(daemon: Daemon) -> None:
    """Wait until some more datagrams have been relayed."""
    seen = rule_stats(daemon.stats(), "one")["matched"]
    daemon.wait_for_stats("traffic", lambda stats: rule_stats(stats, "one")["matched"] > seen + 2000)


def test_a_killed_worker_loses_at_most_the_batch_in_its_hand(line: Line, tmp_path: Path) -> None:
    with (
        Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=COUNT, idle=0.5, linger=0.2) as receiver,
        sending(line.source, "239.1.1.1%a0:5001", rate="20k", size=1000, count=COUNT) as sender,
    ):
        daemon.logs_errors = True
        (number,) = daemon.rules()[0]["workers"]
        for restarts in (1, 2):
            wait_for_traffic(daemon)
            assert kill(daemon, number)["restarts"] == restarts
        assert sender.is_running
        sent, got = sender.report(), receiver.report()
        stats = daemon.stats()

    sys.stdout.write(f"two kills at 20 kpps:\n{where_lost(sent, got, stats)}\n")
    assert got["lost"] <= 2 * BATCH, where_lost(sent, got, stats)
    assert got["duplicated"] <= 2 * BATCH, where_lost(sent, got, stats)
    assert sent["sent"] == got["distinct"] + got["lost"]
    assert_conservation(stats)


def test_what_arrives_while_there_is_no_worker_is_relayed_by_its_successor(
    line: Line, tmp_path: Path
) -> None:
    """The worker has nothing in hand when it dies, so nothing may be lost or repeated."""
    with (
        Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=5000, linger=0.2) as receiver,
    ):
        daemon.logs_errors = True
        (number,) = daemon.rules()[0]["workers"]
        victim = daemon.workers()[number]["pid"]
        assert victim is not None
        daemon.process.send_signal(signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        sent = send(line.source, "239.1.1.1%a0:5001", rate="20k", size=1000, count=5000)
        daemon.process.send_signal(signal.SIGCONT)
        got = receiver.report()
        successor = daemon.wait_until_installed()[number]
        stats = daemon.stats()

    assert successor["restarts"] == 1
    assert_all_arrived(sent, got, stats)


def test_workers_without_the_rule_do_not_matter_to_it(line: Line, tmp_path: Path) -> None:
    with (
        Daemon(line.relay, tmp_path, {"workers": 3, "steering": "hash", "rules": [RULE]}) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=COUNT, linger=0.1) as receiver,
        sending(line.source, "239.1.1.1%a0:5001", rate="20k", size=1000, count=COUNT) as sender,
    ):
        daemon.logs_errors = True
        (number,) = daemon.rules()[0]["workers"]
        daemon.wait_for_stats("traffic", lambda stats: rule_stats(stats, "one")["matched"] > 1000)
        for other in {0, 1, 2} - {number}:
            assert kill(daemon, other)["rules"] == 0
        assert sender.is_running
        sent, got = sender.report(), receiver.report()
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
