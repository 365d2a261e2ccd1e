"""What can be asked about traffic: what matches no rule, single datagrams, how long they took."""

import json
import os
import random
import time
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

import pytest

from mcr.wire.counters import UNMATCHED_ENTRIES
from tests.support.daemon import Daemon, rule_stats
from tests.support.frames import Packet
from tests.support.lab import Line
from tests.support.laws import assert_all_arrived, assert_conservation
from tests.support.listener import Listener
from tests.support.traffic import Outlet, Tap, receiving, send
from tests.support.wait import wait_for

RULE = {"name": "one", "from": "239.1.1.1%r0:5001", "to": ["239.2.2.2%r1:6000"]}
LAST = b"the last one"


def ask(daemon: Daemon, *words: str) -> Any:
    return json.loads(daemon.ctl("--json", *words).stdout)


def test_what_matches_no_rule_is_listed_with_group_port_source_and_count(line: Line, tmp_path: Path) -> None:
    wanted = Packet("10.1.0.1", "239.1.1.1", 5001, LAST)
    stray = Packet("10.1.0.77", "239.1.1.1", 5002, b"wrong port")
    odd = Packet("fd00:1::7", "ff3e::8000:999", 7, b"wrong group")
    unicast = Packet("10.1.0.1", "10.1.0.2", 5001, b"not multicast")
    started_at = time.time()
    with (
        Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000") as listener,
        Tap(line.source, "a0") as tap,
    ):
        tap.send(*[stray.frame()] * 5, *[odd.frame()] * 3, unicast.frame(), wanted.frame())
        listener.take_until(LAST)
        wait_for("two destinations", lambda: len(daemon.call("unmatched.list")) == 2)
        listed = ask(daemon, "unmatched", "list")
        stats = daemon.stats()
        text = daemon.ctl("unmatched", "list").stdout

    seen = {(one["interface"], one["group"], one["port"], one["source"]): one["packets"] for one in listed}
    assert seen == {
        ("r0", "239.1.1.1", 5002, "10.1.0.77"): 5,
        ("r0", "ff3e::8000:999", 7, "fd00:1::7"): 3,
    }
    assert all(started_at <= one["last_seen"] <= time.time() for one in listed)
    assert "239.1.1.1%r0:5002" in text
    assert "[ff3e::8000:999%r0]:7" in text
    assert_conservation(stats)


def test_the_table_of_what_matches_no_rule_is_bounded(line: Line, tmp_path: Path) -> None:
    dice = random.Random(5)
    groups = [str(IPv4Address("239.2.0.0") + dice.randrange(1 << 20)) for _ in range(1000)]
    frames = [Packet("10.1.0.1", group, dice.randrange(1, 65536), b"x").frame() for group in groups]
    last = Packet("10.1.0.1", "239.1.1.9", 9, LAST)
    with (
        Daemon(line.relay, tmp_path, {"workers": 1, "rules": [RULE]}) as daemon,
        Tap(line.source, "a0") as tap,
        daemon.client() as client,
    ):

        def listed_after(packet: Packet) -> list[Any]:
            tap.send(packet.frame())
            found: list[Any] = []

            def look() -> bool:
                found[:] = cast("list[Any]", client.call("unmatched.list"))
                return any((one["group"], one["port"]) == (packet.destination, packet.port) for one in found)

            wait_for("the worker to have looked", look)
            return found

        for start in range(0, 1000, 100):
            tap.send(*frames[start : start + 100])
            listed_after(replace(last, port=10 + start))
        listed = listed_after(last)
        stats = daemon.stats()

    assert 100 < len(listed) <= UNMATCHED_ENTRIES
    assert_conservation(stats)


def test_without_watching_nothing_is_listed(line: Line, tmp_path: Path) -> None:
    with (
        Daemon(line.relay, tmp_path, {"watch_unmatched": False, "rules": [RULE]}) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000") as listener,
        Outlet(line.source, "239.9.9.9%a0:9") as stray,
        Outlet(line.source, "239.1.1.1%a0:5001") as outlet,
    ):
        stray.send(*[b"x"] * 10)
        outlet.send(LAST)
        listener.take_until(LAST)

        assert ask(daemon, "unmatched", "list") == []


def test_a_trace_shows_what_happened_to_every_nth_datagram(line: Line, tmp_path: Path) -> None:
    outputs = [
        "239.2.2.2%r1:6000",
        {"interface": "r1", "address": "239.2.2.3", "port": 6000, "ttl": "decrement"},
    ]
    started_at = time.time()
    with (
        Daemon(line.relay, tmp_path, {"rules": [{**RULE, "to": outputs}]}) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000") as listener,
        Outlet(line.source, "239.1.1.1%a0:5001", ttl=1) as outlet,
    ):
        outlet.send(b"before", b"before")
        daemon.ctl("trace", "on", "one", "--sample", "3", "--seconds", "60")
        outlet.send(*[b"seven b"] * 9, LAST)
        listener.take_until(LAST)
        port = outlet.socket.getsockname()[1]
        shown = ask(daemon, "trace", "show")
        daemon.ctl("trace", "off")
        outlet.send(b"after", b"after", LAST)
        listener.take_until(LAST)
        after = ask(daemon, "trace", "show")
        stats = daemon.stats()

    assert (shown["rule"], shown["active"], after["active"]) == ("one", True, False)
    entries = shown["entries"]
    assert after["entries"] == entries
    assert [one["bytes"] for one in entries if one["verdict"] == "sent"] == [7, 7, 7, len(LAST)]
    assert [one["verdict"] for one in entries].count("ttl") == 4
    assert {(one["to"], one["verdict"]) for one in entries} == {
        ("239.2.2.2%r1:6000", "sent"),
        ("239.2.2.3%r1:6000", "ttl"),
    }
    assert {(one["source"], one["ttl"]) for one in entries} == {(f"10.1.0.1:{port}", 1)}
    assert all(started_at <= one["time"] <= time.time() for one in entries)
    assert all(0 <= one["delay_us"] < 1e6 for one in entries)
    assert_conservation(stats)


