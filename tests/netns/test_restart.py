"""A worker dies in the middle of traffic."""

import os
import signal
import sys
from pathlib import Path

import pytest

from mcr.config.schema import MAX_BATCH
from mcr.wire.documents import WorkerDocument
from tests.support.daemon import Daemon
from tests.support.lab import Line
from tests.support.laws import assert_all_arrived, assert_conservation, where_lost
from tests.support.stream import INPUT, OUTPUT, RULE, streaming
from tests.support.traffic import receiving, send
from tests.support.wait import wait_for

BATCH = MAX_BATCH  # datagrams that a worker may have in hand


def kill(daemon: Daemon, number: int) -> WorkerDocument:
    """Kill one worker without warning; give its successor once it has its share."""
    victim = daemon.workers()[number]["pid"]
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    wait_for("the death to be noticed", lambda: daemon.workers()[number]["pid"] != victim)
    return daemon.wait_until_installed()[number]


@pytest.mark.parametrize(
    ("steering", "rate", "size"),
    [("hash", "20k", 1000), ("cpu", "20k", 1000), ("hash", "3k", 3000)],
    ids=["hash", "cpu", "fragments"],
)
def test_a_killed_worker_loses_at_most_the_batch_in_its_hand(
    line: Line, tmp_path: Path, steering: str, rate: str, size: int
) -> None:
    """And of that only frames longer than one of the ring, whose copies cannot be taken twice."""
    with Daemon(line.relay, tmp_path, {"steering": steering, "rules": [RULE]}) as daemon:
        daemon.logs_errors = True
        victims = daemon.rules()[0]["workers"] * 2
        with streaming(line, daemon, rate=rate, size=size) as stream:
            for number in victims:
                kill(daemon, number)
                stream.wait_for_more(1000)
            outcome = stream.finish()

    evidence = where_lost(outcome.sent, outcome.got, outcome.stats)
    sys.stdout.write(f"{len(victims)} kills at {rate}pps:\n{evidence}\n")
    (interface,) = outcome.stats["interfaces"]
    truncated = interface["ignored"].get("truncated", 0)
    assert truncated <= len(victims) * BATCH, evidence
    assert outcome.got["lost"] <= truncated + interface["kernel_dropped"], evidence
    assert outcome.got["duplicated"] <= len(victims) * BATCH, evidence
    assert outcome.got["corrupted"] == 0, evidence
    assert outcome.sent["sent"] == outcome.got["distinct"] + outcome.got["lost"], evidence
    assert_conservation(outcome.stats)


def test_what_arrives_while_there_is_no_worker_is_relayed_by_its_successor(
    line: Line, tmp_path: Path
) -> None:
    """The worker has nothing in hand when it dies, so nothing may be lost or repeated."""
    with (
        Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon,
        receiving(line.sink, OUTPUT.format("b0"), count=5000, linger=0.2) as receiver,
    ):
        daemon.logs_errors = True
        (number,) = daemon.rules()[0]["workers"]
        victim = daemon.workers()[number]["pid"]
        assert victim is not None
        daemon.process.send_signal(signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        sent = send(line.source, INPUT.format("a0"), rate="20k", size=1000, count=5000)
        daemon.process.send_signal(signal.SIGCONT)
        got = receiver.report()
        successor = daemon.wait_until_installed()[number]
        stats = daemon.stats()

    assert successor["restarts"] == 1
    assert_all_arrived(sent, got, stats)


def test_the_death_of_workers_without_the_rule_does_not_matter_to_it(line: Line, tmp_path: Path) -> None:
    config = {"workers": 3, "steering": "hash", "rules": [RULE]}
    with Daemon(line.relay, tmp_path, config) as daemon:
        daemon.logs_errors = True
        (number,) = daemon.rules()[0]["workers"]
        with streaming(line, daemon, rate="20k", size=1000) as stream:
            for other in {0, 1, 2} - {number}:
                assert kill(daemon, other)["rules"] == 0
            outcome = stream.finish()

    assert_all_arrived(outcome.sent, outcome.got, outcome.stats)


def test_a_supervisor_that_hangs_stops_no_traffic(line: Line, tmp_path: Path) -> None:
    with (
        Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon,
        receiving(line.sink, OUTPUT.format("b0"), count=20_000, linger=0.1) as receiver,
    ):
        daemon.process.send_signal(signal.SIGSTOP)
        sent = send(line.source, INPUT.format("a0"), rate="20k", size=1000, count=20_000)
        got = receiver.report()
        daemon.process.send_signal(signal.SIGCONT)
        stats = daemon.stats()

    assert_all_arrived(sent, got, stats)