def test_tracing_ends_by_itself_and_follow_ends_with_it(line: Line, tmp_path: Path) -> None:
    with (
        Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon,
        Listener(line.sink, "239.2.2.2%b0:6000") as listener,
        Outlet(line.source, "239.1.1.1%a0:5001") as outlet,
    ):
        daemon.ctl("trace", "on", "one", "--seconds", "1")
        outlet.send(b"traced", LAST)
        listener.take_until(LAST)
        followed = daemon.ctl("trace", "show", "--follow").stdout
        outlet.send(b"not traced", LAST)
        listener.take_until(LAST)
        shown = ask(daemon, "trace", "show")

    assert followed.count("sent") == 2
    assert [one["bytes"] for one in shown["entries"]] == [6, len(LAST)]
    assert not shown["active"]


@pytest.mark.alone
def test_latencies_are_plausible(line: Line, tmp_path: Path) -> None:
    with (
        Daemon(line.relay, tmp_path, {"rules": [RULE]}) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=5000, linger=0.1) as receiver,
    ):
        sent = send(line.source, "239.1.1.1%a0:5001", rate="5k", size=500, count=5000)
        got = receiver.report()
        (rule,) = ask(daemon, "stats", "--latency")["rules"]
        stats = daemon.stats()
        text = daemon.ctl("stats", "--latency").stdout

    times = rule["latency_us"]
    assert times["count"] == rule["matched"] == 5000
    assert 1 <= times["p50"] <= times["p99"] <= times["p999"] <= times["max"] < 1e6
    # From kernel to kernel it cannot have been much quicker than the relay says of itself.
    assert times["p50"] <= 2 * got["latency_us"]["p50"] + 20
    assert "P99 US" in text
    assert "latency_us" not in rule_stats(stats, "one")
    assert_all_arrived(sent, got, stats)


@pytest.mark.parametrize(
    ("wished", "policy"),
    [
        ({}, os.SCHED_FIFO),
        ({"realtime": False}, os.SCHED_OTHER),
        ({"busy_poll": True}, os.SCHED_OTHER),
    ],
)
def test_workers_are_realtime_unless_they_never_sleep(
    line: Line, tmp_path: Path, wished: dict[str, object], policy: int
) -> None:
    with Daemon(line.relay, tmp_path, {"workers": 2, "rules": [RULE], **wished}) as daemon:
        workers = daemon.wait_until_installed()
        policies = [os.sched_getscheduler(worker["pid"] or 0) for worker in workers]

    assert policies == [policy, policy]
    assert [worker["realtime"] for worker in workers] == [policy == os.SCHED_FIFO] * 2


@pytest.mark.alone
@pytest.mark.parametrize(("wished", "least", "most"), [({}, 100, 350), ({"coalesce_us": 777}, 777, 777)])
def test_a_worker_says_how_long_it_waits_for_more(
    line: Line, tmp_path: Path, wished: dict[str, object], least: int, most: int
) -> None:
    config = {"workers": 1, "rules": [RULE], **wished}
    with (
        Daemon(line.relay, tmp_path, config) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=40_000, linger=0.1) as receiver,
    ):
        (before,) = daemon.wait_until_installed()
        sent = send(line.source, "239.1.1.1%a0:5001", rate="40k", size=500, count=40_000)
        got = receiver.report()
        (after,) = daemon.workers()
        stats = daemon.stats()

    waits = [worker["coalesce_us"] or 0 for worker in (before, after)]
    assert least <= min(waits) <= max(waits) <= most
    assert_all_arrived(sent, got, stats)


@pytest.mark.alone
@pytest.mark.parametrize(
    "pace", [{"batch": 1}, {"coalesce_us": 0}, {"busy_poll": True}, {"coalesce_us": 1000, "ring_mib": 16}]
)
def test_every_pace_relays_without_loss(line: Line, tmp_path: Path, pace: dict[str, object]) -> None:
    config = {"workers": 1, "rules": [RULE], **pace}
    with (
        Daemon(line.relay, tmp_path, config) as daemon,
        receiving(line.sink, "239.2.2.2%b0:6000", count=40_000, linger=0.1) as receiver,
    ):
        sent = send(line.source, "239.1.1.1%a0:5001", rate="40k", size=500, count=40_000)
        got = receiver.report()
        stats = daemon.stats()
        if "ring_mib" in pace:
            assert daemon.interface("r0")["ring"]["bytes"] == 16 << 20

    assert_all_arrived(sent, got, stats)
